"""Runs that are in order, for cases to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixbit import runs
from mixbit.metric import ACCURACY
from mixbit.network import Network
from mixbit.policy import Front, FrontPoint, Measured, Policy

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 10),
    )
"""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the user's in net.py, and the scores of a search that looks at nothing."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "net.py").write_text(NET)
    subject = runs.Subject(model=f"{folder / 'net.py'}:net", data="digits")
    runs.search(subject, "uniform", {"bits": [8, 4, 2]}, folder / "search", quiet=True)
    return folder


@pytest.fixture(scope="session")
def documents(base: Path) -> dict[str, Any]:
    """What those files hold."""
    names = ("network", "scores", "config")
    found = {name: json.loads((base / "search" / f"{name}.json").read_text()) for name in names}
    _front(Network.from_json((base / "search" / "network.json").read_text())).save(base / "front.json")
    found["front"] = json.loads((base / "front.json").read_text())
    manifest = {"fingerprint": "sha256:0123456789abcdef", "options": {}, "roundings": {"Conv": "single"}}
    return {**found, "manifest": manifest}


def _front(network: Network) -> Front:
    """One policy, of which nothing was measured."""
    policy = Policy.uniform(network, 4, 4)
    point = FrontPoint(layers=policy.layers, costs=policy.costs, quality={"accuracy": 0.5, "loss": 1.0})
    return Front(
        fingerprint=network.fingerprint,
        points=(point,),
        measured=Measured(metrics=(ACCURACY.info,), on="nothing"),
    )
