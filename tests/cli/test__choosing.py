"""Commands that choose bits: every option reaches what it is for, and what is found is shown."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from mixbit import cli, report, runs
from mixbit.allocation import AllocationSettings
from mixbit.cost import Budget, LatencyTable, LayerBits
from mixbit.export.c import COptions, footprint
from mixbit.export.c._options import Kernels
from mixbit.integer import GraphRounding, lower_at
from mixbit.metric import ACCURACY
from mixbit.policy import Front, FrontPoint, Measured, Policy, Scores
from mixbit.runs import Searched, Subject, _folder
from mixbit.runs.inspecting import open_model
from mixbit.testing.options import OptionCases, OptionRow, flags_of
from tests.allocation.by_hand import ENDS, NETWORK, SCORES
from tests.cli import tiny
from tests.cli.typed import exactly, gives, handed, next_of, typed, written
from tests.needs import need
from tests.report.compared import comparison
from tests.support import best_by_enumeration, latency_table

COMMANDS: Any = typer.main.get_command(cli.app)

# --------------------------------------------------------------------------------------------------------- search

SEARCH = ("search", "fit", "net", "--run", "r")


def test_search_asks_for_no_more_than_was_typed() -> None:
    found = handed("search", *SEARCH)
    assert found == {
        "subject": Subject(model="net"), "method": "fit", "settings": {}, "run": Path("r"), "budget": (), "pins": {},
        "first_last": LayerBits(8, 8), "latency": None, "c_options": COptions(kernels="dsp"), "rounding": "single",
        "task": None, "quiet": False,
    }  # fmt: skip


def setting(key: str) -> Any:
    """What a flag of search becomes among the settings."""
    return lambda words: handed("search", *SEARCH, *words)["settings"].get(key, "unset")


def searched(key: str) -> Any:
    """What a flag of search is handed on as."""
    return lambda words: handed("search", *SEARCH, *words)[key]


def subject_of(function: str, *words: str) -> Any:
    return lambda more: handed(function, *words, *more)["subject"]


class TestSearchOptions(OptionCases):
    """What methods do with their settings is in the tables of the methods."""

    owner = "mixbit search"
    options = flags_of(COMMANDS.commands["search"])
    rows = (
        OptionRow("method", ("fit", "sqnr"), lambda v: handed("search", "search", v, *SEARCH[2:])["method"],
                  exactly("fit", "sqnr")),
        OptionRow("model", ("net", "x.py:f"), lambda v: handed("search", *SEARCH[:2], v, "--run", "r")["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--run", ("r", "s"), lambda v: handed("search", *SEARCH[:3], "--run", v)["run"],
                  exactly(Path("r"), Path("s"))),
        OptionRow("--data", ([], ["--data", "digits"]), subject_of("search", *SEARCH),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), subject_of("search", *SEARCH),
                  exactly(Subject(model="net"), Subject(model="net", weights=Path("w.pth")))),
        OptionRow("--seed", ([], ["--seed", "3"]), subject_of("search", *SEARCH),
                  exactly(Subject(model="net", seed=0), Subject(model="net", seed=3))),
        OptionRow("--epochs", ([], ["--epochs", "7"]), setting("epochs"), exactly("unset", 7)),
        OptionRow("--batch-size", ([], ["--batch-size", "48"]), setting("batch_size"), exactly("unset", 48)),
        OptionRow("--fraction", ([], ["--fraction", "0.5"]), setting("fraction"), exactly("unset", 0.5)),
        OptionRow("--lr", ([], ["--lr", "0.03"]), setting("lr"), exactly("unset", 0.03)),
        OptionRow("--bits", ([], ["--bits", "4,2"]), setting("bits"), exactly("unset", (4, 2))),
        OptionRow("--faithful", ([], ["--faithful"]), setting("faithful"), exactly("unset", True)),
        OptionRow("--faithful", ([], ["--no-faithful"]), setting("faithful"), exactly("unset", False), says="no"),
        OptionRow("--budget", ([], ["--budget", "b", "--budget", "c"]), searched("budget"), exactly((), ["b", "c"])),
        OptionRow("--pin", ([], ["--pin", "left=W3A5"]), searched("pins"), exactly({}, {"left": LayerBits(3, 5)})),
        OptionRow("--first-last", ([], ["--first-last", "W4A6"]), searched("first_last"),
                  exactly(LayerBits(8, 8), LayerBits(4, 6))),
        OptionRow("--first-last", ([], ["--first-last", "free"]), searched("first_last"),
                  exactly(LayerBits(8, 8), None), says="free"),
        OptionRow("--latency", ([], ["--latency", "t.json"]), searched("latency"), exactly(None, Path("t.json"))),
        OptionRow("--kernels", ([], ["--kernels", "plain"]), searched("c_options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="plain"))),
        OptionRow("--pack-activations", ([], ["--pack-activations"]), searched("c_options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="dsp", pack_activations=True))),
        OptionRow("--rounding", ([], ["--rounding", "litert"]), searched("rounding"), exactly("single", "litert")),
        OptionRow("--set", ([], ["--set", "images=8", "--set", "batch_size=4"]),
                  lambda words: handed("search", *SEARCH, *words)["settings"],
                  exactly({}, {"images": 8, "batch_size": 4})),
    )  # fmt: skip


def test_a_search_says_what_it_did_and_what_comes_next(tmp_path: Path) -> None:
    """With its steps really made: 2 epochs."""
    words = ["search", "limpq", tiny.net(), "--data", "digits", "--run", tmp_path / "s", "--seed", "5"]
    options = ["--epochs", "2", "--batch-size", "48", "--fraction", "0.1", "--lr", "0.02", "--bits", "4,3"]
    said = typed(*words, *options, "--set", "alpha=0.25")
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    given = {"epochs": 2, "batch_size": 48, "fraction": 0.1, "lr": 0.02, "bits": [4, 3], "alpha": 0.25}
    assert config["settings"] == given and config["subject"]["seed"] == 5 and config["method"] == "limpq"
    found = Scores.load(tmp_path / "s" / "scores.json")
    assert found.alpha == 0.25 and {tuple(sorted(one.weight)) for one in found.layers.values()} == {(3, 4)}
    lines = [json.loads(line) for line in (tmp_path / "s" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert "limpq scored 2 of 4 layers." in said and "Note: no --weights" in said
    names = ["scores.json", "network.json", "config.json", "metrics.jsonl"]
    assert [path.name for path in written(said)] == names
    policy = str(tmp_path / "s" / "policy.json")
    assert next_of(said) == ["allocate", str(tmp_path / "s"), "--budget", "bitops=3x3", "--out", policy]


def test_notes_of_a_method_are_shown_and_given_weights_are_not_missed() -> None:
    network = tiny.task().network
    table = Scores.load(tiny.scores() / "scores.json")

    done = Searched(result=table, network=network, files={Path("a"): "b"}, subject=tiny.subject())
    with mock.patch.object(Searched, "notes", ("labels are not smoothed",)):
        said = gives("search", done, *SEARCH, "--weights", "w.pth")
    assert (
        "fit scored 4 of 4 layers.\nNote: labels are not smoothed\nWrote a  b\n" in said and "no --weights" not in said
    )


def test_a_search_under_a_budget_shows_its_policy(tmp_path: Path) -> None:
    words = ["search", "random-search", tiny.net(), "--data", "digits", "--run", tmp_path / "s"]
    some = ["--set", "trials=2", "--set", "images=16", "--set", "calibration_images=8"]
    said = typed(*words, "--budget", "bitops=4x4", "--pin", "left=W2A3", *some)
    found = Policy.load(tmp_path / "s" / "policy.json")
    assert "random-search chose the bits of 4 layers within bitops=4x4." in said
    assert re.search(r"^left +2 +3 +pinned$", said, re.MULTILINE) and found.layers["left"] == LayerBits(2, 3)
    assert all(f"Note: {note}" in said for note in found.notes) and "bitops=4x4 57.34 k" in " ".join(said.split())
    # 2 x 3 of 2304 MACs, 4 x 4 of 256, and 8 x 8 of 576 + 40 are what the budget allows
    policy = str(tmp_path / "s" / "policy.json")
    assert next_of(said)[:5] == ["train", tiny.net(), "--data", "digits", "--policy"] and policy in next_of(said)
    assert "there is none. Give --budget" in typed(*words, *some, code=2)


def test_a_search_by_episodes_shows_and_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["search", "haq", tiny.net(), "--data", "digits", "--run", tmp_path / "s", "--budget", "bitops=4x4"]
    some = ["--set", "episodes=4", "--set", "warmup=2", "--set", "images=16", "--set", "calibration_images=8"]
    said = typed(*words, *some)
    assert "haq chose the bits of 4 layers within bitops=4x4." in said and "Episodes" in said
    assert re.search(r"^0 to 1 +random ", said, re.MULTILINE) and "The agent itself took" in said
    names = ["policy.json", "network.json", "config.json", "haq-episodes.jsonl", "episodes.html"]
    assert [path.name for path in written(said)] == names
    monkeypatch.setitem(sys.modules, "plotly", None)
    again = typed(*words, *some)  # only read
    assert "Note: no plot." in again and [path.name for path in written(again)] == names[:-1]


# ---------------------------------------------------------------------------------------------------------- front


@cache
def front() -> Path:
    """The folder of a search that ended in a front: W2A2, W4A4 and W8A8, of which W4A4 is the most accurate."""
    folder = tiny.place() / "front"
    network = tiny.task().network
    points = tuple(
        FrontPoint(
            name=f"W{bits}A{bits}",
            layers=(policy := Policy.uniform(network, bits, bits)).layers,
            costs=policy.costs,
            quality={"accuracy": accuracy, "loss": bits / 8},
        )
        for bits, accuracy in ((2, 0.5), (4, 0.9), (8, 0.8))
    )
    made = Front(
        fingerprint=network.fingerprint, points=points, method="by hand",
        measured=Measured(metrics=(ACCURACY.info,), on="nothing"),
    )  # fmt: skip
    _folder.begin(folder, {"command": "search", **tiny.subject().facts(), "method": "uniform-front", "settings": {}})
    (folder / "network.json").write_text(network.to_json())
    made.save(folder / "front.json")
    return folder


def picked(*words: str | Path) -> str:
    """Bits of `left` in the policy that is written."""
    typed("front", front(), "--out", tiny.place() / "picked.json", *words)
    return str(Policy.load(tiny.place() / "picked.json").layers["left"])


def taken_to(words: list[str]) -> Path | None:
    """Where the picked network is written to."""
    with mock.patch.object(runs, "take", return_value={}) as take:
        typed("front", front(), "--budget", "bitops=4x4", *words)
    return take.call_args.args[1] if take.called else None


def of_front(key: str) -> Any:
    return lambda words: handed("pick", "front", "f", *words)[key]


class TestFrontOptions(OptionCases):
    owner = "mixbit front"
    options = flags_of(COMMANDS.commands["front"])
    rows = (
        OptionRow("--take", ([], ["--take", "r"]), taken_to, lambda a, b: (a, b) == (None, Path("r"))),
        OptionRow("source", ("f", "g/front.json"), lambda v: handed("pick", "front", v)["source"],
                  exactly(Path("f"), Path("g/front.json"))),
        OptionRow("--budget", ("bitops=2x2", "bitops=8x8"), lambda v: picked("--budget", v), exactly("W2A2", "W4A4")),
        OptionRow("--out", ([], ["--out", "p.json"]), of_front("out"), exactly(None, Path("p.json"))),
        OptionRow("--by", ([], ["--by", "loss"]), lambda v: picked("--budget", "bitops=8x8", *v),
                  exactly("W4A4", "W2A2")),
        # The cost of W2A2 throughout is less than any of them has.
        OptionRow("--first-last", ("W8A8", "free"),
                  lambda v: typed("front", front(), "--budget", "bitops=2x2", "--first-last", v,
                                  code=0 if v == "W8A8" else 2).startswith("Front of by hand"),
                  exactly(True, False)),
        OptionRow("--latency", ([], ["--latency", "t.json"]), of_front("latency"), exactly(None, Path("t.json"))),
        OptionRow("--kernels", ([], ["--kernels", "plain"]), of_front("c_options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="plain"))),
        OptionRow("--pack-activations", ([], ["--pack-activations"]), of_front("c_options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="dsp", pack_activations=True))),
        OptionRow("--rounding", ([], ["--rounding", "litert"]), of_front("rounding"), exactly("single", "litert")),
        OptionRow("--plot", ([], ["--plot", tiny.place() / "f.html"]),
                  lambda v: (need("plotly"), typed("front", front(), *v), (tiny.place() / "f.html").is_file())[2],
                  exactly(False, True)),
    )  # fmt: skip


def test_a_front_is_shown_and_picked_from(tmp_path: Path) -> None:
    shown = typed("front", front())
    assert re.search(r"^W4A4 +90.00 % +0.5 ", shown, re.MULTILINE) and "Wrote" not in shown and "Policy" not in shown
    assert next_of(shown)[:4] == ["front", str(front()), "--budget", "bitops=4x4"]
    said = typed("front", front(), "--budget", "bitops=4x4", "--out", tmp_path / "p.json")
    assert written(said) == [tmp_path / "p.json"] and re.search(r"^left +4 +4$", said, re.MULTILINE)
    assert "best, picked" in said and "Note: picked from a front of 3: W4A4, accuracy 90.00 %" in said
    assert re.search(r"^stem +8 +8 +pinned$", said, re.MULTILINE) and "bitops=4x4 80.38 k 80.38 k 0" in " ".join(
        said.split()
    )
    assert next_of(said)[:5] == ["train", tiny.net(), "--data", "digits", "--policy"]
    assert typed("allocate", front(), "--budget", "bitops=4x4", "--out", tmp_path / "q.json").startswith("Policy")
    assert (tmp_path / "q.json").read_text() == (tmp_path / "p.json").read_text()
    refused = typed("front", front(), "--take", tmp_path / "r", code=2)  # told before the front is shown
    assert refused == "Error: nothing was picked. Give a budget: --budget bitops=4x4.\n"


# ------------------------------------------------------------------------------------------------------- allocate


def saved(scores: Scores, name: str) -> Path:
    """A scores file with the network beside it."""
    folder = tiny.place() / name
    folder.mkdir(exist_ok=True)
    (folder / "network.json").write_text(NETWORK.to_json())
    scores.save(folder / "scores.json")
    return folder / "scores.json"


def allocated(*words: str | Path, scores: Scores = SCORES, budget: Sequence[str] = ("bitops=4x4",)) -> Policy:
    """The policy that the command writes."""
    limits = [word for limit in budget for word in ("--budget", limit)]
    out = tiny.place() / "allocated.json"
    typed("allocate", saved(scores, "by-hand"), *limits, "--out", out, *words)
    return Policy.load(out)


def best(budget: Sequence[str] = ("bitops=4x4",)) -> Any:
    """The least harm of all policies, by looking at each."""
    return pytest.approx(best_by_enumeration(NETWORK, SCORES, Budget.parse(budget), ENDS, ties=True), rel=1e-9)


@cache
def times() -> Path:
    """A latency table in which `left` is slow at 8 bits."""
    at = {"left": 90, "right": 20, "deep": 10}
    options = [str(LayerBits(w, a)) for w in (8, 4, 2) for a in (8, 4, 2)]
    table = latency_table(
        NETWORK,
        {one.name: {text: at.get(one.name, 5) * int(text[1]) for text in options} for one in NETWORK.layers},
        rest=7,
    )
    table.save(tiny.place() / "times.json")
    return tiny.place() / "times.json"


def asked(key: str) -> Any:
    return lambda words: handed("allocate", "allocate", "s", "--budget", "b", *words)[key]


def chosen(key: str) -> Any:
    return lambda words: getattr(asked("settings")(words), key)


class TestAllocateOptions(OptionCases):
    """Limits and files as they are written; what the settings do is in the table of `AllocationSettings`."""

    owner = "mixbit allocate"
    options = flags_of(COMMANDS.commands["allocate"])
    rows = (
        OptionRow("source", (SCORES, replace(SCORES, method="other")), lambda v: allocated(scores=v).method,
                  exactly("by hand", "other")),
        OptionRow("--budget", (["bitops=4x4"], ["bitops=4x4", "weight-bytes=280B"]),
                  lambda v: allocated(budget=v).allocation["objective"],
                  lambda a, b: a == best() and b == best(budget=["bitops=4x4", "weight-bytes=280B"]) and b > a),
        OptionRow("--out", ("one.json", "two.json"),
                  lambda v: (typed("allocate", saved(SCORES, "by-hand"), "--budget", "bitops=4x4", "--out",
                                   tiny.place() / v), (tiny.place() / v).is_file())[1],
                  exactly(True, True)),
        OptionRow("--pin", ([], ["--pin", "deep=W3A5", "--pin", "re:le.*=W2A4"]), chosen("pins"),
                  exactly({}, {"deep": LayerBits(3, 5), "re:le.*": LayerBits(2, 4)})),
        OptionRow("--first-last", ([], ["--first-last", "W4A6"]), chosen("first_last"),
                  exactly(LayerBits(8, 8), LayerBits(4, 6))),
        OptionRow("--first-last", ([], ["--first-last", "free"]), chosen("first_last"),
                  exactly(LayerBits(8, 8), None), says="free"),
        OptionRow("--ties", ([], ["--no-ties"]), chosen("ties"), exactly(True, False)),
        OptionRow("--alpha", ([], ["--alpha", "0.05"]), chosen("alpha"), exactly(None, 0.05)),
        OptionRow("--macs", ([], ["--macs", "limpq"]), chosen("macs"), exactly("exact", "limpq")),
        OptionRow("--repair", ([], ["--repair", "none"]), chosen("repair"), exactly("forbid", "none")),
        OptionRow("--exact", ([], ["--exact"]), chosen("exact"), exactly(False, True)),
        OptionRow("--latency", (10_000, 600),
                  lambda v: allocated("--latency", times(), budget=["bitops=2M", f"latency={v}ns"]),
                  lambda a, b: a.costs["latency_ns"] == LatencyTable.load(times()).cost(a.layers) > 600
                  >= b.costs["latency_ns"] == LatencyTable.load(times()).cost(b.layers)),
        OptionRow("--kernels", ([], ["--kernels", "plain"]), asked("c_options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="plain"))),
        OptionRow("--pack-activations", ([], ["--pack-activations"]), asked("c_options"),
                  exactly(COptions(kernels="dsp"), COptions(kernels="dsp", pack_activations=True))),
        OptionRow("--rounding", ([], ["--rounding", "litert"]), asked("rounding"), exactly("single", "litert")),
    )  # fmt: skip


def test_allocate_is_asked_for_the_usual_unless_told_otherwise() -> None:
    found = handed("allocate", "allocate", "s", "--budget", "b")
    assert found == {
        "source": Path("s"), "budget": ["b"], "out": Path("policy.json"), "latency": None,
        "settings": AllocationSettings(pins={}, first_last=LayerBits(8, 8), or_uniform=True),
        "c_options": COptions(kernels="dsp", pack_activations=False), "rounding": "single",
    }  # fmt: skip


def test_a_setting_of_no_kind_is_told() -> None:
    said = typed("allocate", tiny.scores(), "--budget", "bitops=4x4", "--alpha", "-1", code=2)
    assert "allocate: alpha=-1.0 is illegal. Legal: a number from 0 up" in said


def test_flash_and_ram_are_of_the_c_that_will_be_exported(tmp_path: Path) -> None:
    """By laying out the policy that came of it as it was asked for."""
    words = ["allocate", tiny.scores(), "--budget", "flash=1MB", "--pin", "left=W4A4", "--out", tmp_path / "p.json"]
    said = typed(*words, "--kernels", "plain", "--pack-activations", "--rounding", "litert")
    (line,) = [line for line in said.splitlines() if line.startswith("as C: ")]
    opened, layers = open_model(tiny.subject()), Policy.load(tmp_path / "p.json").layers

    def as_c(rounding: GraphRounding, kernels: Kernels, packed: bool) -> str:
        graph = lower_at(opened.model, opened.network, opened.example, rounding=rounding, apart=True)(layers)
        return report.footprint_summary(footprint(graph, options=COptions(kernels=kernels, pack_activations=packed)))

    assert line == as_c("litert", "plain", packed=True)
    assert line not in {as_c("single", "plain", True), as_c("litert", "dsp", True), as_c("litert", "plain", False)}


def test_allocate_shows_the_policy_and_what_it_uses(tmp_path: Path) -> None:
    said = typed("allocate", tiny.scores(), "--budget", "bitops=4x4", "--out", tmp_path / "p.json")
    found = Policy.load(tmp_path / "p.json")
    for name, bits in found.layers.items():
        where = " +pinned" if name in tiny.pinned() else ""
        assert re.search(rf"^{name} +{bits.weight_bits} +{bits.activation_bits}{where}$", said, re.MULTILINE)
    assert all(f"Note: {note}" in said for note in found.notes) and found.notes
    assert f"objective {found.allocation['objective']:.6g}" in said and "as C" not in said
    # 4 x 4 of 2304 + 256 MACs, and 8 x 8 of 576 + 40 in the pinned ends, are all used up
    assert "bitops=4x4 80.38 k 80.38 k 0 0.00 %" in " ".join(said.split())
    assert written(said) == [tmp_path / "p.json"]
    trained = str(tmp_path / "p-trained")
    words = ["train", tiny.net(), "--data", "digits", "--policy", str(tmp_path / "p.json"), "--run", trained]
    assert next_of(said) == words
    assert "given twice" in typed(
        "allocate", tiny.scores(), "--budget", "bitops=4x4", "--pin", "left=W4A4", "--pin", "left=W2A4", code=2
    )


# -------------------------------------------------------------------------------------------------- latency build


def test_every_option_of_latency_build_is_explained() -> None:
    command = typer.main.get_command(cli.app).commands["latency"].commands["build"]  # type: ignore[attr-defined]
    assert [one.name for one in command.params if not getattr(one, "help", None)] == []


BUILD = ("latency", "build", "net", "--target", "onnxruntime")


def built(key: str) -> Any:
    return lambda words: handed("build_latency", *BUILD, *words)[key]


class TestLatencyBuildOptions(OptionCases):
    """What is measured, and how often."""

    owner = "mixbit latency build"
    options = flags_of(COMMANDS.commands["latency"].commands["build"])
    rows = (
        OptionRow("model", ("net", "x.py:f"),
                  lambda v: handed("build_latency", "latency", "build", v, "--target", "t")["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--target", ("onnxruntime", "cortex-m4"),
                  lambda v: handed("build_latency", "latency", "build", "net", "--target", v)["target"],
                  exactly("onnxruntime", "cortex-m4")),
        OptionRow("--out", ([], ["--out", "t.json"]), built("out"), exactly(Path("latency.json"), Path("t.json"))),
        OptionRow("--data", ([], ["--data", "digits"]), built("subject"),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--input", ([], ["--input", "3x8x4"]), built("input_shape"), exactly(None, (3, 8, 4))),
        OptionRow("--bits", ([], ["--bits", "8,3"]), built("bits"), exactly((2, 3, 4, 5, 6, 8), (8, 3))),
        OptionRow("--activation-bits", ([], ["--activation-bits", "16,8"]), built("activation_bits"),
                  exactly(None, (16, 8))),
        OptionRow("--cpu", ([], ["--cpu", "vnni"]), built("cpu"), exactly("any", "vnni")),
        OptionRow("--repeats", ([], ["--repeats", "5"]), built("repeats"), exactly(30, 5)),
        OptionRow("--checks", ([], ["--checks", "0"]), built("checks"), exactly(3, 0)),
    )  # fmt: skip


def test_a_table_is_of_what_was_asked_for(tmp_path: Path) -> None:
    need("onnx")
    out = tmp_path / "t.json"
    words = ["latency", "build", tiny.net(), "--target", "onnxruntime", "--input", "1x6x6", "--out", out]
    said = typed(*words, "--bits", "8", "--repeats", "2", "--checks", "1", "--cpu", "vnni")
    table = LatencyTable.load(out)
    assert table.repeats == 2 and table.cpu == "vnni" and [one.name for one in table.checks] == ["random 0"]
    assert {tuple(one.options) for one in table.layers.values()} == {("W8A8",)}
    assert table.layers["stem"].input_shape == (1, 6, 6)
    assert "Latency with onnxruntime" in said and "Predicted against measured" in said and "Whole networks" in said
    assert written(said) == [out] and next_of(said)[-2:] == ["--latency", str(out)]


def test_without_checks_there_is_no_table_of_them() -> None:
    class Done:
        table, files = LatencyTable.load(times()), {Path("t.json"): "times"}

    said = gives("build_latency", Done, *BUILD)
    assert "Predicted against measured" not in said and "Latency with by hand" in said and "Wrote t.json" in said


# -------------------------------------------------------------------------------------------------------- compare

COMPARE = ("compare", "net", "--run", "r", "--budget", "b", "--methods", "fit")


def compared(key: str) -> Any:
    return lambda words: handed("compare", *COMPARE, *words)[key]


class TestCompareOptions(OptionCases):
    """What takes part, with what it is tuned, and how often."""

    owner = "mixbit compare"
    options = flags_of(COMMANDS.commands["compare"])
    rows = (
        OptionRow("model", ("net", "x.py:f"), lambda v: handed("compare", "compare", v, *COMPARE[2:])["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--run", ([], ["--run", "s"]), compared("run"), exactly(Path("r"), Path("s"))),
        OptionRow("--budget", ([], ["--budget", "c,d"]), compared("budgets"), exactly(["b"], ["b", "c,d"])),
        OptionRow("--methods", ([], ["--methods", "limpq?bits=[4,2],sqnr"]), compared("entries"),
                  exactly(["fit"], ["limpq?bits=[4,2]", "sqnr"])),
        OptionRow("--data", ([], ["--data", "digits"]), compared("subject"),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), compared("subject"),
                  exactly(Subject(model="net"), Subject(model="net", weights=Path("w.pth")))),
        OptionRow("--seed", ([], ["--seed", "2"]), compared("subject"),
                  exactly(Subject(model="net"), Subject(model="net", seed=2))),
        OptionRow("--seeds", ([], ["--seeds", "4,1"]), compared("seeds"), exactly((0,), (4, 1))),
        OptionRow("--epochs", ([], ["--epochs", "7"]), compared("settings"), exactly({"epochs": 1}, {"epochs": 7})),
        OptionRow("--epochs", (["--epochs", "1"], ["--epochs", "0"]), compared("fine_tune"), exactly(True, False),
                  says="0 stops after calibration"),
        OptionRow("--epochs", (["--epochs", "1"], ["--epochs", "0"]), compared("settings"), exactly({"epochs": 1}, {}),
                  says="0 is no setting"),
        OptionRow("--judge", ([], ["--judge", "s"]), compared("judge"), exactly(None, Path("s"))),
        OptionRow("--judge", ([], ["--judge", "s"]), compared("fine_tune"), exactly(True, False), says="alone"),
        OptionRow("--judge", (["--judge", "s"], ["--judge", "s", "--epochs", "2"]), compared("settings"),
                  exactly({}, {"epochs": 2}), says="with fine-tuning"),
        OptionRow("--policy", ([], ["--policy", "mct=p.json"]), compared("policies"),
                  exactly({}, {"mct": Path("p.json")})),
        OptionRow("--baselines", ([], ["--no-baselines"]), compared("baselines"), exactly(True, False)),
        OptionRow("--repair", ([], ["--repair", "isotonic"]), compared("repair"), exactly("forbid", "isotonic")),
        OptionRow("--set", ([], ["--set", "lr=0.5"]), compared("settings"),
                  exactly({"epochs": 1}, {"epochs": 1, "lr": 0.5})),
    )  # fmt: skip


def test_a_comparison_is_shown_and_its_best_recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(comparison(), folder=tmp_path)
    said = gives("compare", found, *COMPARE[:2], "--run", str(tmp_path), *COMPARE[4:])
    assert "Within bitops=3x3" in said and "Within bitops=6x6" in said and "Note: no --weights" in said
    assert (tmp_path / "compare.html").is_file()
    assert written(said) == [Path("compare.json"), tmp_path / "compare.html"]
    assert next_of(said)[:2] == ["allocate", str(tmp_path / "search" / "fit")]
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    said = gives("compare", found, *COMPARE, "--weights", "w.pth")
    assert "Note: no plot. The plot needs plotly" in said and "no --weights" not in said
    assert written(said) == [Path("compare.json")]


def test_rows_of_a_comparison_are_told_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    tell = handed("compare", *COMPARE)["tell"]
    tell(comparison().rows[0])
    assert capsys.readouterr().out == "bitops=3x3  fit  seed 0: calibrated 25.00 %, fine-tuned 90.00 %\n"


# ------------------------------------------------------------------------------------------------------- transfer

TRANSFER = ("transfer", "s", "net", "--run", "r", "--budget", "b")


def moved(key: str) -> Any:
    return lambda words: handed("transfer", *TRANSFER, *words)[key]


class TestTransferOptions(OptionCases):
    """What is moved where, and what it is compared with."""

    owner = "mixbit transfer"
    options = flags_of(COMMANDS.commands["transfer"])
    rows = (
        OptionRow("source", ("s", "t/scores.json"),
                  lambda v: handed("transfer", "transfer", v, *TRANSFER[2:])["source"],
                  exactly(Path("s"), Path("t/scores.json"))),
        OptionRow("model", ("net", "x.py:f"),
                  lambda v: handed("transfer", "transfer", "s", v, *TRANSFER[3:])["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--run", ([], ["--run", "t"]), moved("run"), exactly(Path("r"), Path("t"))),
        OptionRow("--budget", ([], ["--budget", "c"]), moved("budget"), exactly(["b"], ["b", "c"])),
        OptionRow("--data", ([], ["--data", "digits"]), moved("subject"),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), moved("subject"),
                  exactly(Subject(model="net"), Subject(model="net", weights=Path("w.pth")))),
        OptionRow("--seed", ([], ["--seed", "2"]), moved("subject"),
                  exactly(Subject(model="net"), Subject(model="net", seed=2))),
        OptionRow("--own", ([], ["--no-own"]), moved("own"), exactly(True, False)),
        OptionRow("--epochs", ([], ["--epochs", "7"]), moved("epochs"), exactly(0, 7)),
        OptionRow("--set", ([], ["--set", "lr=0.5"]), moved("settings"), exactly({}, {"lr": 0.5})),
    )  # fmt: skip


def test_a_transfer_really_made_with_its_own_search_and_without(tmp_path: Path) -> None:
    words = ["transfer", tiny.scores(), tiny.net().replace(":build", ":other"), "--data", "digits"]
    said = typed(*words, "--budget", "bitops=4x4", "--run", tmp_path / "both")
    assert "Do the two searches put the layers in the same order?" in said and "Note: no --weights" in said
    policies = [tmp_path / "both" / name / "policy.json" for name in ("transferred", "own")]
    assert set(written(said)) >= set(policies)
    assert all(Policy.load(path).budget == {"bitops": "4x4"} for path in policies)
    found = next_of(said)
    assert found[:2] == ["train", words[2]] and found[found.index("--policy") + 1] == str(policies[0])
    rows = {row["policy"]: row for row in json.loads((tmp_path / "both" / "transfer.json").read_text())["rows"]}
    assert list(rows) == ["transferred", "own"] and rows["own"]["accuracy"] is None
    assert json.loads((tmp_path / "both" / "config.json").read_text())["settings"] == {}
    alone = typed(*words, "--budget", "bitops=4x4", "--run", tmp_path / "alone", "--no-own")
    assert "agreement is not known" in alone and "same order" not in alone
    assert policies[1] not in written(alone) and not (tmp_path / "alone" / "own").exists()
