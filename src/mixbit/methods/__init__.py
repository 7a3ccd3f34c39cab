"""One file a published search method. They end in scores, in a policy under a budget, or in a front of policies."""

from mixbit.methods._episodes import EpisodeRecord, read_episodes
from mixbit.methods.arq import Arq
from mixbit.methods.clado import Clado
from mixbit.methods.fit import Fit
from mixbit.methods.haq import Haq
from mixbit.methods.hawq import HawqV2, HawqV3
from mixbit.methods.limpq import Limpq, LimpqInit
from mixbit.methods.map_size import MapSize
from mixbit.methods.mpq_co import MpqCo
from mixbit.methods.one_at_a_time import OneAtATime
from mixbit.methods.qfa import Qfa
from mixbit.methods.random_scores import RandomScores
from mixbit.methods.random_search import RandomSearch
from mixbit.methods.registry import (
    AnyMethod,
    CostClass,
    FrontMethod,
    Info,
    Kind,
    Method,
    PolicyMethod,
    ScoreMethod,
    info,
    make,
    names,
    register,
)
from mixbit.methods.sqnr import Sqnr
from mixbit.methods.topological_entropy import TopologicalEntropy
from mixbit.methods.uniform import Uniform
from mixbit.methods.uniform_front import UniformFront
from mixbit.methods.weight_entropy import WeightEntropy

__all__ = [
    "AnyMethod",
    "Arq",
    "Clado",
    "CostClass",
    "EpisodeRecord",
    "Fit",
    "FrontMethod",
    "Haq",
    "HawqV2",
    "HawqV3",
    "Info",
    "Kind",
    "Limpq",
    "LimpqInit",
    "MapSize",
    "Method",
    "MpqCo",
    "OneAtATime",
    "PolicyMethod",
    "Qfa",
    "RandomScores",
    "RandomSearch",
    "ScoreMethod",
    "Sqnr",
    "TopologicalEntropy",
    "Uniform",
    "UniformFront",
    "WeightEntropy",
    "info",
    "make",
    "names",
    "read_episodes",
    "register",
]
