"""Data sets: two splits in memory or on disk, batches that depend only on (seed, epoch, batch index)."""

from __future__ import annotations

from mixbit.data.base import Batch, DataSet, IndexedSplit, Split
from mixbit.data.corruption import Quality, corrupt
from mixbit.data.dataset import DatasetSplit
from mixbit.data.given import ReadSplit, as_split, inputs_of
from mixbit.data.held_out import Part, hold_out
from mixbit.data.loader import LoaderSplit
from mixbit.data.memory import TensorSplit
from mixbit.data.mixed_quality import MixedQuality
from mixbit.data.noisy import NoisySplit, clean_of
from mixbit.data.reading import Read, read_keys
from mixbit.data.space import InputSpace
from mixbit.data.spec import Source, digest, load, parse_spec, sources

__all__ = [
    "Batch",
    "DataSet",
    "DatasetSplit",
    "IndexedSplit",
    "InputSpace",
    "LoaderSplit",
    "MixedQuality",
    "NoisySplit",
    "Part",
    "Quality",
    "Read",
    "ReadSplit",
    "Source",
    "Split",
    "TensorSplit",
    "as_split",
    "clean_of",
    "corrupt",
    "digest",
    "hold_out",
    "inputs_of",
    "load",
    "parse_spec",
    "read_keys",
    "sources",
]
