"""Adversarial losses, one module each, found by name: ``loss: relativistic`` is `losses/relativistic.py`.

Such a module has two functions of the logits of paired real and fake images, both N float tensors:
``discriminator_loss(real, fake)`` and ``generator_loss(real, fake)``; each returns a scalar.
"""
