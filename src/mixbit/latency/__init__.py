"""Latency tables: what a device is asked, what it answered, and what the sums say of a whole network."""

from mixbit.latency._bench import Lower
from mixbit.latency._target import OVERHEAD, FloatModel, Measurement, Target, TimedStep, export_cpu
from mixbit.latency.tables import (
    DEFAULT_BITS,
    build,
    estimate,
    options_of,
    random_bits,
)

__all__ = [
    "DEFAULT_BITS",
    "OVERHEAD",
    "FloatModel",
    "Lower",
    "Measurement",
    "Target",
    "TimedStep",
    "build",
    "estimate",
    "export_cpu",
    "options_of",
    "random_bits",
]
