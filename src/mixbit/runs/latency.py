"""A latency table of a model, measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mixbit import _io
from mixbit._progress import progress_bar
from mixbit._settings import Range, check_value
from mixbit.cost import ExportCpu, LatencyTable
from mixbit.errors import MixbitError, did_you_mean
from mixbit.export.mcu import BOARDS
from mixbit.export.mcu.target import BoardTarget
from mixbit.integer import Rounding, lower_at
from mixbit.latency.tables import DEFAULT_BITS, FloatModel, Target, build, options_of, random_bits
from mixbit.network import Network
from mixbit.runs.inspecting import open_model
from mixbit.runs.subject import Subject

__all__ = ["LATENCY_TARGETS", "BuiltLatency", "build_latency"]

LATENCY_TARGETS = ("onnxruntime", *BOARDS)
"""What can be measured: times on this CPU, or instructions of an emulated core."""


MOST_REPEATS, MOST_CHECKS = 10_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLatency:
    """A table, the network that it is of, and the files written with what each holds."""

    table: LatencyTable
    network: Network
    files: dict[Path, str]


def build_latency(
    subject: Subject,
    target: str,
    out: Path,
    *,
    cpu: ExportCpu = "any",
    bits: Sequence[int] = DEFAULT_BITS,
    activation_bits: Sequence[int] | None = None,
    repeats: int = 30,
    checks: int = 3,
    compare_float: bool = True,
    input_shape: tuple[int, ...] | None = None,
    tell: Callable[[str], None] | None = None,
) -> BuiltLatency:
    """Measure every layer of a model at all pairs of bits of weights and of activations, and write the table.

    Finished measurements are kept in a file beside `out`, with `.partial` behind its name: the same call after a
    kill goes on from there. The weights of the model do not matter.

    Args:
        subject: the model; its data give the shape of the input and real inputs to calibrate with.
        target: see `LATENCY_TARGETS`.
        out: the table, as JSON.
        cpu: of `onnxruntime`: files for which processors are measured, as `export` writes them.
        bits: of weights, and of activations where these have none of their own. Pinned layers need theirs too: 8 by
            default.
        activation_bits: of activations, which may have up to 16.
        repeats: runs that each median is of.
        checks: random policies whose whole networks are measured, to compare the sums with.
        compare_float: measure the float32 network as well, so that limits can refer to it; not on emulated cores.
        input_shape: of one sample; None takes that of the data or of the zoo.
        tell: called with a line for every part of the work.

    Raises:
        MixbitError: an unknown target, bits or shape, or `cpu` for an emulated core.
        StaleRun: `out` has measurements beside it that were made with other settings.
        ExportError: the model has no integer form, or does not run on the target.
    """
    check_value("repeats", repeats, Annotated[int, Range(least=1, most=MOST_REPEATS)])
    check_value("checks", checks, Annotated[int, Range(least=0, most=MOST_CHECKS)])
    device, options = _target(target, cpu), options_of(bits, activation_bits)
    rounding: Rounding = "float32" if target not in BOARDS else "single"
    opened = open_model(subject, input_shape)
    model, network, example = opened.model.cpu().eval(), opened.network, opened.example.cpu()
    floating = FloatModel(model=model, example=example[:1]) if compare_float and target not in BOARDS else None
    partial = out.with_name(f"{out.name}.partial")
    parts = len({option.activation_bits for option in options}) + 1  # and whole networks

    with progress_bar("latency", parts) as advance:
        begun: list[str] = []

        def begin(line: str) -> None:
            advance(1 if begun else 0, line)
            begun.append(line)
            if tell is not None:
                tell(line)

        table = build(
            network,
            lower_at(model, network, example, rounding=rounding, apart=True),
            device,
            options=options,
            repeats=repeats,
            checks={f"random {seed}": random_bits(network, bits, seed, activation_bits) for seed in range(checks)},
            float_model=floating,
            partial=partial,
            tell=begin,
        )
        advance(1, "")
    table.save(out)
    with _io.filesystem(partial):
        partial.unlink(missing_ok=True)  # what was measured is in the table now
    return BuiltLatency(table=table, network=network, files={out: "what every layer takes at every option"})


def _target(name: str, cpu: ExportCpu) -> Target:
    if name not in LATENCY_TARGETS:
        raise MixbitError(
            f"target {name!r} is unknown.{did_you_mean(name, LATENCY_TARGETS)} Legal: {', '.join(LATENCY_TARGETS)}."
        )
    if name in BOARDS and cpu != "any":
        raise MixbitError(f"cpu={cpu!r} is for the target onnxruntime, and this is {name}. Leave it out.")
    if name in BOARDS:
        return BoardTarget(core=name)
    from mixbit.export.onnxruntime_target import OnnxRuntimeTarget

    return OnnxRuntimeTarget(cpu)
