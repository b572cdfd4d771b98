"""The batch that fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ganaug.distributed import of_any, world_size
from ganaug.errors import ConfigError, GanaugError
from ganaug.models.device import choose_device, is_out_of_memory
from ganaug.training.plan import Plan
from ganaug.training.probe import has_room, images_per_second


def with_fitting_batch(plan: Plan) -> Plan:
    """Return the plan with its own batch, or the half, a quarter … of it that fits into memory.

    Raises:
        ConfigError: the smallest batch does not fit either.
    """
    found = largest_batch(plan)
    if found is None:
        raise ConfigError(f"{_wanted(plan)} Not even the smallest batch does. {_NARROWER}")
    reason = f"Batch {found}: of the recipe's {plan.config.batch}, what fits into the memory of {_place(plan)}."
    if found == plan.config.batch:
        reason = f"Batch {found}: the recipe's, which fits into the memory of {_place(plan)}."
    return replace(plan, config=replace(plan.config, batch=found), reasons=(*plan.reasons, reason))


def largest_batch(
    plan: Plan, *, fits: Callable[[Plan], bool] | None = None, room: Callable[[], bool] | None = None
) -> int | None:
    """Return the largest of the plan's batch, its half, its quarter … whose training steps fit into memory.

    The smallest is tried first, and a larger one only while twice the memory is there: a GPU says when it has no more,
    but a computer stops the process, or others. None if even the smallest does not fit.

    Args:
        plan: what is to be trained.
        fits: takes steps of a plan; returns whether memory sufficed.
        room: whether twice the memory of the largest steps so far would suffice.
    """
    fits = fits or _fits
    room = room or partial(has_room, choose_device(plan.config.device))
    found = None
    # Each process has as many images of every domain as any other.
    parts = world_size() * (len(plan.domains.names) if plan.domains is not None else 1)
    for batch in _halves(plan.config.batch, parts):
        if not fits(replace(plan, config=replace(plan.config, batch=batch))):
            break
        found = batch
        if not room():
            break
    return found


def out_of_memory(plan: Plan) -> GanaugError:
    """Return the error of a training that ran out of memory, which names a batch that fits, if one does.

    Only call it when the networks of the training are freed.
    """
    # Of several processes the others may be in the middle of a step.
    found = largest_batch(plan) if world_size() == 1 else None
    if found is None or found == plan.config.batch:
        advice = f"Try --batch auto, which looks for one that does. {_NARROWER}"
    else:
        advice = f"Of its halves --batch {found} is the largest that does: start anew with it and --overwrite."
    return GanaugError(f"{_wanted(plan)} {advice} The last checkpoint, if there is one, is kept.")


_NARROWER = "Else take a smaller --size or narrower networks (--set widths=…)."


def _halves(batch: int, parts: int) -> list[int]:
    """Return the batch, its half and so on, smallest first, in equal parts; 2 images at least for each process."""
    found = [batch]
    while found[-1] % 2 == 0 and found[-1] // 2 >= 2 * world_size() and found[-1] // 2 % parts == 0:
        found.append(found[-1] // 2)
    return found[::-1]


def _fits(plan: Plan) -> bool:
    """Take a few training steps in every process."""
    short = False
    try:
        images_per_second(plan)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        short = True
    if short and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return not of_any(short)


def _wanted(plan: Plan) -> str:
    size = "x".join(map(str, plan.size))
    kind = "volumes" if len(plan.size) == 3 else "images"
    return f"A batch of {plan.config.batch} {kind} of {size} does not fit into the memory of {_place(plan)}."


def _place(plan: Plan) -> str:
    device = choose_device(plan.config.device)
    if device.type != "cuda":
        return "this computer"
    return f"{device} ({torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB)"
