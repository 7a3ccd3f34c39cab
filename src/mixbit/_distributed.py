"""What several processes need of each other: who am I, one state for all, and means. One process costs nothing.

Every exchange says on standard error when it has waited for long, and ends in a `ProcessLost` when another process is
gone or silent for too long. (NCCL exchanges wait on the device, where only NCCL's own watchdog sees them.)
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixbit.errors import MixbitError, ProcessLost

TIMEOUT = "MIXBIT_RANK_TIMEOUT"
"""Environment variable: seconds that a process waits for the others before it gives up; 1800 if it is not set."""

_FIRST_WORD = 20.0


def start() -> None:
    """Join the process group that `torchrun` or `accelerate launch` describes in the environment, if there is one.

    Raises:
        MixbitError: the environment describes no group.
        ProcessLost: the other processes did not come.
    """
    if _number("WORLD_SIZE", 1) <= 1 or dist.is_initialized():
        return
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise MixbitError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but {name} is not set. Start several processes with torchrun "
                "or accelerate launch, which set all of them; or unset WORLD_SIZE."
            )
    # Two backends: numbers that the processes agree on lie in the CPU's memory, whatever the model's device is.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(_number("LOCAL_RANK", 0))
    with _together("the start"):
        dist.init_process_group(backend, timeout=timedelta(seconds=limit_seconds()))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise MixbitError(f"The environment variable {name} is {text!r}. Legal: a whole number from 0.")
    return int(text)


def limit_seconds() -> int:
    """Seconds that an exchange may take.

    >>> limit_seconds()
    1800
    """
    found = _number(TIMEOUT, 1800)
    if not found:
        raise MixbitError(f"The environment variable {TIMEOUT} is 0. Legal: seconds, from 1; 1800 if it is not set.")
    return found


def is_active() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process, 0 on a single one."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes that work together, 1 without a launcher."""
    return dist.get_world_size() if is_active() else 1


# -- exchanges ----------------------------------------------------------------------------------------------------


def barrier() -> None:
    """Wait for all processes."""
    if is_active():
        with _together("a meeting point"):
            dist.barrier()


def mean_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all ranks, in one message per dtype."""
    if is_active():
        _reduce_([t for t in tensors if t.is_floating_point()], divide_by=world_size())


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks."""
    if is_active():
        _reduce_(list(tensors), divide_by=1)


def mean_gradients_(parameters: Sequence[nn.Parameter], riders: Tensor) -> None:
    """Replace every gradient, and `riders` (any shape), by their means over all ranks, in one message per dtype.

    A gradient that only some ranks have counts as 0 on the others; one that no rank has stays None.
    """
    if not is_active():
        return
    absent = [place for place, p in enumerate(parameters) if p.grad is None]
    have = riders.new_ones(len(parameters))
    have[absent] = 0
    for place in absent:
        parameters[place].grad = torch.zeros_like(parameters[place])
    _reduce_([*(p.grad for p in parameters if p.grad is not None), have, riders], divide_by=world_size())
    for place in absent:
        if not have[place]:
            parameters[place].grad = None


def first_decides(flag: bool) -> bool:
    """Rank 0's `flag`, on all ranks: clocks, files and random numbers of the others do not count."""
    if not is_active():
        return flag
    shared = torch.tensor([int(flag)], device=_meeting_device())
    with _together("a decision of rank 0"):
        dist.broadcast(shared, 0)
    return bool(shared.item())


def all_say(flag: bool) -> bool:
    """Whether `flag` holds on every rank."""
    return flag if not is_active() else _spread([int(flag)])[0][0] == 1


def take_from_first_(tensors: Sequence[Tensor], what: str) -> None:
    """Replace each tensor by rank 0's, so that all ranks begin alike.

    Raises:
        MixbitError: (on every rank) number, shapes or types differ between the ranks; the message says of `what`.
    """
    if not is_active():
        return
    lowest, highest = _spread([len(tensors), _mixed([*t.shape, t.element_size()] for t in tensors)])
    if lowest != highest:
        raise MixbitError(
            f"The processes hold {what} of different numbers or shapes. Build the same model in every process."
        )
    for group in _by_kind(tensors):
        flat = torch.cat([t.detach().reshape(-1) for t in group])
        flat = flat.to(torch.uint8) if flat.dtype == torch.bool else flat
        with _together(f"{what} of rank 0"):
            dist.broadcast(flat, 0)
        _put(group, flat)


def bytes_of_first(make: Callable[[], bytes]) -> bytes:
    """What `make` gives on rank 0, on all ranks: files that the others may not see, or would see a moment later.

    Raises:
        MixbitError: (on every rank) `make` raised it.
    """
    if not is_active():
        return make()
    content, failure = b"", None
    if rank() == 0:
        try:
            content = make()
        except MixbitError as error:
            content, failure = str(error).encode(), error
    size = torch.tensor([len(content), int(failure is not None)], device=_meeting_device())
    with _together("a file of rank 0"):
        dist.broadcast(size, 0)
        length, failed = size.tolist()
        held = torch.zeros(length, dtype=torch.uint8)
        if rank() == 0 and content:
            held = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        held = held.to(_meeting_device())
        dist.broadcast(held, 0)
    if failed:
        raise failure or MixbitError(bytes(held.cpu().numpy()).decode())
    return bytes(held.cpu().numpy())


