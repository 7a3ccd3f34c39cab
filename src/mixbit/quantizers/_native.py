"""Finds the compiled CPU kernels; where there are none, the PyTorch operators of `fake_quantize` do the same work."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from mixbit._native import load_library

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_VERSION = 2
"""Of the functions that `_kernels.c` must have: an older file would read one argument for another."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of `_kernels.c`, or None where no compiler was at hand when mixbit was installed."""
    kernels = load_library(Path(__file__).with_name("_kernels"))
    if kernels is None:
        return None
    version = kernels.mixbit_kernels() if hasattr(kernels, "mixbit_kernels") else 1
    if version != _VERSION:
        warnings.warn(
            f"the compiled quantizer kernels are of another version of mixbit ({version}, legal is {_VERSION}); "
            "PyTorch's operators do their work, slower. Install mixbit again: pip install -e .",
            stacklevel=2,
        )
        return None
    _declare(kernels)
    return kernels


@cache
def kernels_of(dtype: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]] | None:
    """The forward and the backward kernel for tensors of that type, or None."""
    name, found = {torch.float32: "f32", torch.bfloat16: "bf16"}.get(dtype), library()
    if found is None or name is None:
        return None
    return getattr(found, f"mixbit_forward_{name}"), getattr(found, f"mixbit_backward_{name}")


@cache
def block() -> int:
    """Elements that share one partial sum in the backward kernels."""
    found = library()
    return int(found.mixbit_block()) if found is not None else 1


def _declare(kernels: ctypes.CDLL) -> None:
    for name in ("f32", "bf16"):
        forward, backward = (getattr(kernels, f"mixbit_{way}_{name}") for way in ("forward", "backward"))
        forward.argtypes = [_POINTER] * 6 + [_INT] * 3
        backward.argtypes = [_POINTER] * 7 + [_INT] * 4 + [_POINTER] * 3
        forward.restype = backward.restype = None
    kernels.mixbit_block.restype = _INT
