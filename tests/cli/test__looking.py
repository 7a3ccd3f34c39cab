"""inspect, demo, list: every option reaches what it is for, and what there is is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer

from mixbit import cli, methods
from mixbit.cost import Costs, float_costs
from mixbit.network import FloatParameter, Join, Skipped
from mixbit.runs import Inspected, Outcome, Subject
from mixbit.testing.options import OptionCases, OptionRow, flags_of
from tests.cli import tiny
from tests.cli.typed import exactly, gives, handed, next_of, typed, written
from tests.support import chain

COMMANDS: Any = typer.main.get_command(cli.app)


def inspected(key: str) -> Any:
    return lambda words: handed("inspect", "inspect", "net", *words)[key]


class TestInspectOptions(OptionCases):
    """What is looked at."""

    owner = "mixbit inspect"
    options = flags_of(COMMANDS.commands["inspect"])
    rows = (
        OptionRow("model", ("net", "x.py:f"), lambda v: handed("inspect", "inspect", v)["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--data", ([], ["--data", "digits"]), inspected("subject"),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--input", ([], ["--input", "3x8x4"]), inspected("input_shape"), exactly(None, (3, 8, 4))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), inspected("subject"),
                  exactly(Subject(model="net"), Subject(model="net", weights=Path("w.pth")))),
        OptionRow("--json", ([], ["--json", "n.json"]), inspected("out"), exactly(None, Path("n.json"))),
    )  # fmt: skip


def test_a_network_is_shown_at_the_shape_that_was_typed(tmp_path: Path) -> None:
    said = typed("inspect", tiny.net(), "--input", "1x6x6", "--json", tmp_path / "n.json")
    layers = {one["name"]: one for one in json.loads((tmp_path / "n.json").read_text())["layers"]}
    assert layers["stem"]["input_shape"] == [1, 6, 6] and list(layers) == ["stem", "left", "right", "head"]
    assert all(title in said for title in ("Layers\n", "Where outputs meet\n", "Costs of one sample\n"))
    assert all(f"W{bits}A{bits}" in said for bits in (8, 4, 3, 2)) and "Left in float32" not in said
    assert written(said) == [tmp_path / "n.json"]
    assert next_of(said) == ["search", "limpq", tiny.net(), "--data", "imagefolder:DIR", "--run", "runs/search"]


def test_what_is_left_in_float_is_shown() -> None:
    net = chain((10, 10), (10, 10), (10, 10))
    found = Inspected(network=net, uniform={"W4A4": float_costs(net)}, float32=float_costs(net), input_shape=(1,))
    said = gives("inspect", found, "inspect", "net")
    for title in (
        "Where outputs meet",
        "Left in float32",
        "Parameters counted at 32 bits",
        "cannot be exported",
        "Wrote",
    ):
        assert title not in said
    more = replace(
        net,
        joins=(Join(name="add", kind="add", layers=("l0", "l1")),),
        skipped=(Skipped(name="odd", reason="no such kind", macs=1),),
        float_parameters=(FloatParameter(name="up.weight", size=10, macs=2, reason="not supported"),),
    )
    found = replace(found, network=more, unexportable="the model takes 2 tensors", own_data=True)
    said = gives("inspect", found, "inspect", "net")
    for title in ("Where outputs meet", "Left in float32", "Parameters counted at 32 bits"):
        assert title in said
    assert "Note: it cannot be exported as it is: the model takes 2 tensors.\n" in said
    assert next_of(said) == ["search", "limpq", "net", "--run", "runs/search"]


class TestDemoOptions(OptionCases):
    """Where it lies."""

    owner = "mixbit demo"
    options = flags_of(COMMANDS.commands["demo"])
    rows = (
        OptionRow("--run", ([], ["--run", "d"]), lambda words: handed("demo", "demo", *words)["run"],
                  exactly(Path("runs/demo"), Path("d"))),
    )  # fmt: skip


def test_what_is_said_of_the_demo() -> None:
    used = Costs(bitops=1024, weight_bits=3200, activation_bytes=64, peak_step="fc")
    rows = [Outcome(name=name, accuracy=0.5, costs=used) for name in ("float32", "limpq")]
    done = SimpleNamespace(outcomes=rows, float32=used, notes=["360 images"], files={Path("d/p"): "the bits"})
    said = gives("demo", done, "demo", "--run", "d")
    assert said.startswith("Digits\n") and "limpq     50.00 %" in said and "360 images" in said
    assert written(said) == [Path("d/p")] and next_of(said)[:2] == ["allocate", "d/search"]


def names(*words: str) -> list[str]:
    """The first column of a list."""
    lines = typed("list", *words).splitlines()
    return [line.split()[0] for line in lines[3 : lines.index("", 3) - 1]]


class TestListOptions(OptionCases):
    """Which list, and what of it."""

    owner = "mixbit list"
    options = flags_of(COMMANDS.commands["list"])
    rows = (
        OptionRow("what", ("methods", "data"), names,
                  lambda a, b: a == methods.names() and [one.partition(":")[0] for one in b] ==
                  ["cifar10", "digits", "fashion-mnist", "hf", "imagefolder"]),
        OptionRow("pattern", ([], ["limpq*"]), lambda words: names("methods", *words),
                  exactly(methods.names(), ["limpq", "limpq-init"])),
    )  # fmt: skip
