"""Tables of microcontroller kernels and of MLPerf Tiny, from results; `tables.py` puts them into the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import markdown, result, when_run
from intervals import said

WIDTHS = (8, 7, 6, 5, 4, 3, 2)


def _rows() -> dict[tuple[str, str, str], dict[int, float]]:
    """(layer, core, kernels) -> bits -> instructions of one product."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in result("mcu_kernels")["rows"]:
        found.setdefault((row["layer"], row["core"], row["kernels"]), {})[row["bits"]] = row["per_mac"]
    return found


def _cells(values: dict[int, float], widths: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{values[bits]:.2f}" if bits in values else "-" for bits in widths)


def mcu_conv() -> str:
    """The convolution of the goals on one core, by bits, beside others."""
    found: dict[str, Any] = result("mcu_kernels")
    measured = _rows()
    layer = found["rows"][0]["layer"]
    ours = {kernels: measured.get((layer, "cortex-m4", kernels)) for kernels in ("dsp", "plain")}
    rows = [(f"mixbit, {kernels}", *_cells(values, WIDTHS)) for kernels, values in ours.items() if values]
    others = {"goal": found["goals"]}
    if (layer, "cortex-m4", "cmsis-nn") in measured:
        others |= {"CMSIS-NN, in the same run": measured[layer, "cortex-m4", "cmsis-nn"]}
    others |= {f"{name}, recorded earlier": values for name, values in found["peers"].items()}
    rows += [(name, *_cells({int(bits): one for bits, one in of.items()}, WIDTHS)) for name, of in others.items()]
    tools, exact = found["tools"], sum(row["exact"] for row in found["rows"])
    note = (
        f"{layer}, Cortex-M4. GCC {tools['gcc']}, QEMU {tools['qemu']}, {tools['flags']}. {exact} of "
        f"{len(found['rows'])} measured rows gave every byte of the reference executor.\n"
    )
    return markdown(("instructions of a product", *(f">{bits} bits" for bits in WIDTHS)), rows) + "\n" + note


def mcu_layers() -> str:
    """Other layers and cores."""
    rows = [(layer, core, kernels, *_cells(values, (8, 4, 2))) for (layer, core, kernels), values in _rows().items()]
    return markdown(("layer", "core", "kernels", ">8 bits", ">4 bits", ">2 bits"), rows) + "\n"


def mcu_counts() -> str:
    """Sums of a table beside whole networks that it was not made of."""
    found = result("mcu_counts")
    rows = [
        (f"{name}, its own table", *_errors(one["held_out_policies"])) for name, one in found["networks"].items()
    ] + [
        (f"{name}, from resnet20's kernels", *_errors(one["policies"]))
        for name, one in found.get("other_networks", {}).items()
    ]
    note = (
        f"Random policies of {', '.join(map(str, found['bits']))} bits on {found['core']}; mixbit {found['tools']}.\n"
    )
    return markdown(("network", ">policies", ">instructions", ">errors of the sum", ">largest"), rows) + "\n" + note


def _errors(rows: list[dict[str, Any]]) -> tuple[str, str, str, str]:
    measured = [row["measured"] / 1e6 for row in rows]
    errors = [row["error_percent"] for row in rows]
    return (
        str(len(rows)),
        f"{min(measured):.1f} to {max(measured):.1f} M",
        ", ".join(f"{error:+.2f} %" for error in errors),
        f"{max(map(abs, errors)):.2f} %",
    )


def c_exact() -> str:
    """Bytes of the generated C beside the reference executor's, on real images."""
    found: dict[str, Any] = {"exact": [], "boards": [], **result("export_c")}
    rows = []
    for name in dict.fromkeys(row["network"] for row in found["exact"] + found["boards"]):
        for packed in (False, True):
            here = [row for row in found["exact"] if (row["network"], row["packed_activations"]) == (name, packed)]
            rows += [_exact_row(name, f"host{', packed activations' if packed else ''}", here)] if here else []
        boards = [row for row in found["boards"] if row["network"] == name]
        if boards:
            cores = ", ".join(row["core"].removeprefix("cortex-").upper() for row in boards)
            rows.append(_exact_row(name, f"Cortex-{cores} (QEMU)", boards))
    columns = ("network", "where", ">images", ">logits equal", ">layers equal")
    return markdown(columns, rows) + "\n" if rows else "Not run yet.\n"


def _exact_row(name: str, where: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    samples, layers = (
        sum(values) for values in zip(*[(r["samples"], r["samples"] * r["layers"]) for r in rows], strict=True)
    )
    outputs, equal = sum(row["identical_outputs"] for row in rows), sum(row["identical_layers"] for row in rows)
    each = f"{rows[0]['samples']} each" if len(rows) > 1 else f"{samples:,}"
    return name, where, each, f"{outputs:,} of {samples:,}", f"{equal:,} of {layers:,}"


# ------------------------------------------------------------------------------------------------------- MLPerf Tiny

NETWORKS = {
    "resnet8": "ResNet-8",
    "ds-cnn": "DS-CNN",
    "mobilenetv1-0.25": "MobileNetV1 0.25",
    "ad-autoencoder": "autoencoder",
}
HOW = {"ptq": "no training", "tuned": "fine-tuned"}


def _image(row: dict[str, Any]) -> str:
    """`8 bits`, or how much of the 8-bit image's flash there was."""
    what = "8 bits" if row["part"] == 1 else f"mixed, {100 * row['part']:.0f} % flash"
    return what if row["kernels"] == "dsp" else f"{what}, plain kernels"


def _quality(found: dict[str, float]) -> str:
    if "relative_rms" in found:
        return f"error {100 * found['relative_rms']:.1f} %, ranks {found['score_rank_correlation']:.3f}"
    if "agreement" in found:
        return f"same class {100 * found['agreement']:.1f} %, persons {100 * found['agreement_persons']:.0f} %"
    more = f" ({100 * found['accuracy_all']:.1f} %)" if "accuracy_all" in found else ""
    return f"{100 * found['accuracy']:.2f} %{more}"


def _every_row() -> list[tuple[str, dict[str, Any]]]:
    rows = result("mlperf_tiny")["rows"]
    return [(label, row) for name, label in NETWORKS.items() for row in rows if row["network"] == name]


def mlperf_tiny() -> str:
    """Flash, RAM, instructions and quality, 8 bits beside a mixed policy."""
    found = result("mlperf_tiny")
    rows = [
        (
            name,
            _image(row),
            HOW[row["how"]],
            f"{row['predicted']['flash']:,}",
            f"{row['measured']['flash']:,}",
            f"{row['measured']['ram']:,}",
            f"{row['instructions'] / 1e6:.2f} M",
            _quality(row["quality"]),
        )
        for name, row in _every_row()
    ]
    columns = ("network", "weights", "quantized", ">flash, predicted", ">flash", ">RAM", ">instructions", "quality")
    return markdown(columns, rows) + "\n" + _exactness(found)


def _exactness(found: dict[str, Any]) -> str:
    rows = [row for _, row in _every_row()]
    host, board = ([row[where] for row in rows] for where in ("host", "board"))
    exact = sum(one["exact"] and other["exact"] for one, other in zip(host, board, strict=True))
    same = all(row["predicted"]["ram"] == row["measured"]["ram"] for row in rows)
    worst = max(abs(row["measured"]["flash"] / row["predicted"]["flash"] - 1) for row in rows)
    tools = found["tools"]
    sentences = (
        "Bytes of flash and RAM without startup code and C library; Cortex-M4, "
        f"GCC {tools['gcc']}, QEMU {tools['qemu']}, {tools['flags']}.",
        f"{exact} of {len(rows)} rows gave every byte of the reference executor, all layers of {host[0]['samples']} "
        f"inputs on the host and of {board[0]['samples']} on the M4.",
        f"Flash is at most {100 * worst:.1f} % from what was predicted, RAM {'exactly' if same else 'not'} that.",
        f"One seed. {' '.join(_errors_of_accuracies())}",
    )
    return "\n".join(sentences) + "\n"


def _errors_of_accuracies() -> list[str]:
    """A sentence for each number of test images."""
    found: dict[int, list[float]] = {}
    for _, row in _every_row():
        if "accuracy" in row["quality"]:
            found.setdefault(row["quality"]["samples"], []).append(row["quality"]["accuracy"])
    return [said(accuracies, samples) for samples, accuracies in sorted(found.items(), reverse=True)]


def mlperf_tiny_networks() -> str:
    """What the float networks reach, what is asked for, and on what."""
    networks = result("mlperf_tiny").get("networks", {})
    rows = [
        (label, networks[name]["data"], _float(networks[name]["float"]), networks[name]["target"])
        for name, label in NETWORKS.items()
        if name in networks
    ]
    return markdown(("network", "measured on", "float network", ">closed division asks for"), rows) + "\n"


def _float(found: dict[str, float]) -> str:
    if "persons" in found:
        return f"says person {found['persons']} of {found['samples']} times"
    return "-" if "relative_rms" in found else _quality(found)


def mlperf_tiny_bits() -> str:
    """Bits of every layer of the mixed policies."""
    seen, rows = set(), []
    for name, row in _every_row():
        key = (name, _image(row))
        if row["part"] != 1 and key not in seen:
            seen.add(key)
            rows.append((*key, f"{row['mean_bits']:.2f}", " ".join(map(str, row["bits"].values()))))
    return markdown(("network", "policy", ">bits of a weight", "weight bits, layer by layer"), rows) + "\n"


def front_page() -> str:
    """One result for the first page: a published network at 8 bits and at half the flash, both fine-tuned alike."""
    found = result("mlperf_tiny")
    if "resnet8" not in found.get("networks", {}):
        return "Not run yet.\n"
    rows = [("float32", "-", "-", "-", f"{100 * found['networks']['resnet8']['float']['accuracy']:.2f} %")]
    for row in found["rows"]:
        if row["network"] == "resnet8" and row["how"] == "tuned":
            bits = "8" if row["part"] == 1 else " ".join(map(str, row["bits"].values()))
            exact = "yes" if row["host"]["exact"] and row["board"]["exact"] else "no"
            rows.append((_image(row), bits, f"{row['measured']['flash']:,} B", exact, _quality(row["quality"])))
    columns = ("ResNet-8", "bits of the weights, layer by layer", ">flash", ">every byte as the reference", ">accuracy")
    return markdown(columns, rows) + "\n"


LITERT = {
    "resnet8": "ResNet-8",
    "ds-cnn": "DS-CNN",
    "mobilenetv1-0.25": "MobileNetV1 0.25",
    "ad-autoencoder": "autoencoder",
    "mobilenetv2": "MobileNetV2 1.0",
}


def litert() -> str:
    """Integers of published files in LiteRT and in the reference executor, by its rounding."""
    rows = []
    for one in result("litert")["networks"]:
        cells = []
        for rounding in ("litert", "double", "single"):
            found = one["differences"][rounding]
            other = found["inputs_with_other_output"]
            cells.append(f"{found['integers']:,} ({other})" if found["integers"] else "0")
        size = f"{one['layers']}, {one['integers'] / 1e6:.1f} M"
        rows.append((LITERT[one["network"]], f"{one['inputs']} {one['of']}", size, *cells))
    return markdown(("file", "inputs", ">tensors, integers", ">`litert`", ">`double`", ">`single`"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "front_page": when_run("mlperf_tiny", "rows")(front_page),
    "litert": when_run("litert", "networks")(litert),
    "mcu_conv": when_run("mcu_kernels", "rows")(mcu_conv),
    "mcu_layers": when_run("mcu_kernels", "rows")(mcu_layers),
    "mcu_counts": when_run("mcu_counts", "networks")(mcu_counts),
    "c_exact": c_exact,
    "mlperf_tiny": when_run("mlperf_tiny", "rows")(mlperf_tiny),
    "mlperf_tiny_bits": when_run("mlperf_tiny", "rows")(mlperf_tiny_bits),
    "mlperf_tiny_networks": when_run("mlperf_tiny", "networks")(mlperf_tiny_networks),
}
