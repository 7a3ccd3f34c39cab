"""One file a published search method; all end in Scores, which `mixbit.allocation.allocate` turns into a policy."""

from mixbit.methods.clado import Clado
from mixbit.methods.fit import Fit
from mixbit.methods.hawq import HawqV2, HawqV3
from mixbit.methods.limpq import Limpq, LimpqInit
from mixbit.methods.map_size import MapSize
from mixbit.methods.mpq_co import MpqCo
from mixbit.methods.one_at_a_time import OneAtATime
from mixbit.methods.random_scores import RandomScores
from mixbit.methods.registry import CostClass, Info, Method, info, make, names, register
from mixbit.methods.sqnr import Sqnr
from mixbit.methods.topological_entropy import TopologicalEntropy
from mixbit.methods.uniform import Uniform
from mixbit.methods.weight_entropy import WeightEntropy

__all__ = [
    "Clado",
    "CostClass",
    "Fit",
    "HawqV2",
    "HawqV3",
    "Info",
    "Limpq",
    "LimpqInit",
    "MapSize",
    "Method",
    "MpqCo",
    "OneAtATime",
    "RandomScores",
    "Sqnr",
    "TopologicalEntropy",
    "Uniform",
    "WeightEntropy",
    "info",
    "make",
    "names",
    "register",
]
