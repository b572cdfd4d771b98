"""Adversarial losses, one module each, found by name: ``loss: wgan-gp`` is `losses/wgan_gp.py`.

Such a module has two functions of the logits of paired real and fake images, both N float tensors:
``discriminator_loss(real, fake)`` and ``generator_loss(real, fake)``; each returns a scalar. Two constants say what
else belongs to it, so that a loss works by its name alone: ``PENALTY``, the regularization of its discriminator (one of
`ganaug.config.PENALTIES`; ``penalty: auto`` takes it), and ``CRITIC_STEPS``, the steps of the discriminator for each
one of the generator.
"""
