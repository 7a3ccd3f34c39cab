"""The table of a topological-entropy search shows the control beside each entropy."""

from __future__ import annotations

from typing import Any

from mixbit.policy import LayerScores, Scores
from mixbit.report import entropy_table

ROW = {
    "layer": "conv1",
    "te": 3.37,
    "null": 2.782,
    "normalised": 0.588,
    "size": 32,
    "channels": 16,
    "births": 0.816,
    "blind": 2,
    "tensor": "layer1.0.relu",
    "after": ["batch_norm", "relu"],
}


def scores(graph: str = "unit", /, **details: Any) -> Scores:
    found = {
        "label": 3,
        "layers": [ROW],
        "fallback": ["fc: its output (10,) has no two-dimensional map; it got 8 bits"],
        "below_noise": [],
        "graph": "exported",
        "spearman_with_noise": 0.88,
        "spearman_with_size": 0.94,
        "maps": 2048,
        "map_bytes_peak": 2**21,
        **details,
    }
    return Scores(
        fingerprint="sha256:0123456789abcdef",
        method="topological-entropy",
        layers={"conv1": LayerScores(weight={8: 0.0}, activation={8: 0.0})},
        settings={"images": 128, "graph": graph, "topological_entropy": found},
    )


def test_entropy_beside_noise() -> None:
    table = entropy_table(scores())
    assert table is not None
    assert table.rows == (("conv1", "32x32", "16", "81.60 %", "3.370", "2.782", "0.588", "layer1.0.relu"),)
    text = table.plain()
    assert "128 images of label 3" in text and "2.000 MiB of maps at a time" in text
    assert "noise of the same sizes: 0.88, with the size of the maps: 0.94" in text
    assert "Not measured: fc: its output (10,) has no two-dimensional map; it got 8 bits." in text


def test_what_may_be_missing() -> None:
    table = entropy_table(scores(spearman_with_noise=None, below_noise=["conv1"], graph="no one graph"))
    assert table is not None
    assert "Rank correlation" not in table.plain()
    assert "Below noise: conv1." in table.plain()
    assert "Read at the layers' own outputs: no one graph." in table.plain()


def test_pixels_as_vertices_are_told() -> None:
    table = entropy_table(scores("grid", layers=[{**ROW, "shape": [24, 32]}]))
    assert table is not None
    assert table.rows[0][1] == "24x32"
    assert "Vertices are the pixels of a map (graph='grid')" in table.plain()
    plain = entropy_table(scores())
    assert plain is not None and "pixels" not in plain.plain()


def test_scores_of_other_methods_have_no_such_table() -> None:
    other = Scores(fingerprint="sha256:0123456789abcdef", method="limpq", layers={})
    assert entropy_table(other) is None
