"""Sampling: a model file to images, a bank of them, or a folder of files."""

from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.latent_tools import Projection, interpolate, mix_styles, project
from ganaug.sampling.sampler import Sampler, load

__all__ = ["Projection", "Sampler", "SyntheticBank", "interpolate", "load", "mix_styles", "project"]
