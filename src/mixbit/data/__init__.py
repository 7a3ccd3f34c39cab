"""Data sets: two splits in memory or on disk, batches that depend only on (seed, epoch, batch index)."""

from __future__ import annotations

from mixbit.data.base import Batch, DataSet, IndexedSplit, Split
from mixbit.data.loader import LoaderSplit
from mixbit.data.memory import TensorSplit
from mixbit.data.spec import Source, load, parse_spec, sources

__all__ = [
    "Batch",
    "DataSet",
    "IndexedSplit",
    "LoaderSplit",
    "Source",
    "Split",
    "TensorSplit",
    "load",
    "parse_spec",
    "sources",
]
