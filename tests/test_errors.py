"""The tree of errors and the offer of the nearest word."""

from __future__ import annotations

import pytest

from mixbit import errors
from mixbit.errors import InfeasibleBudget, MixbitError, did_you_mean


def test_all_errors_are_caught_by_the_root() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name != "did_you_mean"]
    assert all(issubclass(kind, MixbitError) for kind in kinds)


def test_infeasible_budget_carries_what_would_do() -> None:
    with pytest.raises(MixbitError, match="too small") as found:
        raise InfeasibleBudget("too small", nearest={"bitops": 12}, blocking=["conv1"])
    assert isinstance(found.value, InfeasibleBudget)
    assert (found.value.nearest, found.value.blocking) == ({"bitops": 12}, ["conv1"])


@pytest.mark.parametrize(("word", "offer"), [("bitop", " Did you mean 'bitops'?"), ("qqq", "")])
def test_nearest_word(word: str, offer: str) -> None:
    assert did_you_mean(word, ["bitops", "weight-bytes"]) == offer
