"""Policies of other toolkits: found once, and again where weights, settings or the policy itself are others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from mixbit.cost import LayerBits
from mixbit.policy import Policy
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
import subject

records = subject.records


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    monkeypatch.setattr(subject, "sources", lambda: {"weights": path})
    monkeypatch.setattr(subject, "POLICIES", tmp_path / "policies")
    monkeypatch.setattr(subject, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "SMOKE", tmp_path / "smoke")
    return path


def kept(images: int = 32, *, fresh: bool = False, smoke: bool = False) -> subject.Kept:
    given = argparse.Namespace(fresh=fresh, smoke=smoke)
    return subject.Kept("mct", "10x", ("images", "pinned"), ("numpy",), {"images": images}, given)


def test_a_search_is_reused_by_weights_settings_and_policy(weights: Path) -> None:
    calls: list[int] = []

    def make() -> tuple[Policy, dict[str, Any]]:
        calls.append(1)
        policy = Policy(
            fingerprint="sha256:0", layers={"a": LayerBits(4, 8)}, budget={"weight-bytes": "10x"}, costs={"bitops": 1}
        )
        return policy, {"images": 32, "pinned": False}

    for one, wanted in ((kept(), 1), (kept(), 1), (kept(64), 2), (kept(64, fresh=True), 3), (kept(64), 3)):
        found = one.write(make)
        assert len(calls) == wanted and (found["pinned"], found["weight_bits"]) == (False, {"a": 4})
    weights.write_bytes(b"two")
    assert kept(64).missing() and len(calls) == 3
    kept(64).write(make)
    kept(64).policy.unlink()
    kept(64).write(make)
    assert len(calls) == 5 and kept(64).policy.exists()
    before = {path: path.read_bytes() for path in (subject.RESULTS / "mct.json", kept().policy)}
    kept(8, smoke=True).write(make)
    assert len(calls) == 6 and before == {path: path.read_bytes() for path in before}
    assert records.maker(records.read("mct", folder=records.SMOKE), "images")["smoke"] is True
