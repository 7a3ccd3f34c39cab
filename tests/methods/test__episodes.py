"""Searches by episodes: what is kept, what is measured once, and going on after a kill at any point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError, StaleRun
from mixbit.ledger import Ledger
from mixbit.methods import EpisodeRecord, read_episodes
from mixbit.methods._episodes import Search
from mixbit.policy import Terms
from mixbit.sensitivity.judging import bits_text
from tests.cli import tiny
from tests.methods.episodic import BUDGET, WIDE, Formula, searched
from tests.support import chain, random_latency

NETWORK = chain((10, 100), (30, 50), (20, 400), (10, 10))


def played(rows: list[EpisodeRecord]) -> list[tuple[Any, ...]]:
    """All of the episodes but the time that they took."""
    return [(one.number, one.bits, one.actions, one.delta, one.reward, one.quality, one.costs) for one in rows]


def file_of(folder: Path) -> Path:
    return folder / "formula-episodes.jsonl"


def test_each_policy_is_measured_once_and_each_episode_teaches(tmp_path: Path) -> None:
    judge = Formula()
    policy, search = searched(NETWORK, tmp_path, judge, bits=(8, 2), episodes=20)
    rows = read_episodes(file_of(tmp_path))
    assert [one.number for one in rows] == [*range(20)]
    assert len(judge.measured) == len({*judge.measured}) == len({one.bits for one in rows}) < 20
    assert [one.new for one in rows].count(True) == len(judge.measured)
    assert search.agent.state()["counts"].tolist() == [20, 4 * 16, 4 * 20]
    best = max(rows, key=lambda one: one.reward)
    assert bits_text(policy.layers) == best.bits and policy.allocation["objective"] == best.reward
    assert policy.allocation["evaluations"] == len(judge.measured) and policy.allocation["episodes"] == 20
    assert best.costs == policy.costs and policy.budget == BUDGET.texts
    assert all(0 < one.agent_seconds <= one.seconds for one in rows)
    limit = Terms().limits(NETWORK, BUDGET)["bitops"]
    assert all(one.costs["bitops"] <= limit for one in rows)


def test_notes_say_what_chance_found(tmp_path: Path) -> None:
    policy, _ = searched(NETWORK, tmp_path)
    rows = read_episodes(file_of(tmp_path))
    chance = [one.reward for one in rows[:4]]
    assert [one.delta is None for one in rows].count(True) == 4
    assert policy.notes[0].startswith("pinned: ")
    assert f"the best of 12 episodes, {policy.allocation['evaluations']} different policies" in policy.notes[1]
    assert "bits, on a formula" in policy.notes[1]
    assert f"had {max(chance):.4g} and the median {np.median(chance):.4g}; of the last 8" in policy.notes[2]
    assert "random episodes" not in " ".join(searched(NETWORK, warmup=0)[0].notes)


# ---------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("fails_at", [0, 1, 4, 7])
def test_a_search_killed_while_it_measures_goes_on_with_the_same_episodes(fails_at: int, tmp_path: Path) -> None:
    wanted, whole = searched(NETWORK, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        searched(NETWORK, tmp_path / "cut", Formula(fails_at))
    judge = Formula()
    found, again = searched(NETWORK, tmp_path / "cut", judge)
    assert found == wanted
    assert played(read_episodes(file_of(tmp_path / "cut"))) == played(read_episodes(file_of(tmp_path / "whole")))
    assert len(judge.measured) == wanted.allocation["evaluations"] - fails_at
    mine, other = again.agent.state(), whole.agent.state()
    assert all(np.array_equal(mine[name], other[name]) for name in other)


@pytest.mark.parametrize("where", ["before the episode is kept", "before the agent is saved", "in the agent's file"])
def test_a_kill_between_two_files_loses_nothing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, _ = searched(NETWORK, tmp_path / "whole")
    put, save = Ledger.put, Search._save

    def killing_put(self: Ledger, key: str, value: Any) -> Any:
        if key.endswith("episode 6"):
            raise KeyboardInterrupt
        return put(self, key, value)

    def killing_save(self: Search) -> None:
        if self.agent.episode == 7:
            raise KeyboardInterrupt
        save(self)

    with monkeypatch.context() as patched:
        if where == "before the episode is kept":
            patched.setattr(Ledger, "put", killing_put)
        else:
            patched.setattr(Search, "_save", killing_save)
        with pytest.raises(KeyboardInterrupt):
            searched(NETWORK, tmp_path / "cut")
    if where == "in the agent's file":
        (tmp_path / "cut" / "formula-agent.safetensors").unlink()
    found, _ = searched(NETWORK, tmp_path / "cut", Formula())
    assert found == wanted
    assert played(read_episodes(file_of(tmp_path / "cut"))) == played(read_episodes(file_of(tmp_path / "whole")))


def test_a_finished_search_is_only_read(tmp_path: Path) -> None:
    wanted, _ = searched(NETWORK, tmp_path)
    judge = Formula(fails_at=0)
    assert searched(NETWORK, tmp_path, judge)[0] == wanted


def test_an_agent_that_is_ahead_of_its_episodes_plays_them_again(tmp_path: Path) -> None:
    """As after a power cut, which the ledger's last line did not survive."""
    wanted, _ = searched(NETWORK, tmp_path)
    rows = played(read_episodes(file_of(tmp_path)))
    lines = file_of(tmp_path).read_text().splitlines(keepends=True)
    file_of(tmp_path).write_text("".join(lines[:-2]))
    assert searched(NETWORK, tmp_path, Formula(fails_at=0))[0] == wanted
    assert played(read_episodes(file_of(tmp_path))) == rows


