"""What a latency table needs of a device with a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mixbit.cost import Device, ExportCpu, LatencyUnit, Timing
from mixbit.integer.graph import IntegerGraph

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["OVERHEAD", "FloatModel", "Measurement", "Target", "TimedStep", "export_cpu"]

OVERHEAD = "overhead"
"""Kind of the step that stands for what a run takes beyond its operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedStep:
    """One operation that a target executed in a run."""

    owner: str | None
    """The layer that it serves; None for what no layer accounts for."""
    kind: str
    """The operation, as the target calls it, or `overhead`."""
    kernel: str
    """What decides its time: operation, types, shapes. Equal kernels take equal times."""
    shape: tuple[int, ...]
    """Shape of one sample's result."""
    median: int
    spread: int
    """Interquartile range over the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One network on a target: the whole, and steps that add up to it but for noise."""

    whole: Timing
    steps: tuple[TimedStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatModel:
    """The float32 network, to measure beside the integer one."""

    model: nn.Module
    example: torch.Tensor
    """One input `(1, ...)`."""


class Target(Protocol):
    """A device with a runtime: what `build` needs of it.

    A target that writes other files for other processors has an attribute `cpu` as well, see `export_cpu`.
    """

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def unit(self) -> LatencyUnit:
        """Unit of everything that it measures."""

    @property
    def runtime(self) -> str:
        """Name of the software that executes a network."""

    @property
    def runtime_version(self) -> str:
        """Version of the runtime."""

    @property
    def device(self) -> Device:
        """What it runs on."""

    @property
    def threads(self) -> int:
        """Threads of one inference."""

    @property
    def batch(self) -> int:
        """Samples of one run."""

    @property
    def arithmetic(self) -> str:
        """How it computes, in one sentence: the reason where fewer bits bring no speed."""

    def profile(self, graphs: Mapping[str, IntegerGraph], repeats: int) -> dict[str, Measurement]:
        """Measure networks step by step, in turn: what slows the device meets all of them."""

    def time(self, networks: Mapping[str, IntegerGraph | FloatModel], repeats: int) -> dict[str, Timing]:
        """Measure whole networks, in turn.

        Raises:
            ExportError: the target cannot run one of them.
        """


def export_cpu(target: Target) -> ExportCpu | None:
    """For which processors the files are that a target measures; None where there is no choice."""
    found: ExportCpu | None = getattr(target, "cpu", None)
    return found
