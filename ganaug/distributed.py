"""The one place that knows about ranks. A single process is rank 0 of 1.

Several processes are started by ``torchrun --nproc-per-node N -m ganaug fit …``. They do not wrap their networks: after
the backward passes the gradients are summed in one flat vector, which is also right for the gradient of a gradient.
``sample`` and ``translate`` share their images among the processes of a `Team`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ganaug.errors import GanaugError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

_LOST = ("closed by peer", "connection reset", "broken pipe", "timed out", "remote process exited", "gloo connect")
"""What messages of gloo and NCCL say when another process is gone."""


_LONGEST = datetime.timedelta(hours=12)
"""How long a process waits for the others, such as for rank 0 to read a large folder; one that ended is noticed at
once."""


class ProcessesError(GanaugError):
    """The processes of one command do not agree, or one of them is gone."""


class ElsewhereError(ProcessesError):
    """Another process of the team failed, and says itself why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def rank() -> int:
    """Return this process's rank, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes files and talks to the user."""
    return rank() == 0


def local_rank() -> int:
    """Return this process's number on its machine, which is also that of its GPU; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def was_restarted() -> bool:
    """Return whether torchrun has started the processes anew, after one of them had ended (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def processes() -> Iterator[None]:
    """Connect the processes that torchrun started for as long as this lasts (one process has nothing to connect).

    Raises:
        ProcessesError: another process ended, so that this one cannot go on.
    """
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        store, _, _ = next(distributed.rendezvous("env://"))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=distributed.PrefixStore(_meet(store), store),
            rank=rank(),
            world_size=world_size(),
            timeout=_LONGEST,
        )
        yield
    except RuntimeError as problem:
        text = str(problem).casefold()
        if not isinstance(problem, distributed.DistError) and not any(words in text for words in _LOST):
            raise
        raise ProcessesError(
            f"Process {rank()} of {world_size()} lost the connection to the others: one of them ended. What it said is "
            "above, or in its own log. Under 'torchrun --max-restarts N' all of them start again by themselves; "
            "otherwise give the same command again, with --resume if it is a 'fit'."
        ) from problem
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _meet(store: Store) -> str:
    """Return a name that only the processes of this start know.

    After a restart torchrun's store still holds the addresses of the processes before, and who reads them first waits
    for the dead; nor is the number of restarts the same on all machines. So rank 0 thinks of a name, each process
    answers to it with a word of its own, and believes the name when rank 0 has repeated that word.
    """
    if is_main():
        name = uuid.uuid4().hex
        store.set("ganaug/name", name)
        for other in range(1, world_size()):
            word = store.get(f"ganaug/{name}/{other}").decode()
            store.set(f"ganaug/{name}/{word}", "")
        return name
    word, name = uuid.uuid4().hex, ""
    while not name or not store.check([f"ganaug/{name}/{word}"]):
        name = store.get("ganaug/name").decode()
        store.set(f"ganaug/{name}/{rank()}", word)
        time.sleep(0.02)
    return name


@contextmanager
def main_first() -> Iterator[None]:
    """Let the first process of each machine do the work inside first, and then the others, who find what it kept."""
    if local_rank():
        wait()
    yield
    if not local_rank():
        wait()


def wait() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


def from_main(text: str) -> str:
    """Return rank 0's text in every process."""
    if world_size() == 1:
        return text
    import torch
    from torch import distributed

    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    length = torch.tensor([len(data)])
    distributed.broadcast(length, 0)
    if not is_main():
        data = torch.zeros(int(length), dtype=torch.uint8)
    distributed.broadcast(data, 0)
    return bytes(data.numpy()).decode()


def texts_of_all(text: str) -> list[str]:
    """Return the texts of all processes, in the order of their ranks."""
    if world_size() == 1:
        return [text]
    import torch

    data = torch.tensor([list(text.encode())], dtype=torch.uint8)
    lengths = from_all(torch.tensor([data.shape[1]])).tolist()
    padded = torch.zeros(1, max(1, *lengths), dtype=torch.uint8)
    padded[:, : data.shape[1]] = data
    return [bytes(row[:length].numpy()).decode() for row, length in zip(from_all(padded), lengths, strict=True)]


def of_main(number: float) -> float:
    """Return rank 0's number in every process."""
    if world_size() == 1:
        return number
    import torch
    from torch import distributed

    value = torch.tensor(number, dtype=torch.float64)
    distributed.broadcast(value, 0)
    return float(value)


