"""From a trained run to a folder of C for microcontrollers, checked on this machine or on an emulated core."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mixbit._progress import announce
from mixbit.cost import read_bytes
from mixbit.errors import ExportError, did_you_mean
from mixbit.export.c import (
    MANIFEST,
    CFolder,
    COptions,
    CProgram,
    CVerification,
    build_program,
    footprint,
    plan_memory,
    read_manifest,
    render_c,
    verify_c,
    write_c,
)
from mixbit.export.mcu import BOARDS, BoardVerification, Counts, count, verify_board
from mixbit.export.verify import numpy_batches
from mixbit.integer import GraphRounding, IntegerGraph
from mixbit.integer.arithmetic import Array
from mixbit.runs._trained import TrainedRun
from mixbit.runs.exporting import lowered, taken

__all__ = ["BOARD_IMAGES", "HOST", "Checked", "ExportedC", "VerifiedC", "export_c", "is_c_folder", "verify_c_folder"]

HOST = "host"
BOARD_IMAGES = 5
"""An emulated inference takes seconds."""
Checked: TypeAlias = CVerification | BoardVerification


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedC:
    """A folder of C, and whether it is right."""

    run: Path
    graph: IntegerGraph
    folder: CFolder
    checked: Checked | None
    """On this machine; None where it was not asked for, or there is no compiler."""
    note: str | None
    """Why it was not checked."""
    files: dict[Path, str]
    fewer: str | None = None
    """Why it was checked on fewer images than were asked for, if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedC:
    """A folder that was checked."""

    path: Path
    checked: Checked
    counts: Counts | None
    """Instructions by layer; None on this machine."""
    fewer: str | None = None
    """Why there are fewer images than were asked for, if there are."""


def export_c(
    run: Path,
    out: Path | None = None,
    *,
    options: COptions | None = None,
    rounding: GraphRounding = "single",
    flash: str | None = None,
    ram: str | None = None,
    strict: bool = False,
    images: int = 1000,
    compiler: str = "gcc",
) -> ExportedC:
    """Lower the network of a run folder, write it as C, and compare the C on this machine with the reference executor.

    Args:
        run: folder of a finished training under a policy.
        out: the folder; default `c` in the run folder.
        options: how it is written; default the kernels for cores with two products an instruction beside plain ones.
        rounding: of the results, see `mixbit.export.lower`; `litert` is that of LiteRT's reference kernels.
        flash: limit on constants and code, e.g. `256kB`.
        ram: limit on the arena, e.g. `64kB`.
        strict: refuse what the target cannot hold at the policy's bits.
        images: test images; 0 leaves the comparison out.
        compiler: of this machine.

    Raises:
        ExportError: a float run, an operation without a kernel, or a limit that does not hold.
    """
    parts = 3 if images else 2
    announce("export", 0, parts, "the integer network")
    opened, graph = lowered(run, "c", strict=strict, rounding=rounding)
    options = COptions(kernels="dsp") if options is None else options
    program = build_program(graph, options)
    _check_limits(program, flash, ram)
    path = out or run / "c"
    announce("export", 1, parts, f"C in {path}")
    folder = write_c(program, path, samples=_samples(opened, options.vectors))
    checked, note, fewer = None, "not asked for", None
    if images and shutil.which(compiler) is None:
        note = f"the compiler {compiler!r} is not there"
    elif images:
        number, fewer = taken(opened.task, images)
        announce("export", 2, parts, f"the C on {number} images")
        checked = verify_c(program, _samples(opened, number), compiler=compiler)
    return ExportedC(
        run=run,
        graph=graph,
        folder=folder,
        checked=checked,
        note=None if checked is not None else note,
        files={path: "C99 for microcontrollers; begin with its README.txt"},
        fewer=fewer,
    )


def is_c_folder(path: Path) -> bool:
    """Whether `export_c` wrote it."""
    return (path / MANIFEST).is_file()


def verify_c_folder(folder: Path, run: Path, *, target: str = HOST, images: int = 1000) -> VerifiedC:
    """Run a folder of C on test images, and compare every layer with the reference executor, byte for byte.

    Args:
        folder: of `export_c`.
        run: the folder that it was exported from.
        target: `host`, or a board or core that QEMU emulates, e.g. `cortex-m4`; at most `BOARD_IMAGES` images there.
        images: test images.

    Raises:
        ExportError: the folder is not what this version writes of the run, an unknown target, or a tool is missing.
    """
    names = [HOST, *BOARDS, *(board.name for board in BOARDS.values())]
    if target not in names:
        raise ExportError(f"target {target!r} is unknown.{did_you_mean(target, names)} Legal: {', '.join(names)}.")
    manifest = read_manifest(folder)
    options = manifest.c_options()
    announce("verify", 0, 2, "the integer network")
    opened, graph = lowered(run, "c", strict=False, rounding=_rounding(manifest.roundings))
    program = build_program(graph, options)
    _same(folder, render_c(program, samples=_samples(opened, options.vectors)))
    announce("verify", 1, 2, f"the C on {target}")
    limit = None if target == HOST else BOARD_IMAGES
    number, fewer = taken(opened.task, images, limit=limit, slow="an emulated core is slow")
    few = _samples(opened, number)
    if target == HOST:
        return VerifiedC(path=folder, checked=verify_c(program, few), counts=None, fewer=fewer)
    found = verify_board(program, few, board=target)
    counts = count(program, board=target, samples=few[:1])
    return VerifiedC(path=folder, checked=found, counts=counts, fewer=fewer)


def _rounding(roundings: dict[str, GraphRounding]) -> GraphRounding:
    """How the graph rounds whose operations round so; only LiteRT's kinds of operations differ."""
    found = set(roundings.values())
    return found.pop() if len(found) == 1 else "litert"


def _same(folder: Path, files: dict[str, str]) -> None:
    """What is verified is what mixbit writes; a folder that was edited is not that."""
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            what = "differs from" if path.is_file() else "is missing, unlike in"
            raise ExportError(
                f"{path} {what} what this mixbit writes of the run. Export again with --to c, or verify the folder of "
                "that run."
            )


def _samples(opened: TrainedRun, images: int) -> Array:
    batches = opened.task.test.batches(min(images, 256))
    found = [x for x, _ in numpy_batches(batches, images)]
    return np.concatenate(found)[:images]


def _check_limits(program: CProgram, flash: str | None, ram: str | None) -> None:
    """Before anything is written; the message names the layer at the peak and what would be less."""
    found = footprint(program)
    if ram is not None and found.ram_bytes > (limit := read_bytes(ram)):
        plan = plan_memory(program)
        smaller = replace(program.options, pack_activations=True, kernels="plain")
        packed = footprint(program.source, options=smaller).ram_bytes
        raise ExportError(
            f"the arena takes {found.ram_bytes} bytes of RAM, ram={ram} allows {limit}. Most is needed at "
            f"{plan.peak_layer!r}; with packed activations and plain kernels it is {packed}. Allocate again with "
            f"--budget ram={ram}, and with --pack-activations if you export with it."
        )
    if flash is not None and found.flash_bytes > (limit := read_bytes(flash)):
        largest = max(program.graph.weighted(), key=lambda op: op.weight.size * op.weight_bits)
        raise ExportError(
            f"the network takes {found.flash_bytes} bytes of flash ({found.weight_bytes} weights, {found.code_bytes} "
            f"code), flash={flash} allows {limit}. Its largest layer is {largest.name!r} at {largest.weight_bits} "
            f"bits; allocate again with --budget flash={flash}."
        )
