"""Finds the compiled CPU kernels; where there are none, the PyTorch operators of `fake_quantize` do the same work."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of `_kernels.c`, or None where no compiler was at hand when mixbit was installed.

    PyTorch must be loaded first: the library takes its OpenMP runtime from it.
    """
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_kernels" + suffix)
        if path.exists():
            return _load(path)
    return None


def _load(path: Path) -> ctypes.CDLL | None:
    try:
        kernels = ctypes.CDLL(str(path))
    except OSError:  # e.g. a PyTorch without OpenMP: its symbols stay unresolved
        return None
    for name in ("f32", "bf16"):
        forward, backward = (getattr(kernels, f"mixbit_{way}_{name}") for way in ("forward", "backward"))
        forward.argtypes = [_POINTER] * 6 + [_INT] * 2
        backward.argtypes = [_POINTER] * 7 + [_INT] * 3 + [_POINTER] * 3
        forward.restype = backward.restype = None
    kernels.mixbit_blocks.argtypes = [_INT, _INT]
    kernels.mixbit_blocks.restype = _INT
    return kernels
