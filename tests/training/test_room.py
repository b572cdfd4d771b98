"""The batch that fits into memory, and what a training says that ran out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganaug.errors import ConfigError, GanaugError
from ganaug.models.device import is_out_of_memory
from ganaug.training import room
from ganaug.training.fit import fit, plan_for
from ganaug.training.gans.conditional import GAN
from ganaug.training.plan import Plan
from ganaug.training.room import largest_batch, with_fitting_batch
from tests.tiny import SETTINGS

SHORT: dict[str, Any] = {**SETTINGS, "size": (8, 8), "widths": (8,), "kimg": 0.064, "threads": 1, "monitor": False}
WITHOUT_BATCH = {key: value for key, value in SHORT.items() if key not in ("recipe", "batch")}
RECIPES = 16
"""The batch of the recipe."""


@pytest.fixture(scope="module")
def plan(shapes: Path) -> Plan:
    return plan_for(shapes, "smoke", {**WITHOUT_BATCH, "batch": 24})[0]


def _holds(most: int, tried: list[int] | None = None) -> Callable[[Plan], bool]:
    def fits(plan: Plan) -> bool:
        if tried is not None:
            tried.append(plan.config.batch)
        return plan.config.batch <= most

    return fits


@pytest.mark.parametrize(("most", "found"), [(100, 24), (24, 24), (23, 12), (6, 6), (3, 3), (2, None)])
def test_a_batch_is_halved_until_it_fits(plan: Plan, most: int, found: int | None) -> None:
    assert largest_batch(plan, fits=_holds(most), room=lambda: True) == found


def test_the_smallest_batch_is_tried_first_and_none_beyond_the_first_that_does_not_fit(plan: Plan) -> None:
    tried: list[int] = []
    largest_batch(plan, fits=_holds(6, tried), room=lambda: True)
    assert tried == [3, 6, 12]


def test_no_larger_batch_is_tried_without_room_for_twice_the_memory(plan: Plan) -> None:
    tried: list[int] = []
    assert largest_batch(plan, fits=_holds(100, tried), room=lambda: len(tried) < 2) == 6
    assert tried == [3, 6]


def test_of_several_processes_each_gets_an_equal_part(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "world_size", lambda: 4)
    tried: list[int] = []
    assert largest_batch(plan, fits=_holds(8, tried), room=lambda: True) is None
    assert tried == [12]  # 6 images are not shared evenly, and 24 were not reached


def test_a_translation_keeps_as_many_images_of_each_domain(shapes: Path) -> None:
    asked = {"model": "cyclegan", "rule": "class", "domains": ("disk", "ring"), "size": (8, 8), "threads": 1}
    plan, _ = plan_for(shapes, "translate64", {**asked, "batch": 20})
    tried: list[int] = []
    assert largest_batch(plan, fits=_holds(100, tried), room=lambda: True) == 20
    assert tried == [10, 20]  # of 5 images the domains would not have equal numbers


def _memory_for(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the memory hold steps of so many images, as a GPU does."""
    original = GAN.step

    def step(gan: GAN, images: torch.Tensor, *rest: Any) -> Any:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return original(gan, images, *rest)

    monkeypatch.setattr(GAN, "step", step)
    monkeypatch.setattr(room, "has_room", lambda _device: True)


def test_batch_auto_trains_with_the_batch_that_fits_and_says_so(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _memory_for(4, monkeypatch)
    run = fit(shapes, tmp_path / "run", **{**SHORT, "batch": "auto"})
    assert run.config().batch == 4
    assert any(f"Batch 4: of the recipe's {RECIPES}" in reason for reason in run.config_file()["reasons"])
    assert fit(shapes, tmp_path / "run", resume=True, batch="auto").config().batch == 4


def test_batch_auto_takes_the_recipes_own_where_it_fits(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _memory_for(64, monkeypatch)
    planned, _ = plan_for(shapes, "smoke", {**WITHOUT_BATCH, "batch": "auto"})
    assert planned.config.batch == RECIPES
    assert any(reason.startswith(f"Batch {RECIPES}: the recipe's, which fits") for reason in planned.reasons)


def test_where_not_even_the_smallest_batch_fits_the_error_says_what_else_to_change(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    _memory_for(1, monkeypatch)
    with pytest.raises(ConfigError, match=r"A batch of 24 images of 8x8 does not fit.*smaller --size"):
        with_fitting_batch(plan)


def test_a_training_that_runs_out_of_memory_names_the_batch_that_fits(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _memory_for(4, monkeypatch)
    with pytest.raises(GanaugError, match=r"batch of 8 images of 8x8 does not fit.*--batch 4 is the largest") as caught:
        fit(shapes, tmp_path / "run", **SHORT)
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert fit(shapes, tmp_path / "run", **{**SHORT, "batch": 4}, overwrite=True).metrics()


def test_another_error_of_a_step_is_not_taken_for_a_lack_of_memory(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_args: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(GAN, "step", step)
    with pytest.raises(RuntimeError, match="mat1"):
        fit(shapes, tmp_path / "run", **SHORT)


@pytest.mark.parametrize(
    ("problem", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 12 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_a_lack_of_memory_is(problem: Exception, memory: bool) -> None:
    assert is_out_of_memory(problem) is memory