def unlike(tensors: Sequence[Tensor]) -> list[int]:
    """Places of the tensors whose shapes or bits are not the same on all ranks, each of which has as many."""
    if not is_active():
        return []
    lowest, highest = _spread([_mixed([[*t.shape, _bit_sum(t)]]) for t in tensors])
    return [place for place, (low, high) in enumerate(zip(lowest, highest, strict=True)) if low != high]


def check_equal(tensors: Iterable[Tensor], what: str) -> None:
    """Compare the bits of tensors between the ranks.

    Raises:
        MixbitError: (on every rank) they differ; the message says of `what`.
    """
    if not is_active():
        return
    lowest, highest = _spread([_mixed([*t.shape, _bit_sum(t)] for t in tensors)])
    if lowest != highest:
        raise MixbitError(
            f"The processes hold different {what}: a number of all of them together would mean nothing. Load the same "
            "weights in every process, or call torch.manual_seed with one seed before the model is built."
        )


# -- how -----------------------------------------------------------------------------------------------------------


def _reduce_(tensors: list[Tensor], *, divide_by: int) -> None:
    for group in _by_kind(tensors):
        flat = torch.cat([t.detach().reshape(-1) for t in group])
        with _together("sums over all processes"):
            dist.all_reduce(flat)
        _put(group, flat if divide_by == 1 else flat / divide_by)


def _by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors that can travel in one message, in an order that is the same on every rank."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(kinds.values())


def _put(group: list[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(group, torch.split(flat, [t.numel() for t in group]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def _meeting_device() -> torch.device:
    """Where numbers lie that the processes agree on: a group of NCCL alone, made by the user, takes no CPU tensors."""
    only_nccl = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if only_nccl else torch.device("cpu")


def _spread(numbers: list[int]) -> tuple[list[int], list[int]]:
    """The smallest and the largest of each number over all ranks, in one message."""
    both = torch.tensor([*numbers, *(-n for n in numbers)], dtype=torch.int64, device=_meeting_device())
    with _together("a comparison"):
        dist.all_reduce(both, op=dist.ReduceOp.MIN)
    found = both.tolist()
    return found[: len(numbers)], [-n for n in found[len(numbers) :]]


def _mixed(rows: Iterable[Sequence[int]]) -> int:
    """One number of 62 bits of rows of numbers and their order; the same on every machine.

    >>> _mixed([[1, 2], [3]]) == _mixed([[1, 2], [3]]), _mixed([[1, 2], [3]]) == _mixed([[1], [2, 3]])
    (True, False)
    """
    found = 1
    for row in rows:
        for number in (*row, -1):
            found = (found * 1_000_003 + number) % (1 << 62)
    return found


def _bit_sum(tensor: Tensor) -> int:
    """The sum of a tensor's bytes, each weighted by its place: exact, and the same in any order of summation."""
    held = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    places = torch.arange(1, len(held) + 1, device=held.device) % 65521
    return int((held * places).sum())


# -- waiting -------------------------------------------------------------------------------------------------------


@contextmanager
def _together(what: str) -> Iterator[None]:
    """An exchange with all other processes: watched while it waits, and with an error of ours when it fails."""
    _watch.begin(what)
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProcessLost(
            f"rank {_name()}: another process of this run ended, was stopped or gave no answer "
            f"for {limit_seconds()} s ({what}; {reason}). Its own output says why. The same command continues from "
            f"the last checkpoint; {TIMEOUT}=SECONDS sets how long to wait."
        ) from error
    finally:
        _watch.end()


def _name() -> str:
    return str(dist.get_rank()) if dist.is_initialized() else os.environ.get("RANK", "0")


def word_is_due(waited: float, spoken: int, limit: float) -> bool:
    """Whether a wait of `waited` seconds gets another word, after `spoken` of them.

    The first comes after 20 s (or a third of a short limit), each further one after three times as long.

    >>> [word_is_due(waited, spoken, 1800) for waited, spoken in ((19, 0), (20, 0), (59, 1), (60, 1), (200, 2))]
    [False, True, False, True, True]
    """
    return bool(waited >= min(_FIRST_WORD, limit / 3) * 3**spoken)


class _Watch:
    """A thread that speaks when the exchange at hand takes long."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.what, self.spoken = "", 0
        self._thread: threading.Thread | None = None

    def begin(self, what: str) -> None:
        self.what, self.spoken, self.since = what, 0, time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="mixbit-waiting")
            self._thread.start()

    def end(self) -> None:
        self.since = None

    def _run(self) -> None:
        while True:
            time.sleep(0.5)
            since = self.since
            if since is not None and word_is_due(time.monotonic() - since, self.spoken, limit_seconds()):
                self.spoken += 1
                self._speak(time.monotonic() - since)

    def _speak(self, waited: float) -> None:
        sys.stderr.write(
            f"rank {_name()} has waited {waited:.0f} s for the other processes ({self.what}): one "
            f"of them is stopped, or still at work. It gives up after {limit_seconds()} s ({TIMEOUT}).\n"
        )
        sys.stderr.flush()


_watch = _Watch()
