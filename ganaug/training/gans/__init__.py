"""The GANs, one module each, found by name: ``model: conditional`` is `gans/conditional.py`, with a class `GAN`.

What the loop asks of a `GAN` is `ganaug.training.loop.TrainableGAN`.
"""
