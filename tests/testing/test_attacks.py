"""The contract of attacks on one that holds it, and on ones that break one promise each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Found, Pgd, Target
from mixbit.attacks._streams import Streams
from mixbit.inference import Predictor
from mixbit.testing.attacks import AttackCases


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(Pgd):
    case: str = ""

    def run(self, predictor: Predictor, x: Tensor, y: Tensor, **options: Any) -> Found:
        if self.case == "unchecked":
            y = y.long().clamp(0, 2)
        found = Pgd.run(self, predictor, x, y, **options)
        if self.case == "claims":
            return replace(found, success=torch.ones_like(found.success))
        if self.case == "queries":
            return replace(found, queries=found.queries // 2)
        return found

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        if self.case == "limit":
            target = Target(target.predictor, y)
        points = Pgd._perturb(self, target, x, y, streams)
        if self.case == "random":
            return points + 1e-3 * torch.rand(points.shape) * (points < 0.9)
        if self.case == "bounds":
            return points + 1
        if self.case == "radius":
            return (x + 30 * (points - x)).clamp(0, 1)
        return points


class Cases(AttackCases):
    case = ""

    def make(self) -> Pgd:
        return Broken(eps=0.25, steps=10, restarts=2, case=self.case)


@pytest.mark.parametrize(
    ("case", "test"),
    [
        ("bounds", "test_finds_points_of_another_class_within_bounds_and_radius"),
        ("radius", "test_finds_points_of_another_class_within_bounds_and_radius"),
        ("queries", "test_says_what_every_image_asked"),
        ("limit", "test_says_what_every_image_asked"),
        ("claims", "test_gives_up_where_there_is_one_class_alone"),
        ("claims", "test_leaves_wrong_images_alone"),
        ("random", "test_is_the_same_again_and_in_other_batches"),
        ("claims", "test_ends_within_its_queries"),
        ("unchecked", "test_refuses_what_cannot_be_attacked"),
    ],
)
def test_a_broken_promise_is_noticed(case: str, test: str) -> None:
    cases = Cases()
    getattr(cases, test)()
    cases.case = case
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(cases, test)()
