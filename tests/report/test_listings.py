from __future__ import annotations

import pytest

from mixbit import attacks, data, methods, models
from mixbit.errors import MixbitError
from mixbit.report import listing


def test_every_method_model_and_kind_of_data_is_listed() -> None:
    assert [row[0] for row in listing("methods").rows] == methods.names()
    assert [row[0] for row in listing("models").rows] == models.names()
    assert [row[0] for row in listing("attacks").rows] == attacks.names()
    assert listing("attacks", "pgd").rows[0][:2] == ("pgd", "gradients")
    assert {row[0].split(":")[0] for row in listing("data").rows} == set(data.sources())


def test_every_line_says_what_the_thing_is() -> None:
    for what in ("methods", "data", "attacks"):
        assert all(all(row) for row in listing(what).rows)


def test_pattern_selects() -> None:
    names = [row[0] for row in listing("models", "resnet?0").rows]
    assert names
    assert all(len(name) == len("resnet20") for name in names)


def test_nothing_found_and_unknown_kinds_are_errors() -> None:
    with pytest.raises(MixbitError, match="No models match 'zzz'"):
        listing("models", "zzz")
    with pytest.raises(MixbitError, match="Did you mean 'methods'"):
        listing("method")
