"""From a trained run to a file that a runtime reads, and the file checked against the reference executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils import _pytree

from mixbit import _batch, _distributed
from mixbit._modes import in_evaluation
from mixbit._progress import announce, progress_bar, watched
from mixbit.errors import ExportError, did_you_mean
from mixbit.export import ExecutorPredictor, Exporter, Written, exporter_names, find_exporter
from mixbit.export.float_onnx import float_onnx
from mixbit.export.mcu import BOARDS, BoardPredictor
from mixbit.export.onnx import CPUS, Cpu, OnnxFile, Packing, render_onnx
from mixbit.export.qonnx import render_qonnx
from mixbit.export.verify import Agreement, Judge, Verification, is_qonnx, sample_batches, verify_predictor
from mixbit.export.verify import verify as check
from mixbit.inference import Predictor
from mixbit.integer import GraphRounding, IntegerGraph, lower
from mixbit.quantization import CALIBRATION_SAMPLES
from mixbit.runs._trained import TrainedRun, open_run
from mixbit.task import Task

__all__ = ["Exported", "Verified", "export", "export_targets", "lowered", "runtimes", "verify"]

EXECUTOR = "executor"
"""Where a network runs that no exporter wrote: in the reference executor."""
VERIFIED_IMAGES = 1000
QONNX_IMAGES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file, what is in it, and whether it is right."""

    run: Path
    graph: IntegerGraph
    file: Written
    verification: Agreement | None
    """How the file did. Of ONNX and QONNX the file itself is verified; of other targets what their Predictor gives."""
    files: dict[Path, str]
    note: str | None = None
    """That the policy was chosen with times of other files than this one."""
    most_images: int
    """That the file can be verified with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A file that was checked."""

    content: OnnxFile | None
    """What is in it, layer by layer; None if it is not what this version writes of the run."""
    verification: Verification


def export(
    run: Path,
    target: str = "onnx",
    out: Path | None = None,
    *,
    pack: Packing = "fields",
    cpu: Cpu = "any",
    strict: bool = False,
    images: int = VERIFIED_IMAGES,
    compare_float: bool = True,
) -> Exported:
    """Lower the network of a run folder, write it, and verify what was written.

    Args:
        run: folder of a finished training under a policy.
        target: onnx, qonnx, or an exporter of your own, see `mixbit.export.register_exporter`.
        out: the file; default the exporter's own name for it, in the run folder.
        pack: of ONNX, see `mixbit.export.onnx`.
        cpu: of ONNX: processors on which the file is exact, see `mixbit.export.onnx.write_onnx`.
        strict: refuse layers that the file holds at more bits than the policy says, and narrow none.
        images: test images to verify with, at most those that there are, and `QONNX_IMAGES` of QONNX; 0 leaves it out.
        compare_float: time the float network beside the file.

    Raises:
        ExportError: the run is one in float, the network has no integer form, the target is unknown, or it is not
            onnx and `cpu` is given.
    """
    exporter = find_exporter(target)
    kind = exporter.name
    if kind == "c":
        raise ExportError("C is a folder and no file. Call mixbit.runs.export_c.")
    if kind != "onnx" and cpu != "any":
        raise ExportError(f"cpu={cpu!r} is for the target onnx, and this is {kind}. Leave it away.")
    if images < 0:
        raise ExportError(f"images={images}, legal is 0 or more.")
    parts = 3 if images else 2
    announce("export", 0, parts, "the integer network")
    opened, graph = lowered(run, kind, strict)
    path = out or run / exporter.file
    announce("export", 1, parts, str(path))
    options = {"pack": pack, "cpu": cpu, "strict": strict} if kind == "onnx" else {}
    samples = _calibration(opened)
    written = exporter.write(graph, path, samples=samples.numpy() if isinstance(samples, Tensor) else None, **options)
    few, fewer = _taken(opened.task, images, qonnx=kind == "qonnx")
    if images:
        announce("export", 2, parts, f"the file on {few} images")
    checked = _checked(exporter, path, graph, opened, few, compare_float) if images else None
    return Exported(
        run=run,
        graph=graph,
        file=written,
        verification=None if checked is None else replace(checked, fewer=fewer),
        most_images=_taken(opened.task, None, qonnx=kind == "qonnx")[0],
        files={path: exporter.summary},
        note=_latency_note(opened, cpu) if kind == "onnx" else None,
    )


def _latency_note(opened: TrainedRun, cpu: Cpu) -> str | None:
    """The table behind a limit on latency is of files for some processors, which have kernels of their own."""
    measured = None if opened.policy is None else opened.policy.allocation.get("latency_cpu")
    if measured is None or measured == cpu:
        return None
    return (
        f"the policy was allocated with times of files for cpu={measured}, and this file is for cpu={cpu}: it may take "
        f"longer. Export with --cpu {measured}, or build the table with --cpu {cpu} and allocate again"
    )


def _checked(
    exporter: Exporter, path: Path, graph: IntegerGraph, opened: TrainedRun, images: int, compare_float: bool
) -> Agreement:
    """The file itself where it is one that we read; of other targets, what their Predictor gives of the graph."""
    if exporter.name in ("onnx", "qonnx"):
        return _verified(path, graph, opened, images, compare_float)
    predictor = exporter.predictor(graph, opened.task.space)
    batches: Any = opened.task.test.batches(min(images, CALIBRATION_SAMPLES))
    return verify_predictor(predictor, graph, sample_batches(batches, images), judge=_judge(opened.task))


