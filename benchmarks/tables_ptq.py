"""The table of post-training quantization, from benchmarks/results/ptq.json; `tables.py` puts it into the page."""

from __future__ import annotations

from collections.abc import Callable

from common import markdown, ran_on, result
from intervals import said


def ptq() -> str:
    """Accuracy, what was chosen, and what it took."""
    whole = result("ptq")["rows"]
    images = max(row["test_images"] for row in whole)
    (reference,) = (row for row in whole if row["method"] == "float" and row["test_images"] == images)
    measured = [row for row in whole if row["method"] != "float" and row["test_images"] == images]
    rows = [
        (
            row["setting"],
            row["method"] + (", bias correction" if row["bias_correction"] else ""),
            row["samples"],
            f"{100 * row['accuracy']:.2f} %",
            row["chosen"],
            row["evaluations"],
            f"{row['cpu_seconds']:.1f} s",
        )
        for row in measured
    ]
    rows.sort(key=lambda row: row[0])
    columns = ("bits", "method", ">images", ">accuracy", "chosen", ">passes", ">time of one core")
    note = (
        f"Float accuracy {100 * reference['accuracy']:.2f} %, on the first {images} test images; one "
        "step a tensor, first and last layer at 8 bits, inputs in float where no bits are named.\n"
    )
    note += said((row["accuracy"] for row in measured), images) + "\n"
    note += f"Time: {ran_on(result('ptq'), measured)}.\n"
    return markdown(columns, rows) + "\n" + note


TABLES: dict[str, Callable[[], str]] = {"ptq": ptq}
