"""The GANs, one module each, found by name: ``model: conditional`` is `gans/conditional.py`, with a class `GAN`.

What the loop asks of a `GAN`: ``step(images, labels, step, progress) -> dict of scalar tensors``, ``sample(labels, latents)``
from the averaged weights, ``tensors() / load_tensors()`` for checkpoints, ``networks()`` for the model file.
"""
