"""Many bit-widths in one network: one selection moves the banks of quantizers and the norms behind the layers."""

from mixbit.supernet.judging import SubnetJudge
from mixbit.supernet.norms import (
    NormRows,
    SwitchableBatchNorm,
    make_switchable,
)
from mixbit.supernet.sandwich import SandwichStep, SupernetConfig, build_supernet, elastic_layers
from mixbit.supernet.selection import Mixture, PerLayer, PerSample, Selection, Uniform, select, settle
from mixbit.supernet.training import Supernet, SupernetTraining, load_supernet, supernet_settings, train_supernet

__all__ = [
    "Mixture",
    "NormRows",
    "PerLayer",
    "PerSample",
    "SandwichStep",
    "Selection",
    "SubnetJudge",
    "Supernet",
    "SupernetConfig",
    "SupernetTraining",
    "SwitchableBatchNorm",
    "Uniform",
    "build_supernet",
    "elastic_layers",
    "load_supernet",
    "make_switchable",
    "select",
    "settle",
    "supernet_settings",
    "train_supernet",
]
