"""What every attack must do.

Inherit `AttackCases` in a test module, say how your attack is made, and pytest runs the cases on it:

    class TestMine(AttackCases):
        def make(self):
            return MyAttack(eps=0.1)

The network is a linear one of three classes, whose distance to the next class is known in every norm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Attack, Found, norm_of
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.inference import Predictor

__all__ = ["AttackCases", "LinearPredictor"]

_PIXELS = InputSpace.of_images(mean=(0.5,), std=(0.25,))


class LinearPredictor:
    """Logits `W x + b`, summed image by image, so that they do not depend on the batch; it keeps what it was asked.

    Args:
        differentiable: whether it gives gradients, or refuses them as integers do.
        classes: 3, or 1 of which no attack is possible.
        scale: of all logits: a network that is sure of itself.
        space: bounds of the inputs.
    """

    def __init__(
        self, *, differentiable: bool = True, classes: int = 3, scale: float = 10.0, space: InputSpace = _PIXELS
    ) -> None:
        random = torch.Generator().manual_seed(1)
        self.weight = scale * torch.randn(classes, 1, 4, 4, generator=random)
        self.bias = -0.5 * self.weight.flatten(1).sum(1)  # grey is on all boundaries
        self.differentiable, self.space, self.name = differentiable, space, "a linear network"
        self.asked = 0

    def logits(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)` of images `(N, 1, 4, 4)`; how many were asked for is kept."""
        if x.requires_grad and not self.differentiable:
            raise MixbitError("it has no gradients")
        self.asked += len(x)
        return (x[:, None] * self.weight).flatten(2).sum(2) + self.bias

    def distances(self, x: Tensor, y: Tensor, dual: float) -> Tensor:
        """Distance of each image to the nearest boundary, without the bounds of the space.

        Args:
            x: images that are right.
            y: their classes.
            dual: order of the dual norm: 2 for L2, 1 for Linf.
        """
        logits = self.logits(x)
        gaps = logits.gather(1, y[:, None]) - logits
        apart = (self.weight[y][:, None] - self.weight[None]).flatten(2)
        far = gaps / torch.linalg.vector_norm(apart, ord=dual, dim=2).clamp_min(1e-12)
        nearest: Tensor = far.scatter(1, y[:, None], torch.inf).amin(1)
        return nearest


