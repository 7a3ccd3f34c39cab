"""Finds the compiled C files of the package; where there are none, their rooms have the same in Python."""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def load_library(source: Path) -> ctypes.CDLL | None:
    """The library built from a C file without its suffix, or None where no compiler was at hand at the install.

    PyTorch is loaded first: the library takes its OpenMP runtime from it, so that a process has one pool of threads.
    """
    import torch  # noqa: F401

    for suffix in EXTENSION_SUFFIXES:
        path = source.with_name(source.name + suffix)
        if path.exists():
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # e.g. a PyTorch without OpenMP: its symbols stay unresolved
                return None
    return None
