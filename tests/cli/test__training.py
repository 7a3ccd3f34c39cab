"""train, evaluate, stress, attack, certify: every option reaches what it is for, and what was found is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import typer

from mixbit import cli, report, runs
from mixbit.cost import Costs
from mixbit.data.corruption import STANDARD_KINDS
from mixbit.errors import MissingExtra
from mixbit.runs import AttackSettings, CertifySettings, Outcome, Profile, StressSettings, Subject
from mixbit.testing.options import OptionCases, OptionRow, flags_of
from tests.cli import tiny
from tests.cli.typed import exactly, gives, handed, next_of, typed, written
from tests.report import certified
from tests.report.attacked import FOUND
from tests.report.sweeps import step_sweep

COMMANDS: Any = typer.main.get_command(cli.app)
TRAIN = ("train", "net", "--run", "r")


def trained(key: str) -> Any:
    return lambda words: handed("train", *TRAIN, *words)[key]


def setting(key: str) -> Any:
    return lambda words: handed("train", *TRAIN, *words)["settings"].get(key, "unset")


class TestTrainOptions(OptionCases):
    """What training does with its settings is in the table of TrainConfig."""

    owner = "mixbit train"
    options = flags_of(COMMANDS.commands["train"])
    rows = (
        OptionRow("model", ("net", "x.py:f"), lambda v: handed("train", "train", v, "--run", "r")["subject"],
                  exactly(Subject(model="net"), Subject(model="x.py:f"))),
        OptionRow("--run", ([], ["--run", "s"]), trained("run"), exactly(Path("r"), Path("s"))),
        OptionRow("--data", ([], ["--data", "digits"]), trained("subject"),
                  exactly(Subject(model="net"), Subject(model="net", data="digits"))),
        OptionRow("--policy", ([], ["--policy", "p.json"]), trained("policy"), exactly(None, Path("p.json"))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), trained("subject"),
                  exactly(Subject(model="net"), Subject(model="net", weights=Path("w.pth")))),
        OptionRow("--seed", ([], ["--seed", "3"]), trained("subject"),
                  exactly(Subject(model="net", seed=0), Subject(model="net", seed=3))),
        OptionRow("--epochs", ([], ["--epochs", "7"]), setting("epochs"), exactly("unset", 7)),
        OptionRow("--batch-size", ([], ["--batch-size", "48"]), setting("batch_size"), exactly("unset", 48)),
        OptionRow("--fraction", ([], ["--fraction", "0.5"]), setting("fraction"), exactly("unset", 0.5)),
        OptionRow("--lr", ([], ["--lr", "0.03"]), setting("lr"), exactly("unset", 0.03)),
        OptionRow("--compile", ([], ["--compile"]), setting("compile"), exactly("unset", True)),
        OptionRow("--set", ([], ["--set", "bn_samples=0", "--set", "optimizer=adamw"]),
                  lambda words: handed("train", *TRAIN, *words)["settings"],
                  exactly({}, {"bn_samples": 0, "optimizer": "adamw"})),
    )  # fmt: skip


def test_training_is_asked_for_nothing_that_was_not_typed() -> None:
    assert handed("train", *TRAIN) == {
        "subject": Subject(model="net"), "policy": None, "settings": {}, "run": Path("r"), "task": None, "quiet": False,
    }  # fmt: skip


def test_a_training_under_a_policy_as_it_was_typed(tmp_path: Path) -> None:
    """The folder remembers it, and so many epochs were really made."""
    words = ["train", tiny.net(), "--data", "digits", "--policy", tiny.policy(), "--run", tmp_path / "r", "--seed", "4"]
    options = ["--epochs", "2", "--batch-size", "32", "--fraction", "0.05", "--lr", "0.02", "--set", "bn_samples=0"]
    said = typed(*words, *options)
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["settings"] == {"epochs": 2, "batch_size": 32, "fraction": 0.05, "lr": 0.02, "bn_samples": 0}
    assert config["subject"]["seed"] == 4 and config["bits"]["left"] == [3, 4] and config["bits"]["right"] == [5, 4]
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 2
    assert "Note: no --weights" in said and "Loss" not in said
    assert [path.name for path in written(said)] == ["model.safetensors", "policy.json", "metrics.jsonl"]
    assert next_of(said) == ["evaluate", str(tmp_path / "r")]
    said = typed("evaluate", tmp_path / "r")
    assert next_of(said) == ["export", str(tmp_path / "r")] and "no --weights" not in said


COSTS = Costs(bitops=1024, weight_bits=3200, activation_bytes=64, peak_step="fc")


def outcome(**more: Any) -> Any:
    """What training gives, as far as it is shown."""
    values = {
        "outcome": Outcome(name="limpq", accuracy=0.75, costs=COSTS), "float32": replace(COSTS, weight_bits=6400),
        "further": (), "notes": (), "quantized": False, "began": None, "files": {Path("r/w"): "the weights"},
        "metrics": SimpleNamespace(loss=0.5, samples=40),
        "trained": Subject(model="net", data="digits", weights=Path("r/w")),
    }  # fmt: skip
    return SimpleNamespace(**(values | more))


def test_what_is_said_of_a_training() -> None:
    said = gives("train", outcome(), *TRAIN)
    assert "limpq     75.00 %  1.024 k         400 B        2.00x" in said and "Wrote r/w  the weights" in said
    assert "Loss" not in said and "Note" not in said  # a float training begins with nothing anyway
    assert next_of(said) == ["search", "limpq", "net", "--data", "digits", "--weights", "r/w", "--run", "search"]
    under = ("--policy", "p.json")
    said = gives("train", outcome(further=("hit 37.50 %",), notes=("kept: 3",), quantized=True), *TRAIN, *under)
    assert "Note: no --weights" in said and "Note: kept: 3\n" in said
    assert "Loss 0.5000, hit 37.50 % on 40 test samples.\n" in said and next_of(said) == ["evaluate", "r"]
    begun = outcome(quantized=True, began=Path("w.pth"))  # of --weights, or of the run that was named
    assert "no --weights" not in gives("train", begun, *TRAIN)


# ------------------------------------------------------------------------------------------------------- evaluate


def evaluated(key: str) -> Any:
    return lambda words: handed("evaluate", "evaluate", "net", *words)[key]


class TestEvaluateOptions(OptionCases):
    """What is evaluated on what."""

    owner = "mixbit evaluate"
    options = flags_of(COMMANDS.commands["evaluate"])
    rows = (
        OptionRow("target", ("net", "r"), lambda v: handed("evaluate", "evaluate", v)["target"], exactly("net", "r")),
        OptionRow("--data", ([], ["--data", "digits"]), evaluated("data"), exactly(None, "digits")),
        OptionRow("--policy", ([], ["--policy", "p.json"]), evaluated("policy"), exactly(None, Path("p.json"))),
        OptionRow("--weights", ([], ["--weights", "w.pth"]), evaluated("weights"), exactly(None, Path("w.pth"))),
        OptionRow("--seed", ([], ["--seed", "3"]), evaluated("seed"), exactly(None, 3)),
    )  # fmt: skip


def test_what_is_said_of_an_evaluation() -> None:
    found = outcome(subject=Subject(model="net", data="digits", seed=2), policy=None, run=None, further=("hit 1 %",))
    said = gives("evaluate", found, "evaluate", "net")
    assert "Note: no --weights" in said and "Loss 0.5000, hit 1 % on 40 test samples.\n" in said
    assert next_of(said)[:5] == ["search", "limpq", "net", "--data", "digits"]
    found.policy = Path("p.json")
    assert next_of(gives("evaluate", found, "evaluate", "net"))[0] == "train"
    found.run = Path("r")
    said = gives("evaluate", found, "evaluate", "r")
    assert "no --weights" not in said and next_of(said) == ["export", "r"]


# --------------------------------------------------------------------------------------------------------- stress


def stressed(field: str) -> Any:
    return lambda words: getattr(handed("stress", "stress", "r", *words)["settings"], field)


STEPS = step_sweep(dict.fromkeys((0.8, 0.9, 1.0, 1.1, 1.25, 1.5), 0.5))
PROFILE = Profile(run=Path("one"), quantized=True, steps=STEPS, notes=("note A",))


def curves(_profiles: object, folder: Path) -> dict[Path, str]:
    """In the place of plots, which are not drawn here."""
    return {folder / "shifts.html": "curves"}


def profiles(*words: str, plots: Any = curves) -> str:
    """What is said of runs that were stressed before."""
    found = [replace(PROFILE, files={Path("one/p"): "one's"}), replace(PROFILE, run=Path("two"), notes=("note B",))]
    with (
        mock.patch.object(runs, "stress", side_effect=lambda run, *_, **__: found[str(run) == "two"]),
        mock.patch.object(report, "stress_plots", side_effect=plots),
    ):
        return typed("stress", *words)


class TestStressOptions(OptionCases):
    """What is measured; what comes of it is in the table of StressSettings."""

    owner = "mixbit stress"
    options = flags_of(COMMANDS.commands["stress"])
    rows = (
        OptionRow("run", (["one"], ["one", "two"]), lambda v: [n for n in ("note A", "note B") if n in profiles(*v)],
                  exactly(["note A"], ["note A", "note B"])),
        OptionRow("run", (["one"], ["two"]), lambda v: handed("stress", "stress", *v)["run"],
                  exactly(Path("one"), Path("two")), says="one"),
        OptionRow("--images", ([], ["--images", "9"]), stressed("images"), exactly(None, 9)),
        OptionRow("--parts", ([], ["--parts", "bits, steps"]), stressed("parts"),
                  exactly(("corruption", "steps", "bits"), ("bits", "steps"))),
        OptionRow("--kinds", ([], ["--kinds", "jpeg,contrast"]), stressed("kinds"),
                  exactly(STANDARD_KINDS, ("jpeg", "contrast"))),
        OptionRow("--severities", ([], ["--severities", "4,2"]), stressed("severities"),
                  exactly((1, 2, 3, 4, 5), (4, 2))),
        OptionRow("--ptq", ([], ["--ptq", "mse"]), stressed("ptq"), exactly(None, "mse")),
        OptionRow("--weight-bits", ([], ["--weight-bits", "6"]), stressed("weight_bits"), exactly(None, 6)),
        OptionRow("--data", ([], ["--data", "digits?seed=1"]),
                  lambda words: handed("stress", "stress", "r", *words)["data"], exactly(None, "digits?seed=1")),
        OptionRow("--seed", ([], ["--seed", "3"]), stressed("seed"), exactly(0, 3)),
        OptionRow("--on", ([], ["--on", "c"]), stressed("on"), exactly(None, "c")),
        OptionRow("--sigma", ([], ["--parts", "certificates", "--sigma", "0.3"]), stressed("sigma"),
                  exactly(None, 0.3)),
        OptionRow("--attacks", ([], ["--parts", "attacks", "--attacks", "pgd?steps=2,deepfool"]), stressed("attacks"),
                  exactly(None, ("pgd?steps=2", "deepfool"))),
        OptionRow("--out", ([], ["--out", "plots"]), lambda words: written(profiles("one", "two", *words))[-1],
                  exactly(Path("one/stress/shifts.html"), Path("plots/shifts.html"))),
    )  # fmt: skip


def test_stress_is_asked_for_the_usual_unless_told_otherwise() -> None:
    found = handed("stress", "stress", "r")
    assert found == {"run": Path("r"), "settings": StressSettings(), "data": None, "out": None}


def test_what_is_said_of_stressed_runs() -> None:
    said = profiles("one", "two", plots=MissingExtra("The plot needs plotly."))
    assert "Accuracy with scaled steps" in said and "one: note A\ntwo: note B\n" in said
    assert "Note: no plot. The plot needs plotly.\n" in said and written(said) == [Path("one/p")]
    assert next_of(said) == ["export", "one"]
    assert "no list of numbers" in typed("stress", "one", "--severities", "1;5", code=2)


# --------------------------------------------------------------------------------------------------------- attack


def asked(field: str) -> Any:
    return lambda words: getattr(handed("attack", "attack", "r", *words)["settings"], field)


def drawn(_found: object, path: Path) -> Path:
    """In the place of a plot."""
    return path


def assailed(*words: str, plot: Any = drawn) -> str:
    """What is said of runs that were attacked before."""
    found = replace(FOUND, files={Path("one/a.json"): "results"}, notes=("note A",))
    with mock.patch.object(report, "attack_plot", side_effect=plot):
        return gives("attack", found, "attack", *words)


class TestAttackOptions(OptionCases):
    """Which attacks on which networks; what comes of it is in the table of AttackSettings."""

    owner = "mixbit attack"
    options = flags_of(COMMANDS.commands["attack"])
    rows = (
        OptionRow("run", (["one"], ["one", "two"]), lambda v: handed("attack", "attack", *v)["run"],
                  exactly([Path("one")], [Path("one"), Path("two")])),
        OptionRow("--attacks", ([], ["--attacks", "pgd?steps=3,deepfool"]), asked("attacks"),
                  exactly(("pgd",), ("pgd?steps=3", "deepfool"))),
        OptionRow("--eps", ([], ["--eps", "1/255,0.1"]), asked("eps"), exactly(None, (1 / 255, 0.1))),
        OptionRow("--images", ([], ["--images", "9"]), asked("images"), exactly(100, 9)),
        OptionRow("--queries", ([], ["--queries", "50"]), asked("queries"), exactly(None, 50)),
        OptionRow("--seed", ([], ["--seed", "3"]), asked("seed"), exactly(0, 3)),
        OptionRow("--on", ([], ["--on", "onnx, float"]), asked("on"),
                  exactly(("float", "fake-quantized", "executor"), ("onnx", "float"))),
        OptionRow("--variants", ([], ["--variants", "W4A4"]), asked("variants"), exactly(("W8A16", "W8A8"), ("W4A4",))),
        OptionRow("--twins", ([], ["--twins"]), asked("twins"), exactly(False, True)),
        OptionRow("--data", ([], ["--data", "digits?seed=1"]),
                  lambda words: handed("attack", "attack", "r", *words)["data"], exactly(None, "digits?seed=1")),
        OptionRow("--out", ([], ["--out", "o"]), lambda words: handed("attack", "attack", "r", *words)["out"],
                  exactly(None, Path("o"))),
        OptionRow("--out", ([], ["--out", "o"]), lambda words: written(assailed("one", *words))[-1],
                  exactly(Path("one/attack/attack.html"), Path("o/attack.html")), says="of the plot"),
    )  # fmt: skip


def test_an_attack_is_asked_for_the_usual_unless_told_otherwise() -> None:
    found = handed("attack", "attack", "r")
    assert found == {"run": [Path("r")], "settings": AttackSettings(), "data": None, "out": None, "keep": None}


def test_what_is_said_of_attacked_runs() -> None:
    said = assailed("one", plot=MissingExtra("The plot needs plotly."))
    assert "Accuracy under attack" in said and "Signs of masked gradients" in said and "Note: note A\n" in said
    assert "Note: no plot. The plot needs plotly.\n" in said and written(said) == [Path("one/a.json")]
    assert next_of(said) == ["attack", "runs/one", "OTHER_RUN"]
    assert "no list of numbers" in typed("attack", "one", "--eps", "small", code=2)
    assert "Did you mean 'pgd'" in typed("attack", "one", "--attacks", "pdg", code=2)


# -------------------------------------------------------------------------------------------------------- certify

CERTIFY = ("certify", "r", "--sigma", "0.25")


def guaranteed(field: str) -> Any:
    return lambda words: getattr(handed("certify", *CERTIFY, *words)["settings"], field)


def sure(*words: str, plot: Any = drawn) -> str:
    """What is said of runs that were certified before."""
    with mock.patch.object(report, "certificate_plot", side_effect=plot):
        return gives("certify", replace(certified.FOUND, notes=("note A",)), "certify", *words, "--sigma", "0.5")


class TestCertifyOptions(OptionCases):
    """How which networks are certified; what comes of it is in the table of CertifySettings."""

    owner = "mixbit certify"
    options = flags_of(COMMANDS.commands["certify"])
    rows = (
        OptionRow("run", (["one"], ["one", "two"]), lambda v: handed("certify", "certify", *v, "--sigma", "1")["run"],
                  exactly([Path("one")], [Path("one"), Path("two")])),
        OptionRow("--sigma", ("0.25", "0.5"),
                  lambda v: handed("certify", "certify", "r", "--sigma", v)["settings"].sigma, exactly(0.25, 0.5)),
        OptionRow("--radius", ([], ["--radius", "1/4,0.5"]), guaranteed("radii"), exactly(None, (0.25, 0.5))),
        OptionRow("--images", ([], ["--images", "9"]), guaranteed("images"), exactly(100, 9)),
        OptionRow("--n", ([], ["--n", "50"]), guaranteed("n"), exactly(1000, 50)),
        OptionRow("--n0", ([], ["--n0", "50"]), guaranteed("n0"), exactly(100, 50)),
        OptionRow("--alpha", ([], ["--alpha", "0.01"]), guaranteed("alpha"), exactly(0.001, 0.01)),
        OptionRow("--early", ([], ["--early"]), guaranteed("early"), exactly(False, True)),
        OptionRow("--shown", ([], ["--shown", "20"]), guaranteed("shown"), exactly(None, 20)),
        OptionRow("--mode", ([], ["--mode", "irs"]), guaranteed("mode"), exactly("both", "irs")),
        OptionRow("--seed", ([], ["--seed", "3"]), guaranteed("seed"), exactly(0, 3)),
        OptionRow("--batch", ([], ["--batch", "32"]), guaranteed("batch"), exactly(256, 32)),
        OptionRow("--on", ([], ["--on", "onnx, float"]), guaranteed("on"),
                  exactly(("float", "fake-quantized", "executor"), ("onnx", "float"))),
        OptionRow("--variants", ([], ["--variants", "W4A4"]), guaranteed("variants"), exactly(("W8A8",), ("W4A4",))),
        OptionRow("--data", ([], ["--data", "digits?seed=1"]),
                  lambda words: handed("certify", *CERTIFY, *words)["data"], exactly(None, "digits?seed=1")),
        OptionRow("--out", ([], ["--out", "o"]), lambda words: handed("certify", *CERTIFY, *words)["out"],
                  exactly(None, Path("o"))),
        OptionRow("--out", ([], ["--out", "o"]), lambda words: written(sure("one", *words))[-1],
                  exactly(Path("one/certify/certify.html"), Path("o/certify.html")), says="of the plot"),
    )  # fmt: skip


def test_certificates_are_asked_for_the_usual_unless_told_otherwise() -> None:
    found = handed("certify", *CERTIFY)
    assert found == {
        "run": [Path("r")],
        "settings": CertifySettings(sigma=0.25),
        "data": None,
        "out": None,
        "keep": None,
    }


def test_what_is_said_of_certified_runs() -> None:
    said = sure("one", plot=MissingExtra("The plot needs plotly."))
    assert "Certified accuracy in %, noise of sigma 0.5" in said and "Note: note A\n" in said
    assert "Note: no plot. The plot needs plotly.\n" in said and written(said) == [Path("one/certify.json")]
    assert next_of(said) == ["attack", "runs/one"]
    assert "no list of numbers" in typed("certify", "one", "--sigma", "1", "--radius", "small", code=2)
    assert "sigma=-1.0 is illegal" in typed("certify", "one", "--sigma", "-1", code=2)
