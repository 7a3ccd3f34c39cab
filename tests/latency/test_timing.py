"""Times of calls that take turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mixbit.latency.timing import Timing, interleave


def test_calls_take_turns() -> None:
    turns: list[str] = []
    found = interleave({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3, least_ms=0.0)
    assert turns[-6:] == ["a", "b"] * 3
    assert turns[:-6] == ["a"] * 4 + ["b"] * 4, "one to warm up, and three to see how often a turn calls"
    assert found["a"].rounds == 3 and found["a"].spread_ms >= 0
    assert Timing.of([2.0]) == Timing(median_ms=2.0, spread_ms=0.0, rounds=1)


def test_the_time_of_a_call_is_its_part_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only calls move, 2 ms and 0.5 ms: a turn of 4 ms has 2 or 8 of them, after four before."""
    clock, calls = [0], {"a": 0, "b": 0}

    def call(name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            clock[0] += int(milliseconds * 1e6)
            calls[name] += 1

        return run

    monkeypatch.setattr("time.process_time_ns", lambda: clock[0])
    found = interleave({"a": call("a", 2.0), "b": call("b", 0.5)}, rounds=3, least_ms=4.0)
    assert found == {name: Timing(median_ms=ms, spread_ms=0.0, rounds=3) for name, ms in (("a", 2.0), ("b", 0.5))}
    assert calls == {"a": 4 + 3 * 2, "b": 4 + 3 * 8}


def test_by_default_thirty_turns_of_five_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0], [0]

    def call() -> None:
        clock[0] += 1_000_000
        calls[0] += 1

    monkeypatch.setattr("time.process_time_ns", lambda: clock[0])
    assert interleave({"a": call})["a"].rounds == 30
    assert calls[0] == 4 + 30 * 5


def test_two_rounds_have_a_spread() -> None:
    """Quartiles between neighbours: a quarter and three quarters of the way."""
    assert Timing.of([1.0, 5.0]) == Timing(median_ms=3.0, spread_ms=2.0, rounds=2)
