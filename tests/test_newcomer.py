"""A newcomer's change touches at most what docs/architecture.md says: throw-away ones of a package outside mixbit.

Each stands in a file of its own and a face that registers it, and is used to its end with what mixbit gives to all: it
is listed, searched or quantized with, evaluated, exported.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mixbit import QuantizeConfig, evaluate, methods, runs
from mixbit.attacks._entries import ATTACKS
from mixbit.export.registry import _EXPORTERS, exporter_names
from mixbit.methods import registry
from mixbit.models import loading
from mixbit.models.registry import _ZOO
from mixbit.policy import Policy
from mixbit.quantization import put_policy_on
from mixbit.quantizers import WEIGHTS
from tests.cli import tiny
from tests.cli.typed import next_of, typed
from tests.mirror import ROOT

FACE = """
from mixbit.attacks import register as register_attack
from mixbit.export import register_exporter
from mixbit.methods import register
from mixbit.quantizers import register_kind
from newcomer import attack, exporter, front, policy, quantizer, score

register("newcomer-score", "harm by the size of a layer", source="ours", cost="none")(score.BySize)
register("newcomer-policy", "one of two draws", source="ours", cost="none", kind="policy")(policy.Lowest)
register("newcomer-front", "two points", source="ours", cost="forward", kind="front")(front.Two)
register_kind("newcomer-power", quantizer.PowerOfTwo, "weights")
register_exporter(exporter.Listing())
register_attack("newcomer-attack", "all pixels brighter", source="ours", access="labels")(attack.Brighter)
"""

SOURCES = {
    "score": """
        from dataclasses import dataclass

        from mixbit.policy import LayerScores, Scores


        @dataclass(frozen=True, kw_only=True)
        class BySize:
            bits: tuple[int, ...] = (8, 4, 2)
            seed: int = 0

            def search(self, task, *, run=None, quiet=False):
                curves = {}
                for layer in task.network.layers:
                    harm = {bits: layer.weights / 2.0**bits for bits in self.bits}
                    curves[layer.name] = LayerScores(weight=harm, activation=dict(harm))
                return Scores(fingerprint=task.network.fingerprint, method="newcomer-score", layers=curves)
    """,
    "policy": """
        from dataclasses import dataclass

        from mixbit.allocation import project
        from mixbit.policy import Terms


        @dataclass(frozen=True, kw_only=True)
        class Lowest:
            bits: tuple[int, ...] = (8, 4, 2)
            seed: int = 0

            def search(self, task, budget, *, terms=Terms(), run=None, quiet=False):
                wished = {layer.name: (2.0, 8.0) for layer in task.network.layers}
                return project(task.network, wished, budget, bits=self.bits, terms=terms)
    """,
    "front": """
        from dataclasses import dataclass

        from mixbit import evaluate
        from mixbit.metric import ACCURACY
        from mixbit.policy import Front, FrontPoint, Measured, Policy


        @dataclass(frozen=True, kw_only=True)
        class Two:
            seed: int = 0

            def search(self, task, *, run=None, quiet=False):
                found = evaluate(task.model, task.test, loss=task.objective)
                points = []
                for bits in (2, 8):
                    policy = Policy.uniform(task.network, bits, bits)
                    quality = {"accuracy": found.value * bits / 8, "loss": found.loss}
                    points.append(FrontPoint(layers=policy.layers, costs=policy.costs, quality=quality))
                measured = Measured(metrics=(ACCURACY.info,), on="the test split")
                same = {"fingerprint": task.network.fingerprint, "method": "newcomer-front", "measured": measured}
                return Front(points=tuple(points), **same)
    """,
    "quantizer": """
        import torch

        from mixbit.quantizers import Quantizer, fake_quantize


        class PowerOfTwo(Quantizer):
            no_integers = None

            def _fake_quantize(self, x, step, zero_point, qmin, qmax):
                power = step + (torch.exp2(torch.log2(step).round()) - step).detach()
                return fake_quantize(x, power, zero_point, qmin, qmax).to(x.dtype)
    """,
    "predictor": """
        import numpy as np

        from mixbit.inference import ArrayPredictor


        class Means(ArrayPredictor):
            def __init__(self, space, shape, classes):
                super().__init__("means", space, shape)
                self.classes = classes

            def _run(self, z):
                means = z.reshape(len(z), -1).mean(1)
                return -np.abs(means[:, None] - np.linspace(-1, 1, self.classes, dtype=np.float32))
    """,
    "attack": """
        from dataclasses import dataclass

        from mixbit.attacks import Attack


        @dataclass(frozen=True, slots=True, kw_only=True)
        class Brighter(Attack):
            by: float = 0.1

            @property
            def norm(self):
                return "Linf"

            @property
            def radius(self):
                return self.by

            def _perturb(self, target, x, y, streams):
                points = target.clip(x + self.by)
                rows = target.all_rows[target.can_ask(target.all_rows)]
                target.is_wrong(points[rows], rows)
                return points
    """,
    "exporter": """
        from dataclasses import dataclass
        from pathlib import Path

        from mixbit.export import ExecutorPredictor


        @dataclass(frozen=True)
        class Written:
            path: Path


        class Listing:
            name, summary, file, rounding = "newcomer-list", "the operations, one a line", "model.list", "double"

            def write(self, graph, path, *, samples=None):
                path.write_text("\\n".join(f"{op.kind} {op.name}" for op in graph.ops))
                return Written(path)

            def predictor(self, graph, space=None):
                return ExecutorPredictor(graph, space)
    """,
}

FILES = {
    "a score method": "score",
    "a quantizer": "quantizer",
    "an exporter": "exporter",
    "a Predictor": "predictor",
    "an attack": "attack",
}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package, imported; every registry is as before when it is gone."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "newcomer").mkdir()
    (folder / "newcomer" / "__init__.py").write_text(FACE)
    for name, source in SOURCES.items():
        (folder / "newcomer" / f"{name}.py").write_text(textwrap.dedent(source))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("newcomer")
    finally:
        sys.path.remove(str(folder))
        for name in [one for one in sys.modules if one.partition(".")[0] == "newcomer"]:
            del sys.modules[name]
        for name in methods.names("newcomer-*"):
            registry._METHODS.leave(name)
        WEIGHTS.leave("newcomer-power")
        _EXPORTERS.leave("newcomer-list")
        ATTACKS.leave("newcomer-attack")


def test_it_takes_no_more_files_than_the_table_says(newcomer: ModuleType) -> None:
    """A file of its own, and the face that registers it; a Predictor needs no face."""
    text = (ROOT / "docs" / "architecture.md").read_text().split("## A newcomer's change touches at most", 1)[1]
    table = dict(re.findall(r"^\| ([^|]+?) \| (\d+)\b", text, re.MULTILINE))
    for what, file in FILES.items():
        taken = 1 + bool(re.search(rf"\b{file}\.", FACE))
        assert taken == int(table[what]), what
    assert int(table["a bit-width outside the range"]) == 1


def test_a_score_method_is_listed_searched_and_allocated_from(newcomer: ModuleType, tmp_path: Path) -> None:
    assert "newcomer-score" in typed("list", "methods")
    found = runs.search(
        tiny.subject(), "newcomer-score", {"bits": [8, 4]}, tmp_path / "s", task=tiny.task(), quiet=True
    )
    assert set(found.scores.layers["left"].weight) == {8, 4}
    said = typed("allocate", tmp_path / "s", "--budget", "bitops=6x6", "--out", tmp_path / "p.json")
    assert "Policy" in said and Policy.load(tmp_path / "p.json").method == "newcomer-score"


def test_a_policy_method_and_a_front_method_end_in_theirs(newcomer: ModuleType, tmp_path: Path) -> None:
    words = ["search", "newcomer-policy", tiny.net(), "--data", "digits", "--run", tmp_path / "p"]
    typed(*words, "--budget", "bitops=4x4")
    policy = Policy.load(tmp_path / "p" / "policy.json")
    assert policy.layers["left"].weight_bits == 2 and policy.layers["left"].activation_bits == 8
    runs.search(tiny.subject(), "newcomer-front", {}, tmp_path / "f", task=tiny.task(), quiet=True)
    said = typed("front", tmp_path / "f", "--budget", "bitops=8x8", "--out", tmp_path / "q.json")
    assert "picked from a front of 2" in said and str(Policy.load(tmp_path / "q.json").layers["left"]) == "W8A8"


def test_a_quantizer_is_put_on_and_evaluated(newcomer: ModuleType) -> None:
    task = tiny.subject().task()[0]
    policy = Policy.uniform(task.network, 4, 8)
    put_policy_on(task.model, policy, task, seed=0, config=QuantizeConfig(weights="newcomer-power"))
    bank = task.model.get_submodule("left").weight_quantizer
    assert type(bank).__name__ == "PowerOfTwo"
    weight = task.model.get_parameter("left.weight").detach()
    levels = bank(weight).detach()
    steps = torch.exp2(torch.log2(bank.steps.detach()).round()).view(-1, 1, 1, 1)
    assert torch.equal(levels / steps, (levels / steps).round()) and not torch.equal(levels, weight)
    assert 0 <= evaluate(task.model, task.test, loss=task.objective).value <= 1


def test_a_predictor_is_evaluated(newcomer: ModuleType) -> None:
    means = importlib.import_module("newcomer.predictor").Means
    task = tiny.task()
    found = evaluate(means(None, tuple(task.example().shape[1:]), 10), task.test)
    x, y = next(task.test.batches(len(task.test)))
    nearest = (x.flatten(1).mean(1)[:, None] - torch.linspace(-1, 1, 10)).abs().argmin(1)
    assert found.value == pytest.approx(float((nearest == y).float().mean()))


def test_an_exporter_is_listed_and_writes_a_run(newcomer: ModuleType, tmp_path: Path) -> None:
    assert "newcomer-list" in exporter_names() and "newcomer-list" in typed("list", "targets")
    words = ["export", tiny.quantized_run(), "--to", "newcomer-list", "--out", tmp_path / "m.list"]
    typed(*words, "--images", "8")
    assert "Conv left" in (tmp_path / "m.list").read_text()


def attacked(name: str, folder: Path, *words: object) -> dict[str, Any]:
    """What `mixbit attack` says of an attack on the integers of a run."""
    shutil.copytree(tiny.fitted_runs()[1], folder, ignore=shutil.ignore_patterns("attack"))
    typed("attack", folder, "--attacks", f"{name}?by=0.5", "--images", "20", "--on", "executor", *words)
    content: dict[str, Any] = json.loads((folder / "attack" / "attack.json").read_text())
    return content


def test_an_attack_is_listed_and_made_on_integers(newcomer: ModuleType, tmp_path: Path) -> None:
    assert "newcomer-attack" in typed("list", "attacks")
    (found,) = attacked("newcomer-attack", tmp_path / "run")["results"]
    assert (found["attack"], found["target"], found["source"]) == ("newcomer-attack?by=0.5", "executor", "executor")
    assert found["radius"] == 0.5 == found["measures"]["distances"]["Linf"]["largest"]


# ------------------------------------------------------------------------------------------- from the command line

MINE = """
import torch
from torch import nn

