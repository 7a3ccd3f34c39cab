"""Many bit-widths in one network: one selection moves the banks of quantizers and the norms behind the layers."""

from mixbit.supernet.norms import (
    NormRows,
    SwitchableBatchNorm,
    make_switchable,
    norms_after_layers,
    norms_fed_by_layers,
)
from mixbit.supernet.selection import Mixture, PerLayer, PerSample, Selection, Uniform, select, settle

__all__ = [
    "Mixture",
    "NormRows",
    "PerLayer",
    "PerSample",
    "Selection",
    "SwitchableBatchNorm",
    "Uniform",
    "make_switchable",
    "norms_after_layers",
    "norms_fed_by_layers",
    "select",
    "settle",
]
