"""Scores in a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixbit import runs
from mixbit.errors import StaleRun
from mixbit.policy import Scores
from mixbit.runs import Subject


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
