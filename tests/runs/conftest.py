"""A float run on digits that the tests of this folder share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mixbit import runs
from mixbit.runs import Subject

SHORT = {"epochs": 1, "batch_size": 64, "lr": 0.05, "fraction": 0.3, "bn_samples": 256}
DIGITS = Subject(model="digits-resnet", data="digits")


@pytest.fixture(scope="session")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> runs.Trained:
    """A float network after a third of an epoch."""
    return runs.train(DIGITS, None, SHORT, tmp_path_factory.mktemp("runs") / "float", quiet=True)


@pytest.fixture(scope="session")
def searched(float_run: runs.Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Path]:
    """Untrained indicators of that network, in a run folder."""
    folder = tmp_path_factory.mktemp("runs") / "search"
    subject = replace(float_run.trained, seed=0)
    runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    return subject, folder
