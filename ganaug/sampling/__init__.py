"""Sampling: a model file to images, a bank of them, or a folder of files."""

from ganaug.sampling.bank import SyntheticBank
from ganaug.sampling.sampler import Sampler, load

__all__ = ["Sampler", "SyntheticBank", "load"]
