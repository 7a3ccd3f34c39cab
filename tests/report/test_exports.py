"""Tables on exported files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mixbit.export.onnx import OnnxFile, OnnxLayer
from mixbit.export.qonnx import QonnxFile, QonnxLayer
from mixbit.export.verify import Timing, Verification
from mixbit.integer import IntegerGraph
from mixbit.integer.graph import Note
from mixbit.metric import MetricInfo
from mixbit.report import file_tables, lowering_notes_table, saturation_warning, verification_table

LAYER = OnnxLayer(
    name="conv",
    weights=640,
    weight_bits=3,
    container="packed 3 bit",
    weight_bytes=240,
    scale_bytes=40,
    bias_bytes=40,
    widened=None,
    unsigned=None,
)
FILE = OnnxFile(
    path=Path("net.onnx"),
    size_bytes=480,
    layers=(LAYER, replace(LAYER, name="fc", container="int8", widened="a byte each")),
    items={"weights": 240, "tables": 0, "graph": 240},
    opset=21,
    ir_version=10,
)
FOUND = Verification(
    path=Path("net.onnx"),
    size_bytes=480,
    images=1000,
    top1_agreement=1.0,
    identical=0.998,
    largest_difference=0.01,
    largest_steps=0.4,
    reference_accuracy=0.9,
    accuracy=0.901,
    session_ms=12.0,
    timings={
        "file": Timing(median_ms=0.5, spread_ms=0.01, rounds=20),
        "float32": Timing(median_ms=1.25, spread_ms=0.02, rounds=20),
    },
)


def test_layers_and_bytes_of_an_onnx_file() -> None:
    layers, content = file_tables(FILE)
    assert layers.rows[0][:3] == ("conv", "3", "packed 3 bit") and layers.rows[1][-1] == "a byte each"
    assert [row[0] for row in content.rows] == ["weights", "graph", "file"]
    assert "100.00%" in content.notes[0].replace(" ", "")  # 480 bytes over (640 + 640) * 3 / 8


def test_layers_of_a_qonnx_file() -> None:
    layer = QonnxLayer(
        name="fc", kind="MatMul", weight_bits=3, activation_bits=4, weights=640, macs=640, size_bytes=2640
    )
    (table,) = file_tables(QonnxFile(path=Path("net.onnx"), size_bytes=4000, layers=(layer,)))
    assert table.rows[0][:3] == ("fc", "3", "4") and "float32" in table.notes[0]


def test_verification_says_what_it_found() -> None:
    table = verification_table(FOUND)
    text = table.plain()
    assert "The file computes what the reference computes." in text and "2.50 times" in text
    assert "same output but for the last digits of a float32" in dict(table.rows)
    wrong = verification_table(replace(FOUND, top1_agreement=0.5, accuracy=None, timings={}))
    assert wrong.notes == ("THE FILE IS WRONG.",)
    other = verification_table(replace(FOUND, top1_agreement=0.5, timings={}, stranger="its bits are others"))
    assert "of another run" in other.notes[0]
    assert not any(row[0].startswith("accuracy") for row in wrong.rows)


def test_no_speed_is_told_of_a_time_too_short_to_measure() -> None:
    timings = {**FOUND.timings, "file": Timing(median_ms=0.0, spread_ms=0.0, rounds=20)}
    table = verification_table(replace(FOUND, timings=timings))
    assert "times the speed" not in table.plain() and "one inference, file" in dict(table.rows)


def test_notes_of_lowering() -> None:
    graph = IntegerGraph(input="x", output="y", tensors={}, ops=(), fingerprint="")
    assert lowering_notes_table(graph) is None
    noted = replace(graph, notes=(Note(name="add", kind="calibrated", reason="read by a pool"),))
    table = lowering_notes_table(noted)
    assert table is not None and table.rows == (("add", "calibrated", "read by a pool"),)


def test_why_a_layer_is_not_as_the_policy_has_it() -> None:
    fields = ("widened", "narrowed", "unsigned", "needs_vnni", "apart")
    layers = [replace(LAYER, **{field: field}) for field in fields]
    both = replace(LAYER, unsigned="uint8", apart="two bytes")
    table, _ = file_tables(replace(FILE, layers=(*layers, both, LAYER), cpu="vnni"))
    assert [row[-1] for row in table.rows] == [*fields, "uint8; two bytes", ""]
    assert table.notes[0].startswith("Processors: vnni, the policy's integers on processors with VNNI")


def test_processors_and_wider_steps_are_told() -> None:
    found = replace(
        FOUND,
        cpu="any",
        runtime_saturates=True,
        narrowed=("a", "b"),
        unnarrowed_agreement=0.999,
        unnarrowed_accuracy=0.902,
    )
    rows = dict(verification_table(found).rows)
    assert rows["exact on processors"] == "any" and rows["sums of two products here"] == "saturate"
    assert rows["layers with wider steps"] == "2" and rows["accuracy without wider steps"] == "90.20 %"
    assert saturation_warning(found) is None


def test_only_classifications_have_classes_and_every_task_its_metric() -> None:
    error = MetricInfo(name="error", unit="mm", larger_is_better=False)
    known = replace(
        FOUND, metric=error, accuracy=1.25, reference_accuracy=1.5, unnarrowed_accuracy=1.0, narrowed=("a",)
    )
    rows = dict(verification_table(replace(known, top1_agreement=None)).rows)
    assert not any("class" in name for name in rows) and rows["layers with wider steps"] == "1"
    assert rows["error, file and reference"] == "1.25 mm, 1.5 mm" and rows["error without wider steps"] == "1 mm"
    pixels = dict(verification_table(replace(known, top1_agreement=0.999, positions=64_000)).rows)
    assert verification_table(replace(FOUND, fewer="3 of 9.")).notes[1] == "3 of 9."
    assert pixels["same class as the reference"] == "99.90 % of 64.00 k positions"
    one_each = dict(verification_table(replace(known, top1_agreement=0.999, positions=known.images)).rows)
    assert one_each["same class as the reference"] == "99.90 %", "an image has one position"
    assert (
        verification_table(replace(FOUND, unmeasured="no target counts.")).notes[1] == "No accuracy: no target counts."
    )


def test_layers_that_can_saturate_here_are_named() -> None:
    fast = replace(FOUND, cpu="vnni", needs_vnni=("conv1", "conv2"))
    assert saturation_warning(replace(fast, runtime_saturates=False)) is None
    warning = saturation_warning(replace(fast, runtime_saturates=True))
    assert warning is not None and "conv1, conv2" in warning and "--cpu any" in warning


def test_where_the_bytes_of_a_file_are() -> None:
    fc = replace(LAYER, name="fc", weights=320, weight_bits=4, weight_bytes=160, scale_bytes=8, bias_bytes=4)
    file = replace(FILE, layers=(LAYER, fc), size_bytes=1000, items={"weights": 400, "tables": 0, "graph": 600})
    layers, content = file_tables(file)
    assert layers.rows[0] == ("conv", "3", "packed 3 bit", "240 B", "80 B", "")
    assert layers.rows[1] == ("fc", "4", "packed 3 bit", "160 B", "12 B", "")
    assert content.rows == (
        ("weights", "400 B", "40.00 %"),
        ("graph", "600 B", "60.00 %"),
        ("file", "1000 B", "100.00 %"),
    )
    # 640 weights of 3 bits and 320 of 4
    assert content.notes[0] == "The policy's weights take 400 B; the file has 250.00 % of that."
    again = file_tables(replace(file, layers=(LAYER, replace(fc, again="conv", widened="no"))))[0]
    assert again.rows[1][-1] == "the weights of conv"


def test_all_of_a_qonnx_layer() -> None:
    layer = QonnxLayer(
        name="fc", kind="MatMul", weight_bits=3, activation_bits=4, weights=640, macs=2000, size_bytes=2560
    )
    (table,) = file_tables(QonnxFile(path=Path("net.onnx"), size_bytes=4096, layers=(layer,)))
    assert table.rows == (("fc", "3", "4", "2.000 k", "24.00 k", "2.500 KiB"),)
    assert table.notes[0].startswith("The file has 4.000 KiB: ")


def test_all_numbers_of_a_verification() -> None:
    found = replace(
        FOUND, top1_agreement=0.995, accuracy=0.9, reference_accuracy=0.8, runtime_saturates=False, cpu="any"
    )
    table = verification_table(found)
    assert table.rows == (
        ("images", "1000"),
        ("same class as the reference", "99.50 %"),
        ("same output but for the last digits of a float32", "99.80 %"),
        ("largest difference", "0.01 (0.4 output steps)"),
        ("accuracy, file and reference", "90.00 %, 80.00 %"),
        ("exact on processors", "any"),
        ("sums of two products here", "are exact"),
        ("session creation", "12 ms"),
        ("one inference, file", "0.500 ms (spread 0.010, 20 rounds)"),
        ("one inference, float32", "1.250 ms (spread 0.020, 20 rounds)"),
    )
    narrowed = replace(found, narrowed=("a",), unnarrowed_agreement=0.75)
    assert ("same class as without wider steps", "75.00 %") in verification_table(narrowed).rows