class AttackCases:
    """Cases that hold for every attack.

    Attributes:
        images: attacked in each case; slow attacks take fewer.
        classes: of the network; more than 3 for attacks that need them.
    """

    images = 8
    classes = 3

    def make(self) -> Attack:
        """The attack, with settings under which it succeeds on the linear network, a radius of 0.25 or more."""
        raise NotImplementedError

    def shapes(self) -> tuple[Tensor, Tensor, LinearPredictor]:
        """Images near grey with their labels, and the network that has them right."""
        predictor = LinearPredictor(differentiable=self.make().access == "gradients", classes=self.classes)
        x = 0.5 + 0.1 * torch.randn(self.images, 1, 4, 4, generator=torch.Generator().manual_seed(2))
        x = x.clamp(0, 1)
        y = predictor.logits(x).argmax(1)
        predictor.asked = 0
        return x, y, predictor

    def found(self, **options: Any) -> tuple[Tensor, Tensor, LinearPredictor, Found]:
        """One attack of the images."""
        x, y, predictor = self.shapes()
        return x, y, predictor, self.make().run(predictor, x, y, **options)

    def test_finds_points_of_another_class_within_bounds_and_radius(self) -> None:
        attack = self.make()
        x, y, predictor, found = self.found()
        assert bool(found.right.all()) and bool(found.success.all())
        assert bool((predictor.logits(found.points).argmax(1) != y).all())
        assert float(found.points.min()) >= 0 and float(found.points.max()) <= 1
        length = norm_of(found.points - x, attack.norm)
        assert bool((length > 0).all())
        if attack.radius is not None:
            assert float(length.max()) <= attack.radius * (1 + 1e-5) + 1e-6

    def test_says_what_every_image_asked(self) -> None:
        attack = self.make()
        x, _, predictor, found = self.found()
        # One pass before the attack, and one after it to see what came of it, are not the attack's.
        assert int(found.queries.sum()) == predictor.asked - 2 * len(x) > 0
        assert bool(found.gradients.any()) == (attack.access == "gradients")

    def test_leaves_wrong_images_alone(self) -> None:
        x, y, predictor = self.shapes()
        y[0] = (y[0] + 1) % self.classes
        found = self.make().run(predictor, x, y)
        assert found.right.tolist() == [False] + [True] * (len(x) - 1)
        assert torch.equal(found.points[0], x[0]) and not found.success[0] and not found.queries[0]
        assert bool(found.success[1:].all())
        nothing = self.make().run(predictor, x[:1], y[:1])
        assert torch.equal(nothing.points, x[:1]) and not nothing.success.any() and not nothing.queries.any()

    def test_is_the_same_again_and_in_other_batches(self) -> None:
        x, y, predictor, whole = self.found(seed=3)
        assert torch.equal(self.make().run(predictor, x, y, seed=3).points, whole.points)
        half = len(x) // 2
        parts = [
            self.make().run(predictor, x[part], y[part], seed=3, images=range(len(x))[part]).points
            for part in (slice(None, half), slice(half, None))
        ]
        torch.testing.assert_close(torch.cat(parts), whole.points, rtol=0, atol=1e-5)

    def test_ends_within_its_queries(self) -> None:
        x, _, _, whole = self.found()
        few = max(1, int(whole.queries.min()) // 2)
        x, y, predictor, found = self.found(queries=few)
        assert int(found.queries.max()) <= few
        wrong = predictor.logits(found.points).argmax(1) != y
        assert torch.equal(found.success, wrong)
        assert float(found.points.min()) >= 0 and float(found.points.max()) <= 1
        one = self.found(queries=1)[3]
        assert int(one.queries.max()) <= 1 and one.points.shape == x.shape

    def test_gives_up_where_there_is_one_class_alone(self) -> None:
        """A network that calls everything the same: nothing is found, and nothing is claimed."""
        x, _, predictor = self.shapes()
        predictor.weight = torch.zeros_like(predictor.weight)
        predictor.bias = torch.zeros_like(predictor.bias)
        predictor.bias[0] = 1.0
        found = self.make().run(predictor, x, torch.zeros(len(x), dtype=torch.int64), queries=300)
        assert bool(found.right.all()) and not found.success.any()
        assert bool(torch.isfinite(found.points).all())
        assert float(found.points.min()) >= 0 and float(found.points.max()) <= 1

    def test_refuses_what_cannot_be_attacked(self) -> None:
        x, y, predictor = self.shapes()
        attack = self.make()
        broken, single = LinearPredictor(), LinearPredictor(classes=1)
        broken.bias = torch.full((3,), torch.nan)
        unbounded = LinearPredictor(space=InputSpace())
        cases: list[tuple[Predictor, Tensor, Tensor, str]] = [
            (broken, x, y, "NaN"),
            (single, x, torch.zeros_like(y), "two classes"),
            (predictor, x, y + 7, "labels from 7"),
            (predictor, x, y - 4, "labels from -4"),
            (predictor, x, y[:-1], "Legal: a whole number an image"),
            (predictor, x, y.float(), "Legal: a whole number an image"),
            (predictor, 255 * x, y, "not normalised"),
            (predictor, x - 1, y, "not normalised"),
            (predictor, x[:0], y[:0], "1 or more"),
            (unbounded, x, y, "no bounds"),
        ]
        for network, images, labels, said in cases:
            with pytest.raises(MixbitError, match=said):
                attack.run(network, images, labels)
        if attack.access == "gradients":
            with pytest.raises(MixbitError, match=r"needs gradients.*TwinPredictor"):
                attack.run(LinearPredictor(differentiable=False), x, y)
        if attack.radius is not None and hasattr(attack, "eps"):
            with pytest.raises(MixbitError, match="is illegal"):
                replace(attack, eps=0.0)
            with pytest.raises(MixbitError, match="size of the input space"):
                replace(attack, eps=5.0).run(predictor, x, y)