def verify(file: Path, run: Path, *, images: int = VERIFIED_IMAGES, compare_float: bool = True) -> Verified:
    """Check a file against the network of a run folder.

    Args:
        file: an ONNX or QONNX file that `export` wrote; at most `QONNX_IMAGES` images for the latter.
        run: the folder that it was exported from.
        images: test images, at most those that there are.
        compare_float: time the float network beside the file.
    """
    if images < 1:
        raise ExportError(f"images={images}, legal is 1 or more.")
    opened, graph = lowered(run, "onnx", strict=False)
    few, fewer = _taken(opened.task, images, qonnx=is_qonnx(file))
    checked = replace(_verified(file, graph, opened, few, compare_float), fewer=fewer)
    content = _content(file, graph)
    own = content is not None or (checked.kind == "qonnx" and render_qonnx(graph) == file.read_bytes())
    if not own and not checked.right and checked.stranger is None:
        checked = replace(checked, stranger="it is not what this version writes of this run's weights")
    return Verified(content=content, verification=checked)


def _taken(task: Task, images: int | None, *, qonnx: bool) -> tuple[int, str | None]:
    """How many test images are run of those that were asked for, None for all; and why it is fewer."""
    slow = "the executor of QONNX is Python, and takes seconds for each"
    return taken(task, images, limit=QONNX_IMAGES if qonnx else None, slow=slow)


def taken(task: Task, images: int | None, *, limit: int | None = None, slow: str = "") -> tuple[int, str | None]:
    """How many test images are run, and why fewer than were asked for, under a limit that has the reason `slow`."""
    held = len(task.test)
    asked = held if images is None else images
    most = held if limit is None else min(held, limit)
    if asked <= most:
        return asked, None
    return most, f"{most} images instead of {asked}: {slow if most < held else 'the test set has no more'}."


def _content(file: Path, graph: IntegerGraph) -> OnnxFile | None:
    """What is in the file, if it is byte for byte what is written of this graph."""
    found = file.read_bytes()
    for pack, cpu, strict in product(get_args(Packing), CPUS, (False, True)):
        if strict and cpu == "vnni":  # nothing is narrowed anyway
            continue
        try:
            content, described = render_onnx(graph, file, pack=pack, cpu=cpu, strict=strict)
        except ExportError:  # strict refuses what this packing widens
            continue
        if content == found:
            return described
    return None


def export_targets() -> list[str]:
    """What can be exported to, by name."""
    return exporter_names()


def runtimes() -> list[str]:
    """Where the integers of a run can be asked for logits: the executor, every exporter's runtime, emulated boards."""
    return [EXECUTOR, *export_targets(), *BOARDS]


def lowered(
    run: Path, target: str, strict: bool, rounding: GraphRounding | None = None
) -> tuple[TrainedRun, IntegerGraph]:
    """The network of a run folder as the integer graph that a target computes, with its rounding or another."""
    _distributed.start()
    opened = open_run(run)
    return opened, integer_network(opened, run, rounding or find_exporter(target).rounding, strict=strict)


def integer_network(opened: TrainedRun, run: Path, rounding: GraphRounding, *, strict: bool = False) -> IntegerGraph:
    """The network of a run that is open already."""
    if opened.policy is None:
        raise ExportError(f"{run} was trained in float32. Train under a policy first: mixbit train --policy.")
    opened.fold()
    task = opened.task
    return lower(task.model.cpu(), task.network, [_calibration(opened)], rounding=rounding, strict=strict)


def predictor_of(
    opened: TrainedRun, run: Path, on: str, lowering: Callable[[GraphRounding], IntegerGraph] | None = None
) -> Predictor:
    """What ships of a run, as a Predictor: `executor`, the name of an exporter, or the core of an emulated board.

    Args:
        opened: the run.
        run: its folder, for messages.
        on: where it runs.
        lowering: gives the integer network with a rounding, for who keeps it; None lowers it.

    Raises:
        ExportError: another name, a run in float, or a runtime or compiler that is not here.
    """
    made = lowering or partial(integer_network, opened, run)
    if on == EXECUTOR:
        return ExecutorPredictor(made("float32"), opened.task.space)
    if on in BOARDS:
        return BoardPredictor(made(find_exporter("c").rounding), opened.task.space, board=on)
    if on not in export_targets():
        legal = runtimes()
        raise ExportError(f"on={on!r} is unknown.{did_you_mean(on, legal)} Legal: {', '.join(legal)}.")
    exporter = find_exporter(on)
    return exporter.predictor(made(exporter.rounding), opened.task.space)


def _calibration(opened: TrainedRun) -> Any:
    """Real inputs, the same for every target."""
    return opened.task.calibration(CALIBRATION_SAMPLES, opened.subject.seed)


def _verified(path: Path, graph: IntegerGraph, opened: TrainedRun, images: int, compare_float: bool) -> Verification:
    compare_float = compare_float and not is_qonnx(path)  # which no runtime can be timed with
    batches: Any = opened.task.test.batches(min(images, CALIBRATION_SAMPLES))
    plain = float_onnx(opened.task.model, opened.task.example()) if compare_float else None
    with progress_bar("verify", images, brief=True) as advance:
        given = watched(sample_batches(batches, images), advance, lambda batch: len(batch[0]), "images")
        return check(path, graph, given, judge=_judge(opened.task), float_model=plain)


def _judge(task: Task) -> Judge:
    """The task's metric, on the model's outputs made of the one tensor that a file gives."""
    with torch.no_grad(), in_evaluation(task.model):
        leaves, structure = _pytree.tree_flatten(_batch.call(task.model, task.example()))

    def outputs(tensor: Tensor) -> Any:
        return _pytree.tree_unflatten([tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)

    return Judge(objective=task.objective, outputs=outputs)