def require_same(digest: str, what: str) -> None:
    """Check that every process has the same `digest`, see `digest_of`; all of them have to call this.

    Args:
        what: what the digest is of, as it stands in the message, such as 'the weights after step 400'.

    Raises:
        ProcessesError: in every process; the message names the ranks that differ from rank 0.
    """
    digests = texts_of_all(digest)
    different = [str(number) for number, found in enumerate(digests) if found != digests[0]]
    if different:
        ranks = f"rank {different[0]}" if len(different) == 1 else f"ranks {', '.join(different)}"
        raise ProcessesError(
            f"{what[:1].upper()}{what[1:]} of {ranks} differ from rank 0's (of {world_size()} processes). A machine or "
            "a GPU computes wrongly, or the machines have other versions of PyTorch. The last checkpoint is from "
            "before this: take the same software on all machines, leave out that rank's, and go on with --resume."
        )


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of named tensors: their names, types, shapes and values, whatever device they are on."""
    import torch

    whole = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Replace the values of each tensor by those of rank 0, in place; shapes and types are the same everywhere."""
    if world_size() == 1:
        return
    import torch
    from torch import distributed

    for tensor in tensors:
        # A copy in plain order: convolution weights lie channels-last in memory.
        values = tensor.detach().contiguous().clone(memory_format=torch.contiguous_format)
        distributed.broadcast(values, 0)
        tensor.detach().copy_(values)


def of_any(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    if world_size() == 1:
        return flag
    import torch
    from torch import distributed

    value = torch.tensor(float(flag))
    distributed.all_reduce(value)
    return bool(value)


def from_all(tensor: Tensor) -> Tensor:
    """Return the rows of all processes (equally many of each, N×…), in the order of their ranks."""
    if world_size() == 1:
        return tensor
    import torch
    from torch import distributed

    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each float tensor by its sum over all processes, in one transfer; nothing to do for one process."""
    if world_size() == 1:
        return
    import torch
    from torch import distributed

    # At least float32, and not less than what is given.
    flat = torch.cat([tensor.reshape(-1).to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


@dataclass(frozen=True)
class Team:
    """Processes that share the images of one command; by default one alone, also in a training script under torchrun.

    All of them run the same lines. Where they wait for each other, in `tell`, they also learn whether one has failed.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """Return this process's part of the rows 0 to `count` - 1: ranges side by side, in the order of the ranks."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def tell(self, text: str = "", problem: Exception | None = None) -> list[str]:
        """Wait for all processes and return their texts, in the order of the ranks.

        Args:
            problem: why this process cannot go on.

        Raises:
            ElsewhereError: another process cannot go on, in front of this one where both cannot.
        """
        if self.size == 1:
            return [text]
        failed = None if problem is None else [str(problem) or type(problem).__name__, getattr(problem, "exit_code", 1)]
        told = [json.loads(found) for found in self._exchange(json.dumps([text, failed]))]
        first = next((number for number, (_, why) in enumerate(told) if why is not None), None)
        if first is not None and first != self.rank:
            why, exit_code = told[first][1]
            raise ElsewhereError(f"Process {first} of {self.size} failed: {why}", exit_code)
        return [found for found, _ in told]

    def total(self, number: int) -> int:
        """Return the sum over all processes."""
        return sum(int(found) for found in self.tell(str(number)))

    @contextmanager
    def lead_first(self) -> Iterator[None]:
        """Let rank 0 do the work inside first, and then the others, who find what it kept."""
        if not self.leads:
            self.tell()
        yield
        if self.leads:
            self.tell()

    def _exchange(self, text: str) -> list[str]:
        return texts_of_all(text)


_TEAM: ContextVar[Team] = ContextVar("team", default=Team())  # noqa: B039 - it cannot be changed


def team() -> Team:
    """Return the team that this process works in, one alone outside of `together`."""
    return _TEAM.get()


@contextmanager
def together(of: Team | None = None) -> Iterator[Team]:
    """Let the processes that torchrun started work as a team: what fails in one of them fails in all.

    Raises:
        ElsewhereError: another process failed.
    """
    members = Team(rank(), world_size()) if of is None else of
    token = _TEAM.set(members)
    try:
        yield members
        members.tell()
    except ElsewhereError:
        raise
    except Exception as problem:
        members.tell(problem=problem)
        raise
    finally:
        _TEAM.reset(token)
