"""Scores in a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mixbit import runs
from mixbit.errors import MixbitError, StaleRun
from mixbit.methods import registry
from mixbit.policy import LayerScores, Scores
from mixbit.runs import Subject
from mixbit.task import Task
from mixbit.training import KurtosisConfig, KurtosisPenalty
from tests.cli import tiny


def test_folder_holds_scores_network_and_settings(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    scores = Scores.load(folder / "scores.json")
    assert len(scores.layers) == 8 and set(scores.layers["layer1.conv1"].weight) == {2, 3, 4}
    config = json.loads((folder / "config.json").read_text())
    assert config["method"] == "limpq-init" and config["subject"] == subject.to_json()


def test_finished_search_is_only_read(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    stamp = (folder / "scores.json").stat().st_mtime_ns
    again = runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    assert (folder / "scores.json").stat().st_mtime_ns == stamp
    assert again.scores == Scores.load(folder / "scores.json")


def test_an_older_network_file_is_written_anew_and_nothing_is_searched(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    stamp, text = (folder / "scores.json").stat().st_mtime_ns, (folder / "network.json").read_text()
    older = json.loads(text) | {"version": 1}
    (folder / "network.json").write_text(json.dumps(older))
    runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    assert (folder / "network.json").read_text() == text
    assert (folder / "scores.json").stat().st_mtime_ns == stamp


def test_other_settings_are_refused_by_name(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    with pytest.raises(StaleRun, match=r"settings.bits=\[4, 3, 2\], now settings.bits=\[4, 2\]"):
        runs.search(subject, "limpq-init", {"bits": [4, 2]}, folder, quiet=True)


def test_training_search_in_a_folder(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    settings = {"bits": [4, 2], "epochs": 1, "fraction": 0.2, "batch_size": 64}
    done = runs.search(searched[0], "limpq", settings, tmp_path / "limpq", quiet=True)
    assert {path.name for path in done.files} == {"scores.json", "network.json", "config.json", "metrics.jsonl"}
    assert all(path.is_file() for path in done.files)


REGRESSION = """
import torch
from torch import nn
import mixbit

data = [(torch.ones(4, 3), torch.ones(4, 1))]
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1))
task = mixbit.Task(model=model, train=data, test=data, loss=nn.functional.mse_loss, metric=METRIC)
"""


def test_a_mistake_in_loss_or_metric_claims_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REGRESSION.replace("METRIC", "mixbit.metric.accuracy()"))
    (tmp_path / "good.py").write_text(REGRESSION.replace("METRIC", "None"))
    subject, good = (Subject(model=f"{tmp_path / name}.py:task") for name in ("mine", "good"))
    for begin in (
        lambda: runs.train(subject, None, {"epochs": 1, "batch_size": 4}, tmp_path / "run", quiet=True),
        lambda: runs.search(subject, "sqnr", {}, tmp_path / "run", quiet=True),
    ):
        with pytest.raises(MixbitError, match="accuracy needs"):
            begin()
    settings = {"bits": [4, 2], "epochs": 1, "batch_size": 4, "fraction": 1.0}
    with pytest.raises(MixbitError, match="--set label_smoothing=0"):
        runs.search(good, "limpq", {**settings, "label_smoothing": 0.1}, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert "not smoothed" in runs.search(good, "limpq", settings, tmp_path / "run", quiet=True).notes[0]


def test_all_that_a_method_is_made_of_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Seen:
        step: float = 1.0
        seed: int = 0

        def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
            seen.append((self.step, self.seed, run, quiet, task.penalty))
            curve = LayerScores(weight={8: 0.0, 2: 1.0}, activation={8: 0.0, 2: 1.0})
            layers = dict.fromkeys((layer.name for layer in task.network.layers), curve)
            notes: dict[str, Any] = {"notes": ["one", "two"]}
            return Scores(fingerprint=task.network.fingerprint, method="t", layers=layers, settings=notes)

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    for name, cost in (("test-trains", "training"), ("test-looks", "forward")):
        registry.register(name, name, source="ours", cost=cost)(Seen)  # type: ignore[arg-type]
    subject, settings = replace(tiny.subject(), seed=3), {"step": 0.5, "kurtosis": 0.25}
    done = runs.search(subject, "test-trains", settings, tmp_path / "a", task=tiny.task(), quiet=True)
    ((*plain, penalty),) = seen
    assert plain == [0.5, 3, tmp_path / "a", True] and done.notes == ("one", "two")
    assert isinstance(penalty, KurtosisPenalty) and penalty.config == KurtosisConfig(weight=0.25)
    runs.search(subject, "test-looks", {"seed": 7}, tmp_path / "b", task=tiny.task())
    assert seen[1] == (1.0, 7, tmp_path / "b", False, tiny.task().penalty)
    with pytest.raises(MixbitError, match="kurtosis=0.25 has no effect on test-looks"):
        runs.search(subject, "test-looks", settings, tmp_path / "c", task=tiny.task(), quiet=True)
    assert not (tmp_path / "c").exists()
