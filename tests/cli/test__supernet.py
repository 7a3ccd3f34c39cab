"""supernet train, supernet evaluate: every option reaches what it is for, and what was found is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from mixbit import cli
from mixbit.cost import LayerBits
from mixbit.policy import Front
from mixbit.runs import Subject
from mixbit.testing.options import OptionCases, OptionRow, flags_of
from tests.cli import tiny
from tests.cli.typed import exactly, handed, next_of, typed, written

COMMANDS: Any = typer.main.get_command(cli.app).commands["supernet"]  # type: ignore[attr-defined]
TRAIN = ("supernet", "train", "net", "--run", "r")
EVALUATE = ("supernet", "evaluate", "r")


def trained(key: str) -> Any:
    return lambda words: handed("train_supernet", *TRAIN, *words)[key]


def setting(key: str) -> Any:
    return lambda words: handed("train_supernet", *TRAIN, *words)["settings"].get(key, "unset")


class TestTrainOptions(OptionCases):
    """What the training does with its settings is in the table of SupernetTraining."""

    owner = "mixbit supernet train"
    options = flags_of(COMMANDS.commands["train"])
    rows = (
        OptionRow("model", ("net", "x.py:f"),
                  lambda v: handed("train_supernet", *TRAIN[:2], v, "--run", "r")["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--run", ([], ["--run", "s"]), trained("run"), exactly(Path("r"), Path("s"))),
        OptionRow("--data", ([], ["--data", "digits"]), trained("subject"),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), trained("subject"),
                  exactly(Subject(model="net"), Subject(model="net", weights=Path("w.pth")))),
        OptionRow("--seed", ([], ["--seed", "3"]), trained("subject"),
                  exactly(Subject(model="net", seed=0), Subject(model="net", seed=3))),
        OptionRow("--bits", ([], ["--bits", "8,2"]), setting("bits"), exactly("unset", [8, 2])),
        OptionRow("--activations", ([], ["--activations", "batchquant"]), setting("activations"),
                  exactly("unset", "batchquant")),
        OptionRow("--norms", ([], ["--norms", "pair"]), setting("norms"), exactly("unset", "pair")),
        OptionRow("--epochs", ([], ["--epochs", "7"]), setting("epochs"), exactly("unset", 7)),
        OptionRow("--batch-size", ([], ["--batch-size", "48"]), setting("batch_size"), exactly("unset", 48)),
        OptionRow("--fraction", ([], ["--fraction", "0.5"]), setting("fraction"), exactly("unset", 0.5)),
        OptionRow("--lr", ([], ["--lr", "0.03"]), setting("lr"), exactly("unset", 0.03)),
        OptionRow("--set", ([], ["--set", "passes=3", "--set", "held_out=0.2"]),
                  lambda words: handed("train_supernet", *TRAIN, *words)["settings"],
                  exactly({}, {"passes": 3, "held_out": 0.2})),
    )  # fmt: skip


def evaluated(key: str) -> Any:
    return lambda words: handed("evaluate_supernet", *EVALUATE, "--bits", "4x4", *words)[key]


class TestEvaluateOptions(OptionCases):
    owner = "mixbit supernet evaluate"
    options = flags_of(COMMANDS.commands["evaluate"])
    rows = (
        OptionRow("run", ("r", "s"), lambda v: handed("evaluate_supernet", *EVALUATE[:2], v)["run"],
                  exactly(Path("r"), Path("s"))),
        OptionRow("--policy", ([], ["--policy", "a.json", "--policy", "b.json"]), evaluated("policies"),
                  lambda a, b: (list(a), list(b)) == ([], [Path("a.json"), Path("b.json")])),
        OptionRow("--bits", ([], ["--bits", "W2A8"]), evaluated("bits"),
                  exactly([LayerBits(4, 4)], [LayerBits(4, 4), LayerBits(2, 8)])),
        OptionRow("--data", ([], ["--data", "digits"]), evaluated("data"), exactly(None, "digits")),
        OptionRow("--test", ([], ["--no-test"]), evaluated("test"), exactly(True, False)),
    )  # fmt: skip


def test_a_supernet_is_trained_evaluated_and_searched_as_it_is_typed(tmp_path: Path) -> None:
    """What each says, with its steps really made."""
    run = tmp_path / "net"
    words = ["supernet", "train", tiny.net(), "--data", "digits", "--run", run, "--seed", "4", "--bits", "4,2"]
    options = ["--epochs", "2", "--batch-size", "32", "--fraction", "0.05", "--set", "passes=2"]
    said = typed(*words, *options, "--set", "statistics_images=32", "--set", "calibration_images=16")
    lines = [json.loads(line)["subnets"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines, start=1):
        low, high = (f"{100 * line[name]['accuracy']:.2f} %" for name in ("W2A2", "W4A4"))
        assert f"epoch {number}: W2A2 accuracy {low}, W4A4 accuracy {high} on held-out samples\n" in said
    assert len(lines) == 2 and "Note: no --weights" in said and "Held out: 144 training samples" in said
    assert json.loads((run / "config.json").read_text())["subject"]["seed"] == 4
    names = ["supernet.safetensors", "supernet.json", "network.json", "metrics.jsonl"]
    assert [path.name for path in written(said)] == names
    following = next_of(said)
    assert following == ["search", "qfa", str(run), "--run", str(tmp_path / "front")]

    shown = typed("supernet", "evaluate", run, "--policy", _policy(tmp_path), "--bits", "2x4")
    assert "mine.json" in shown and "W2A4" in shown and "Test: 360 samples, to report" in shown
    assert "Test" not in typed("supernet", "evaluate", run, "--bits", "2x2", "--no-test")
    assert "has no effect" in typed(*following, "--epochs", "3", code=2)

    said = typed(*following, "--set", "population=3", "--set", "generations=1", "--set", 'costs=["weight_bytes"]')
    assert "Front of qfa" in said and "no --weights" not in said
    assert Front.load(tmp_path / "front" / "front.json").settings["costs"] == ["weight_bytes"]


def _policy(folder: Path) -> Path:
    from mixbit.policy import Policy

    Policy.uniform(tiny.task().network, 4, 2).save(folder / "mine.json")
    return folder / "mine.json"


@pytest.mark.parametrize("text", ["4", "4x", "W4", "x", "4x4x4"])
def test_bits_that_are_none(text: str) -> None:
    said = typed(*EVALUATE, "--bits", text, code=2)
    assert f"--bits '{text}' are no bits. Write weight bits, x, activation bits: 4x4." in said
