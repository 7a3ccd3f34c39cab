"""What several processes need of each other: who am I, and means over all ranks. One process costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> None:
    """Join the process group that `torchrun` or `accelerate launch` describes in the environment, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group(backend, timeout=timedelta(minutes=30))


def is_active() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process, 0 on a single one."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_active() else 1


def barrier() -> None:
    """Wait for all processes."""
    if is_active():
        dist.barrier()


def mean_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all ranks, in one message per dtype."""
    if is_active():
        _reduce_([t for t in tensors if t.is_floating_point()], divide_by=world_size())


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks."""
    if is_active():
        _reduce_(list(tensors), divide_by=1)


def _reduce_(tensors: list[Tensor], *, divide_by: int) -> None:
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([t.detach().reshape(-1) for t in group])
        dist.all_reduce(flat)
        flat = flat if divide_by == 1 else flat / divide_by
        parts = torch.split(flat, [t.numel() for t in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))
