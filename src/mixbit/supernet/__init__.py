"""Many bit-widths in one network: one selection moves the banks of quantizers and the norms behind the layers."""

from mixbit.supernet.judging import SubnetJudge
from mixbit.supernet.norms import (
    NormRows,
    SwitchableBatchNorm,
    make_switchable,
)
from mixbit.supernet.sandwich import SandwichStep, SupernetConfig, build_supernet, elastic_layers
from mixbit.supernet.selection import Mixture, PerLayer, PerSample, Selection, Uniform, select, settle

__all__ = [
    "Mixture",
    "NormRows",
    "PerLayer",
    "PerSample",
    "SandwichStep",
    "Selection",
    "SubnetJudge",
    "SupernetConfig",
    "SwitchableBatchNorm",
    "Uniform",
    "build_supernet",
    "elastic_layers",
    "make_switchable",
    "select",
    "settle",
]
