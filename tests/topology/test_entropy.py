"""Entropies from counted births, and the rules for images without one."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from mixbit.errors import MixbitError
from mixbit.topology import birth_share, channel_entropies, layer_entropy


def by_hand(values: list[int]) -> float:
    counts = Counter(values)
    return -sum(n / len(values) * math.log(n / len(values)) for n in counts.values())


def test_entropies_are_those_of_counted_values() -> None:
    births = np.random.default_rng(0).poisson(3, (50, 9))
    dropped = channel_entropies(births, blind="keep")
    counted = channel_entropies(births, missing="bin0")
    for channel, column in enumerate(births.T.tolist()):
        assert dropped[channel] == pytest.approx(by_hand([v for v in column if v]))
        assert counted[channel] == pytest.approx(by_hand(column))


def test_all_different_births_have_the_most_entropy() -> None:
    found = channel_entropies(np.arange(1, 129)[:, None])
    assert found[0] == pytest.approx(4.852030, abs=1e-6)


def test_one_value_has_none() -> None:
    found = channel_entropies(np.full((9, 2), 7))
    assert found.tolist() == [0, 0] and not np.signbit(found).any()


@pytest.mark.parametrize(("blind", "wanted"), [("sensitive", 0.95), ("printed", 0.05), ("keep", 0.0)])
def test_blind_channels(blind: str, wanted: float) -> None:
    """One birth in 20 images is below a tenth; two are not."""
    births = np.zeros((20, 2), dtype=int)
    births[0, 0], births[:2, 1] = 5, (5, 6)
    found = channel_entropies(births, blind=blind)  # type: ignore[arg-type]
    assert found[0] == pytest.approx(wanted * math.log(20)) and found[1] == pytest.approx(math.log(2))


def test_no_birth_at_all() -> None:
    nothing = np.zeros((10, 1))
    assert channel_entropies(nothing)[0] == pytest.approx(math.log(10))
    assert channel_entropies(nothing, blind="keep")[0] == 0
    assert channel_entropies(nothing, missing="bin0")[0] == 0


def test_miller_madow_adds_values_less_one_over_twice_the_images() -> None:
    births = [[4, 4], [4, 0], [5, 0], [6, 0]]
    plain = channel_entropies(births, blind="keep")
    corrected = channel_entropies(births, blind="keep", miller_madow=True)
    assert (corrected - plain).tolist() == pytest.approx([2 / 8, 0])


def test_shares_of_births() -> None:
    assert birth_share([[1, 0], [0, 0]]).tolist() == [0.5, 0]


def test_layers_without_entropy() -> None:
    assert layer_entropy([0.0, 0.0]) == 0


def test_softmax_does_not_overflow() -> None:
    assert layer_entropy([1000.0, 0.0], weighting="softmax") == pytest.approx(1000)


def test_bad_input() -> None:
    with pytest.raises(MixbitError, match="missing is 'bin'.*Did you mean 'bin0'.*Legal: drop, bin0"):
        channel_entropies([[1]], missing="bin")  # type: ignore[arg-type]
    with pytest.raises(MixbitError, match="blind is 'x'"):
        channel_entropies([[1]], blind="x")  # type: ignore[arg-type]
    with pytest.raises(MixbitError, match=r"births have the shape \(0, 3\)"):
        channel_entropies(np.zeros((0, 3)))
    with pytest.raises(MixbitError, match=r"entropies have the shape \(0,\)"):
        layer_entropy([])
    with pytest.raises(MixbitError, match="weighting is 'sum'"):
        layer_entropy([1.0], weighting="sum")  # type: ignore[arg-type]
