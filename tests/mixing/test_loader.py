"""The same items whatever loads them: workers, start methods, ranks."""

import pickle
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

from ganaug.mixing import SyntheticMixDataset
from ganaug.sampling.bank import SyntheticBank
from tests.sampling.fake_sampler import FakeSampler, read_back

LABELS = [0] * 10 + [1] * 3 + [2] * 7
EPOCHS = (0, 1, 3)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SyntheticMixDataset:
    bank = SyntheticBank.generate(FakeSampler(), tmp_path_factory.mktemp("bank"), per_class=30)
    images = torch.arange(100, 120, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 4, 6)
    real = TensorDataset(images, torch.tensor(LABELS))
    return SyntheticMixDataset(real, bank, sampling_strategy=dict.fromkeys("abc", 20), schedule=(1, 5), seed=7)


def epochs_of(mixed: SyntheticMixDataset, workers: int, persistent: bool, context: str | None) -> list[torch.Tensor]:
    """The images of several epochs, shuffled alike."""
    loader = DataLoader(
        mixed,
        batch_size=7,
        sampler=RandomSampler(mixed, generator=torch.Generator().manual_seed(0)),
        num_workers=workers,
        persistent_workers=persistent,
        multiprocessing_context=context,
    )
    epochs = []
    for epoch in EPOCHS:
        mixed.set_epoch(epoch)
        epochs.append(torch.cat([images for images, _ in loader]))
    return epochs


def check_same_items(mixed: SyntheticMixDataset, workers: int, persistent: bool, context: str | None) -> None:
    alone = epochs_of(mixed, 0, False, None)
    several = epochs_of(mixed, workers, persistent, context)
    for a, b in zip(alone, several, strict=True):
        assert torch.equal(a, b)
        drawn = [read_back(image.numpy()) for image in b if image[0, 0, 0] < 100]
        assert len(set(drawn)) == len(drawn)
    assert len({epoch.numpy().tobytes() for epoch in alone}) == len(EPOCHS)
    assert [int((epoch[:, 0, 0, 0] < 100).sum()) for epoch in alone] == [40, 40, 21]


@pytest.mark.parametrize(("persistent", "context"), [(False, "fork"), (True, "fork"), (True, "spawn")])
def test_workers_show_the_items_of_the_main_process_and_follow_set_epoch(
    mixed: SyntheticMixDataset, persistent: bool, context: str
) -> None:
    check_same_items(mixed, 2, persistent, context)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "persistent", "context"), list(product((2, 4), (False, True), ("fork", "spawn"))))
def test_items_depend_on_no_setting_of_the_loader(
    mixed: SyntheticMixDataset, workers: int, persistent: bool, context: str
) -> None:
    check_same_items(mixed, workers, persistent, context)


@pytest.mark.parametrize("shuffle", [False, True])
def test_two_ranks_see_disjoint_halves(mixed: SyntheticMixDataset, shuffle: bool) -> None:
    data = pickle.dumps(mixed)
    halves = []
    for rank in (0, 1):
        own = pickle.loads(data)  # each rank is a process with a copy of its own
        sampler = DistributedSampler(own, num_replicas=2, rank=rank, shuffle=shuffle)
        sampler.set_epoch(1)
        own.set_epoch(1)
        loader = DataLoader(own, batch_size=5, sampler=sampler)
        images = torch.cat([images for images, _ in loader]).numpy()
        halves.append({read_back(image) if image[0, 0, 0] < 100 else int(image[0, 0, 0]) for image in images})
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == len(mixed) == 60
    assert len(halves[0]) == len(halves[1]) == 30


def test_pickle_carries_neither_images_nor_the_generator(tmp_path: Path) -> None:
    bank = SyntheticBank.generate(FakeSampler(shape=(1, 16, 16)), tmp_path / "bank", per_class=200)
    real = TensorDataset(torch.zeros(6, 1, 16, 16, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 2]))
    mixed = SyntheticMixDataset(real, bank, sampling_strategy=dict.fromkeys("abc", 150))
    before = [mixed[i][0] for i in range(len(mixed))]
    assert mixed.targets.nbytes > 3_000
    assert mixed.is_synthetic.sum() == 444
    assert bank.images.nbytes > 150_000
    data = pickle.dumps(mixed)
    assert len(data) < 6_000
    assert b"FakeSampler" not in data
    again = pickle.loads(data)
    assert all(torch.equal(again[i][0], image) for i, image in enumerate(before))


def test_a_copy_through_a_file_still_leads_its_workers_through_the_epochs(mixed: SyntheticMixDataset) -> None:
    mixed.set_epoch(0)
    copy = pickle.loads(pickle.dumps(mixed))
    mixed.set_epoch(4)
    assert copy.is_synthetic.sum() == 40, "a copy has an epoch of its own"
    loader = DataLoader(copy, batch_size=60, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    shown = []
    for epoch in (0, 3):
        copy.set_epoch(epoch)
        shown.append(np.sum([int((images[:, 0, 0, 0] < 100).sum()) for images, _ in loader]))
    assert shown == [40, 21]
