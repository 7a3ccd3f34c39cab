"""What an exported file holds, where its bytes are, and whether it is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, percent, size

if TYPE_CHECKING:
    from mixbit.export import Written
    from mixbit.export.onnx import OnnxFile, OnnxLayer
    from mixbit.export.qonnx import QonnxFile
    from mixbit.export.verify import Agreement, Timing, Verification
    from mixbit.integer import IntegerGraph

__all__ = ["file_tables", "lowering_notes_table", "saturation_warning", "verification_table"]


def file_tables(file: Written) -> tuple[Table, ...]:
    """What a file holds, layer by layer, and where its bytes are; of other exporters' files, how large they are."""
    from mixbit.export.onnx import OnnxFile
    from mixbit.export.qonnx import QonnxFile

    if isinstance(file, QonnxFile):
        return (_qonnx_table(file),)
    if isinstance(file, OnnxFile):
        return _layers_table(file), _bytes_table(file)
    return (_sizes_table(file.path),)


def _sizes_table(path: Path) -> Table:
    """Bytes of a file, or of the files of a folder."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    rows = tuple((str(one.relative_to(path.parent)), size(one.stat().st_size)) for one in files)
    return Table(title="Written", columns=("file", ">bytes"), rows=rows)


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
    from mixbit.export.onnx import PROMISES

    rows = tuple(
        (
            one.name,
            str(one.weight_bits),
            one.container,
            size(one.weight_bytes),
            size(one.scale_bytes + one.bias_bytes),
            (f"the weights of {one.again}" if one.again else "") or _why(one),
        )
        for one in file.layers
    )
    columns = ("layer", ">weight bits", "container", ">weight bytes", ">scales and biases", "why")
    note = f"Processors: {file.cpu}, {PROMISES[file.cpu]}."
    return Table(title="Layers in the file", columns=columns, rows=rows, notes=(note,))


def _why(layer: OnnxLayer) -> str:
    """Why a layer is not held or multiplied as the policy alone would have it."""
    reasons = (layer.widened, layer.narrowed, layer.unsigned, layer.needs_vnni, layer.apart)
    return "; ".join(reason for reason in reasons if reason)


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


def _speed_notes(found: Verification) -> list[str]:
    """The file beside the float network; a coarse clock can find no time at all."""
    if not {"file", "float32"} <= set(found.timings) or not found.timings["file"].median_ms:
        return []
    ratio = found.timings["float32"].median_ms / found.timings["file"].median_ms
    return [f"{ratio:.2f} times the speed of the float32 network in the same runtime (CPU time, one thread)."]


def verification_table(found: Agreement) -> Table:
    """Agreement with the reference executor, and time."""
    from mixbit.export.verify import Verification

    rows = [("images", str(found.images)), *_agreement_rows("same class as the reference", found, found.top1_agreement)]
    rows += [
        ("same output but for the last digits of a float32", percent(found.identical)),
        ("largest difference", f"{found.largest_difference:.3g} ({found.largest_steps:.3g} output steps)"),
    ]
    if found.accuracy is not None and found.reference_accuracy is not None:
        both = ", ".join(map(found.metric.text, (found.accuracy, found.reference_accuracy)))
        rows.append((f"{found.metric.name}, file and reference", both))
    notes = [found.fewer] if found.fewer else []
    notes += [f"No {found.metric.name}: {found.unmeasured}"] if found.unmeasured else []
    if isinstance(found, Verification):
        rows += [*_processor_rows(found), ("session creation", f"{found.session_ms:.0f} ms")]
        rows += [(f"one inference, {name}", _time(one)) for name, one in found.timings.items()]
        notes += _speed_notes(found)
    verdict = "The file computes what the reference computes." if found.right else "THE FILE IS WRONG."
    if found.stranger:
        verdict = "THE FILE DOES NOT COMPUTE WHAT THIS RUN COMPUTES: it is wrong, or of another run."
    return Table(title="Verification", columns=("what", ">found"), rows=tuple(rows), notes=(verdict, *notes))


def _processor_rows(found: Verification) -> list[tuple[str, str]]:
    """For which processors the file is, what this one does, and what the steps of narrowed layers cost."""
    rows: list[tuple[str, str]] = []
    if found.cpu is not None:
        rows.append(("exact on processors", found.cpu))
    if found.runtime_saturates is not None:
        rows.append(("sums of two products here", "saturate" if found.runtime_saturates else "are exact"))
    if found.narrowed:
        rows.append(("layers with wider steps", str(len(found.narrowed))))
        rows += _agreement_rows("same class as without wider steps", found, found.unnarrowed_agreement)
    if found.unnarrowed_accuracy is not None:
        rows.append((f"{found.metric.name} without wider steps", found.metric.text(found.unnarrowed_accuracy)))
    return rows


def _agreement_rows(name: str, found: Agreement, agreement: float | None) -> list[tuple[str, str]]:
    """Of classes, where the network names any."""
    if agreement is None:
        return []
    positions = f" of {count(found.positions)} positions" if found.positions > found.images else ""
    return [(name, percent(agreement) + positions)]


def saturation_warning(found: Agreement) -> str | None:
    """What to do about layers that this machine can compute wrongly; None if there is none."""
    from mixbit.export.verify import Verification

    if not isinstance(found, Verification) or not found.at_risk:
        return None
    return (
        f"Warning: {found.path} was exported for processors with VNNI, and on this one sums of two products saturate. "
        f"These layers can be wrong: {', '.join(found.at_risk)}. Export it with --cpu any for this machine."
    )


def _time(one: Timing) -> str:
    return f"{one.median_ms:.3f} ms (spread {one.spread_ms:.3f}, {one.rounds} rounds)"
