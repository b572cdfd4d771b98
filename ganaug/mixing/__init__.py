"""Synthetic images into the user's own training: a Dataset wrapper and batch transforms."""

from ganaug.mixing.batch import SyntheticMix
from ganaug.mixing.dataset import SyntheticMixDataset
from ganaug.mixing.strategy import resolve_sampling_strategy
from ganaug.mixing.translate import TranslateMix, Translator

__all__ = ["SyntheticMix", "SyntheticMixDataset", "TranslateMix", "Translator", "resolve_sampling_strategy"]
