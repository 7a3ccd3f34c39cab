from typing import Any

import torch
from torch import Tensor

from mixbit.attacks import Found, Jsma, norm_of
from mixbit.attacks.jsma import most_salient, most_salient_pair
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher
from tests.attacks.seen import expects


class TestJsma(AttackCases):
    def make(self) -> Jsma:
        return Jsma(theta=0.1)


class TestJsmaRandom(AttackCases):
    def make(self) -> Jsma:
        return Jsma(theta=0.25, towards="random")


class TestJsmaOfPairs(AttackCases):
    def make(self) -> Jsma:
        return Jsma(theta=0.1, saliency="pairs")


class TestJsmaOptions(OptionCases):
    owner = Jsma
    options = fields_of(Jsma)
    rows = (
        OptionRow("theta", (0.03, 0.04), seen=lambda value: _least_step(theta=value), holds=expects(0.03, 0.04)),
        OptionRow("gamma", (1 / 8, 1.0), seen=lambda value: _fooled(gamma=value), holds=higher),
        # Pairs must also push the third class down, which takes more numbers.
        OptionRow("saliency", ("lead", "pairs"), seen=lambda value: _changed(saliency=value), holds=higher),
        OptionRow("towards", ("second", "random"), seen=lambda value: _reached(towards=value), holds=expects(1, 2)),
    )


def test_the_pair_is_that_of_all_pairs() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 60, 14, generator=random)
    usable = torch.rand(60, 14, generator=random) < 0.6
    usable[0] = False
    usable[1] = torch.arange(14) == 3
    b[2] = -b[2].abs()
    found, there = most_salient_pair(a, b, usable)
    for row in range(60):
        scores = {
            (p, q): float(s * t)
            for p in range(14)
            for q in range(p)
            if usable[row, p] and usable[row, q]
            if (s := a[row, p] + a[row, q]) > 0 and (t := b[row, p] + b[row, q]) > 0
        }
        assert bool(there[row]) == bool(scores)
        if scores:
            assert tuple(sorted(found[row].tolist(), reverse=True)) == max(scores, key=lambda pair: scores[pair])
    assert not there[:3].any() and there[3:].sum() > 20


def test_numbers_of_the_largest_gradients_above_zero_are_raised() -> None:
    random = torch.Generator().manual_seed(0)
    slope = torch.randn(60, 6, generator=random)
    usable = torch.rand(60, 6, generator=random) < 0.5
    found, there = most_salient(slope, usable)
    for row in range(60):
        legal = [at for at in range(6) if usable[row, at] and slope[row, at] > 0]
        legal.sort(key=lambda at: -float(slope[row, at]))
        assert bool(there[row]) == bool(legal)
        if legal:
            assert found[row].tolist() == [*legal, *legal][:2]
    assert not there.all() and there.any()


def test_a_step_raises_two_by_theta_towards_the_target_and_away_from_the_label() -> None:
    predictor = LinearPredictor()
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.arange(3)
    predictor.bias = torch.tensor([0.2, 0.1, 0.0]) - 0.5 * predictor.weight.flatten(1).sum(1)
    y = predictor.logits(x).argmax(1)
    found = Jsma(theta=0.02).run(predictor, x, y)
    lead = (predictor.weight[1] - predictor.weight[0]).flatten()  # of the second class over the label
    assert found.success.all()
    assert set((found.points[0] != x[0]).flatten().nonzero().flatten().tolist()) == set(lead.topk(2).indices.tolist())


def test_pairs_push_the_target_up_and_the_sum_of_the_others_down() -> None:
    predictor = LinearPredictor()
    x = torch.full((1, 1, 4, 4), 0.5)
    predictor.bias = torch.tensor([0.2, 0.1, 0.0]) - 0.5 * predictor.weight.flatten(1).sum(1)
    found = Jsma(theta=0.02, saliency="pairs").run(predictor, x, torch.tensor([0]), queries=3)
    a, b = predictor.weight[1].flatten(), -(predictor.weight[0] + predictor.weight[2]).flatten()
    scores = {
        (p, q): float((a[p] + a[q]) * (b[p] + b[q]))
        for p in range(16)
        for q in range(p)
        if a[p] + a[q] > 0 and b[p] + b[q] > 0
    }
    assert found.success.all()
    assert tuple(sorted(found.points.ne(0.5).flatten().nonzero().flatten().tolist(), reverse=True)) == max(
        scores, key=lambda pair: scores[pair]
    )


def test_inputs_of_one_number_are_raised() -> None:
    slope = torch.tensor([[2.0], [-1.0]])
    found, there = most_salient(slope, torch.ones(2, 1) > 0)
    assert found.tolist()[0] == [0, 0] and there.tolist() == [True, False]


def test_raises_no_more_than_a_part_of_the_numbers() -> None:
    x, _, found = _attacked(gamma=1 / 4, theta=0.02)
    assert int(norm_of(found.points - x, "L0").max()) <= 4
    assert bool((found.points >= x).all())


def test_gives_up_where_theta_is_lost_in_rounding() -> None:
    x, _, found = _attacked(theta=1e-12)
    assert torch.equal(found.points, x) and not found.success.any() and int(found.queries.max()) < 20


def test_there_is_no_pair_where_both_sums_are_below_zero() -> None:
    below = torch.tensor([[-1.0, -2.0, -3.0]])
    assert most_salient_pair(below, below, torch.ones(1, 3) > 0)[1].tolist() == [False]
    assert most_salient_pair(-below, below, torch.ones(1, 3) > 0)[1].tolist() == [False]


def _attacked(**settings: Any) -> tuple[Tensor, LinearPredictor, Found]:
    predictor = LinearPredictor()
    x = (0.5 + 0.2 * torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y = predictor.logits(x).argmax(1)
    return x, predictor, Jsma(**settings).run(predictor, x, y)


def _least_step(**settings: Any) -> float:
    """The least by which a number has been raised."""
    x, _, found = _attacked(**settings)
    delta = (found.points - x)[found.success]
    return float(delta[delta > 0].min())


def _changed(**settings: Any) -> float:
    """Numbers that were changed, on average."""
    x, _, found = _attacked(theta=0.04, **settings)
    return float(norm_of(found.points - x, "L0")[found.success].mean())


def _fooled(**settings: Any) -> int:
    return int(_attacked(**settings)[2].success.sum())


def _reached(**settings: Any) -> int:
    """Classes that the images of one class were led to at the most, among those that came to where they were led."""
    x, predictor, found = _attacked(theta=0.3, **settings)
    before = predictor.logits(x)
    to = predictor.logits(found.points).argmax(1)
    second = before.topk(2, dim=1).indices[:, 1]
    return 1 + int((to != second)[found.success].any())