from mixbit.attacks import register as register_attack
from mixbit.export import register_exporter
from mixbit.methods import register
from mixbit.models.registry import ModelInfo
from mixbit.models.registry import register as register_model
from mixbit.quantizers import register_kind

{sources}

register("mine-score", "harm by the size of a layer", source="ours", cost="none")(BySize)
register_kind("mine-power", PowerOfTwo, "weights")
register_exporter(Listing())
register_attack("mine-attack", "all pixels brighter", source="ours", access="labels")(Brighter)


@register_model(ModelInfo(name="mine-net", paper="none", reference="none", licence="none", input_shape=(1, 8, 8),
                          num_classes=10, mean=(0.0,), std=(1.0,)))
def net(num_classes=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """One file that registers a method, a quantizer, an exporter, an attack and a model."""
    file = tmp_path / "mine.py"
    sources = "\n\n".join(textwrap.dedent(SOURCES[one]) for one in ("score", "quantizer", "exporter", "attack"))
    file.write_text(MINE.replace("{sources}", sources.replace("newcomer-", "mine-")))
    try:
        yield file
    finally:
        loading._IMPORTED.pop(file.resolve(), None)
        sys.modules.pop("mixbit_user_mine", None)
        registry._METHODS.leave("mine-score")
        WEIGHTS.leave("mine-power")
        _EXPORTERS.leave("mine-list")
        ATTACKS.leave("mine-attack")
        _ZOO.leave("mine-net")


def test_one_file_is_known_by_its_names_on_the_command_line(mine: Path, tmp_path: Path) -> None:
    """Its method, quantizer, exporter, attack and model, and `--import` may stand before or behind the command."""
    assert "mine-" not in typed("list", "methods") + typed("list", "targets") + typed("list", "models")
    named = [typed("list", what, "--import", mine) for what in ("methods", "targets", "attacks")]
    named.append(typed(f"--import={mine}", "list", "models"))
    assert [re.findall(r"^mine-\w+", one, re.MULTILINE) for one in named] == [
        ["mine-score"],
        ["mine-list"],
        ["mine-attack"],
        ["mine-net"],
    ]

    how = ["--data", "digits", "--import", mine]
    said = typed("search", "mine-score", "mine-net", "--run", tmp_path / "s", "--bits", "8,4", *how)
    assert next_of(said)[-2:] == ["--import", str(mine)]
    said = typed("allocate", tmp_path / "s", "--budget", "bitops=6x6", "--out", tmp_path / "p.json")
    assert Policy.load(tmp_path / "p.json").method == "mine-score" and "--import" not in next_of(said)
    tuned = [
        "--policy",
        tmp_path / "p.json",
        "--run",
        tmp_path / "t",
        "--epochs",
        "1",
        "--fraction",
        "0.05",
        "--batch-size",
        "32",
    ]
    typed("train", f"{mine}:net", *tuned, *how, "--set", 'quantize={"weights": "mine-power"}')
    said = typed("export", tmp_path / "t", "--to", "mine-list", "--import", mine, "--images", "4")
    assert "Conv" in (tmp_path / "t" / "model.list").read_text()
    assert attacked("mine-attack", tmp_path / "a", "--import", mine)["results"][0]["radius"] == 0.5


def test_what_cannot_be_imported_is_told_before_anything_else(mine: Path, tmp_path: Path) -> None:
    for given, told in (
        ([], "--import names nothing. Write --import FILE.py, or --import package.module"),
        ([tmp_path / "no.py"], "no file at "),
        (["no_such_module_here"], "no module named 'no_such_module_here'"),
        ([f"{mine}:net"], "a file or a module is imported, whole. Write FILE.py or package.module"),
    ):
        assert told in typed("search", "x", "y", "--run", tmp_path / "r", "--import", *given, code=2)
    (tmp_path / "bad.py").write_text("\nraise SystemExit(0)\n")
    said = typed("list", "methods", "--import", tmp_path / "bad.py", code=2)
    assert "running" in said and "bad.py, line 2" in said and "mine-" not in said
    assert not (tmp_path / "r").exists()
