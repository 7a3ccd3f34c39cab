"""A newcomer's change touches at most what docs/architecture.md says: throw-away ones of a package outside mixbit.

Each stands in a file of its own and a face that registers it, and is used to its end with what mixbit gives to all: it
is listed, searched or quantized with, evaluated, exported.
"""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mixbit import QuantizeConfig, evaluate, methods, runs
from mixbit.export.registry import _EXPORTERS, exporter_names
from mixbit.methods import registry
from mixbit.policy import Policy
from mixbit.quantization import put_policy_on
from mixbit.quantizers import WEIGHTS
from tests.cli import tiny
from tests.cli.typed import typed
from tests.mirror import ROOT

FACE = """
from mixbit.export import register_exporter
from mixbit.methods import register
from mixbit.quantizers import register_kind
from newcomer import exporter, front, policy, quantizer, score

register("newcomer-score", "harm by the size of a layer", source="ours", cost="none")(score.BySize)
register("newcomer-policy", "one of two draws", source="ours", cost="none", kind="policy")(policy.Lowest)
register("newcomer-front", "two points", source="ours", cost="forward", kind="front")(front.Two)
register_kind("newcomer-power", quantizer.PowerOfTwo, "weights")
register_exporter(exporter.Listing())
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

FILES = {"a score method": "score", "a quantizer": "quantizer", "an exporter": "exporter", "a Predictor": "predictor"}


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


def test_it_takes_no_more_files_than_the_table_says(newcomer: ModuleType) -> None:
    """A file of its own, and the face that registers it; a Predictor needs no face."""
    text = (ROOT / "docs" / "architecture.md").read_text().split("## A newcomer's change touches at most", 1)[1]
    table = dict(re.findall(r"^\| ([^|]+?) \| (\d+)\b", text, re.MULTILINE))
    for what, file in FILES.items():
        taken = 1 + bool(re.search(rf"\b{file}\.", FACE))
        assert taken == int(table[what]), what
    assert int(table["an attack"]) == 1 and int(table["a bit-width outside the range"]) == 1


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
