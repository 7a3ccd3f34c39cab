"""The compiled birth times of `_births.c` and `_lattice.c`, called on arrays."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixbit._native import load_library
from mixbit.errors import MixbitError

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


@cache
def library() -> ctypes.CDLL | None:
    """The library of `_births.c`, or None where it was not compiled."""
    found = load_library(Path(__file__).with_name("_births"))
    if found is not None:
        found.mixbit_births.argtypes = [_POINTER, _POINTER, _INT, _INT, _INT]
        found.mixbit_births.restype = _INT
    return found


def compiled_births(found: ctypes.CDLL, maps: npt.NDArray[np.float32], v_max: int) -> npt.NDArray[np.int32]:
    """Births of contiguous maps (n, m, m), m > 1; -1 for a map with a NaN.

    Raises:
        MixbitError: there is no memory for it.
    """
    births = np.empty(len(maps), dtype=np.int32)
    if not found.mixbit_births(maps.ctypes.data, births.ctypes.data, len(maps), maps.shape[-1], v_max):
        raise MixbitError(f"no memory for the birth times of maps {maps.shape[1:]}. Give smaller maps.")
    return births


@cache
def lattice_library() -> ctypes.CDLL | None:
    """The library of `_lattice.c`, or None where it was not compiled."""
    found = load_library(Path(__file__).with_name("_lattice"))
    if found is not None:
        found.mixbit_lattice_births.argtypes = [_POINTER, _POINTER, _INT, _INT, _INT, _INT]
        found.mixbit_lattice_births.restype = _INT
    return found


def compiled_lattice_births(found: ctypes.CDLL, maps: npt.NDArray[np.float32], v_max: int) -> npt.NDArray[np.int32]:
    """Births of contiguous maps (n, h, w) with a pixel or more; -1 for a map with a NaN.

    Raises:
        MixbitError: there is no memory for it.
    """
    births = np.empty(len(maps), dtype=np.int32)
    if not found.mixbit_lattice_births(maps.ctypes.data, births.ctypes.data, *maps.shape, v_max):
        raise MixbitError(f"no memory for the birth times of maps {maps.shape[1:]}. Give smaller maps.")
    return births
