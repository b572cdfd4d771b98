"""Sampling: a model file to images, a bank of them, or a folder of files; translation of real ones."""

from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.latent_tools import Projection, interpolate, mix_styles, project
from ganaug.sampling.sampler import Sampler, load
from ganaug.sampling.translator import Translator

__all__ = ["Projection", "Sampler", "SyntheticBank", "Translator", "interpolate", "load", "mix_styles", "project"]
