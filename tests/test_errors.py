"""The tree of errors and the offer of the nearest word."""

from __future__ import annotations

import pytest

from mixbit import errors
from mixbit.errors import InfeasibleBudget, MixbitError, did_you_mean, shown


def test_all_errors_are_caught_by_the_root() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]
    assert all(issubclass(kind, MixbitError) for kind in kinds)


def test_infeasible_budget_carries_what_would_do() -> None:
    with pytest.raises(MixbitError, match="too small") as found:
        raise InfeasibleBudget("too small", nearest={"bitops": 12}, blocking=["conv1"])
    assert isinstance(found.value, InfeasibleBudget)
    assert (found.value.nearest, found.value.blocking) == ({"bitops": 12}, ["conv1"])


@pytest.mark.parametrize(("word", "offer"), [("bitop", " Did you mean 'bitops'?"), ("qqq", "")])
def test_nearest_word(word: str, offer: str) -> None:
    assert did_you_mean(word, ["bitops", "weight-bytes"]) == offer


def test_what_was_received_is_shown_in_bounded_length() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10_000, 10**5000, -(10**5000), deep, {"a": "x" * 10_000}, b"x" * 10_000, None, object):
        assert 0 < len(shown(value)) <= 80
    assert shown("/a" * 60, most=1000) == repr("/a" * 60)
