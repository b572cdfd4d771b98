"""The Wasserstein loss with a gradient penalty in place of clipped weights.

Source: Gulrajani et al., "Improved training of Wasserstein GANs" (2017), equation 3 and algorithm 1: weight 10
(`gp_weight`), five steps of the critic for each one of the generator.
"""

from __future__ import annotations

from ganaug.training.losses.wgan_clip import discriminator_loss, generator_loss

__all__ = ["CRITIC_STEPS", "PENALTY", "discriminator_loss", "generator_loss"]

PENALTY = "gradient-penalty"
CRITIC_STEPS = 5
