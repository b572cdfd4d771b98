"""Synthetic images into the user's own training: a Dataset wrapper and a batch transform."""

from ganaug.mixing.batch import SyntheticMix
from ganaug.mixing.dataset import SyntheticMixDataset
from ganaug.mixing.strategy import resolve_sampling_strategy

__all__ = ["SyntheticMix", "SyntheticMixDataset", "resolve_sampling_strategy"]
