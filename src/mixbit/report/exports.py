"""What an exported file holds, where its bytes are, and whether it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, percent, size

if TYPE_CHECKING:
    from mixbit.export import IntegerGraph
    from mixbit.export.onnx import OnnxFile
    from mixbit.export.qonnx import QonnxFile
    from mixbit.export.verify import Timing, Verification

__all__ = ["file_tables", "lowering_notes_table", "verification_table"]


def file_tables(file: OnnxFile | QonnxFile) -> tuple[Table, ...]:
    """What a file holds, layer by layer, and where its bytes are."""
    from mixbit.export.qonnx import QonnxFile

    if isinstance(file, QonnxFile):
        return (_qonnx_table(file),)
    return _layers_table(file), _bytes_table(file)


def _qonnx_table(file: QonnxFile) -> Table:
    rows = tuple(
        (
            one.name,
            f"{one.weight_bits}",
            f"{one.activation_bits}",
            count(one.macs),
            count(one.bitops),
            size(one.size_bytes),
        )
        for one in file.layers
    )
    columns = ("layer", ">weight bits", ">activation bits", ">MACs", ">BitOps", ">bytes, float32")
    note = f"The file has {size(file.size_bytes)}: QONNX keeps weights in float32, for tools and not for devices."
    return Table(title="Layers in the file", columns=columns, rows=rows, notes=(note,))


def _layers_table(file: OnnxFile) -> Table:
    """Every layer as the file holds it: bits of the policy, container, bytes; and what was widened, with the reason."""
    rows = tuple(
        (
            one.name,
            str(one.weight_bits),
            one.container,
            size(one.weight_bytes),
            size(one.scale_bytes + one.bias_bytes),
            (f"the weights of {one.again}" if one.again else "") or one.widened or one.unsigned or "",
        )
        for one in file.layers
    )
    columns = ("layer", ">weight bits", "container", ">weight bytes", ">scales and biases", "why")
    return Table(title="Layers in the file", columns=columns, rows=rows)


def _bytes_table(file: OnnxFile) -> Table:
    """Where the bytes of the file are, beside what the policy gives to its weights."""
    rows = tuple((name, size(part), percent(part / file.size_bytes)) for name, part in file.items.items() if part)
    rows += (("file", size(file.size_bytes), percent(1.0)),)
    note = f"The policy's weights take {size(file.policy_bytes)}; the file has {percent(file.overhead)} of that."
    return Table(title="Bytes", columns=("part", ">bytes", ">of the file"), rows=rows, notes=(note,))


def lowering_notes_table(graph: IntegerGraph) -> Table | None:
    """What lowering had to choose by itself; None if nothing."""
    if not graph.notes:
        return None
    rows = tuple((note.name, note.kind, note.reason) for note in graph.notes)
    return Table(title="Chosen by lowering", columns=("tensor or layer", "what", "why"), rows=rows)


def verification_table(found: Verification) -> Table:
    """Agreement with the reference executor, and time."""
    rows = [
        ("images", str(found.images)),
        ("same class as the reference", percent(found.top1_agreement)),
        ("same output to the last digit", percent(found.identical)),
        ("largest difference", f"{found.largest_difference:.3g} ({found.largest_steps:.3g} output steps)"),
    ]
    if found.accuracy is not None and found.reference_accuracy is not None:
        rows.append(("accuracy, file and reference", f"{percent(found.accuracy)}, {percent(found.reference_accuracy)}"))
    rows.append(("session creation", f"{found.session_ms:.0f} ms"))
    rows += [(f"one inference, {name}", _time(one)) for name, one in found.timings.items()]
    notes = []
    if {"file", "float32"} <= set(found.timings):
        ratio = found.timings["float32"].median_ms / found.timings["file"].median_ms
        notes.append(f"{ratio:.2f} times the speed of the float32 network in the same runtime (CPU time, one thread).")
    verdict = "The file computes what the reference computes." if found.right else "THE FILE IS WRONG."
    return Table(title="Verification", columns=("what", ">found"), rows=tuple(rows), notes=(verdict, *notes))


def _time(one: Timing) -> str:
    return f"{one.median_ms:.3f} ms (spread {one.spread_ms:.3f}, {one.rounds} rounds)"