def test_other_limits_are_another_search_of_the_same_measurements(tmp_path: Path) -> None:
    """As under limits of a device, whose table may change from one search to the next."""
    first, _ = searched(NETWORK, tmp_path)
    times = random_latency(NETWORK, bits=(2, 3, 4, 8))
    terms = Terms(latency=times)
    judge = Formula()
    second, _ = searched(NETWORK, tmp_path, judge, budget=Budget.parse(["latency=1ms"]), terms=terms)
    assert second.budget == {"latency": "1ms"} and judge.measured
    assert {tuple(one.costs) for one in read_episodes(file_of(tmp_path))} == {tuple(second.costs)}, "the last search's"
    again = Formula(fails_at=0)
    assert searched(NETWORK, tmp_path, again)[0] == first and not again.measured
    assert first != second


def test_searches_of_other_limits_that_were_killed_do_not_take_each_others_agent(tmp_path: Path) -> None:
    wanted, _ = searched(NETWORK)
    for budget, fails_at in ((BUDGET, 6), (Budget.parse(["bitops=4x4"]), 3)):
        with pytest.raises(KeyboardInterrupt):
            searched(NETWORK, tmp_path, Formula(fails_at), budget=budget)
    assert searched(NETWORK, tmp_path)[0] == wanted


def test_settings_that_change_are_refused_by_their_name(tmp_path: Path) -> None:
    searched(NETWORK, tmp_path)
    with pytest.raises(StaleRun, match="episodes=12, now episodes=13"):
        searched(NETWORK, tmp_path, episodes=13)
    with pytest.raises(StaleRun, match="seed=0, now seed=1"):
        searched(NETWORK, tmp_path, seed=1)
    judge = Formula()
    judge.of = {"formula": 2}
    with pytest.raises(StaleRun, match="formula=1, now formula=2"):
        searched(NETWORK, tmp_path, judge)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_agent(content: bytes, tmp_path: Path) -> None:
    wanted, _ = searched(NETWORK, tmp_path)
    path = tmp_path / "formula-agent.safetensors"
    path.write_bytes(content)
    if content:
        with pytest.raises(StaleRun, match="formula-agent.safetensors is no agent of this search: .* Remove it"):
            searched(NETWORK, tmp_path)
        path.unlink()
    assert searched(NETWORK, tmp_path, Formula(fails_at=0))[0] == wanted


def test_episodes_that_come_to_something_else_are_told(tmp_path: Path) -> None:
    """What was measured was changed by hand, or another machine rounds otherwise, and the agent's file is gone."""
    searched(NETWORK, tmp_path)
    (tmp_path / "formula-agent.safetensors").unlink()
    lines = (tmp_path / "formula.jsonl").read_text().splitlines()
    entry = json.loads(lines[3])
    entry["value"]["bits"] += 50.0
    lines[3] = json.dumps(entry)
    (tmp_path / "formula.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(StaleRun, match="episode 2 had .* and comes to .* Remove the file to begin the episodes anew"):
        searched(NETWORK, tmp_path)


def test_the_agents_file_is_plain_arrays(tmp_path: Path) -> None:
    _, search = searched(NETWORK, tmp_path)
    kept = load_file(tmp_path / "formula-agent.safetensors")
    assert all(np.array_equal(kept[name], value) for name, value in search.agent.state().items())


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_reward_that_is_no_number_is_told_with_its_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Formula, "reward", lambda self, found: float("nan"))
    with pytest.raises(MixbitError, match=r"formula: the reward of W8A8 .* is nan, from \{'bits'"):
        searched(NETWORK)


def test_episodes_of_a_file(tmp_path: Path) -> None:
    assert read_episodes(tmp_path / "nothing.jsonl") == []
    searched(NETWORK, tmp_path)
    whole = read_episodes(file_of(tmp_path))
    text = file_of(tmp_path).read_text()
    file_of(tmp_path).write_text(text[:-10])  # a line that a kill cut off
    assert read_episodes(file_of(tmp_path)) == whole[:-1]
    file_of(tmp_path).write_text(text.replace('"reward"', '"rewart"'))
    with pytest.raises(MixbitError, match="Remove the file"):
        read_episodes(file_of(tmp_path))


def test_ties_and_pins_reach_the_policy() -> None:
    network = tiny.task().network
    policy, _ = searched(network, budget=WIDE, terms=Terms(pins={"left": LayerBits(3, 4)}))
    assert policy.layers["left"] == LayerBits(3, 4) and policy.notes[0] == "pinned: left W3A4"
    shared, _ = searched(network, budget=WIDE)
    assert shared.layers["left"].activation_bits == shared.layers["right"].activation_bits
