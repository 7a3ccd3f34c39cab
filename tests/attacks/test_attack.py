from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixbit import attacks
from mixbit.attacks import Attack, Norm, Target
from mixbit.attacks._norms import NORMS, norm_of, project
from mixbit.attacks._streams import Streams
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.testing.attacks import LinearPredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Liar(Attack):
    """Claims everything: its points are those that it was given."""

    name = "liar"
    access = "labels"

    @property
    def norm(self) -> Norm:
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        return x


def test_what_counts_is_what_the_network_says_of_the_points() -> None:
    predictor = LinearPredictor()
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = _Liar().run(predictor, x, predictor.logits(x).argmax(1))
    assert found.right.all() and not found.success.any()


def test_the_input_is_not_changed_by_an_attack() -> None:
    predictor = LinearPredictor()
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    kept, y = x.clone(), predictor.logits(x).argmax(1)
    assert attacks.make("pgd", {"eps": 0.5}).run(predictor, x, y).success.any()
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", attacks.names())
def test_inputs_and_labels_of_another_width_are_attacked_as_float32_and_int64(name: str) -> None:
    predictor = LinearPredictor(classes=4)
    x = (torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 64).round() / 64  # float16 holds these
    y, attack = predictor.logits(x).argmax(1), attacks.make(name)
    wanted = attack.run(predictor, x, y, queries=300)
    for values, labels in ((x.double(), y.to(torch.uint8)), (x.half().requires_grad_(), y.to(torch.int32))):
        found = attack.run(predictor, values, labels, queries=300)
        assert torch.equal(found.points, wanted.points) and torch.equal(found.gradients, wanted.gradients)


def test_an_image_at_a_bound_that_float32_rounds_up_is_within() -> None:
    predictor = LinearPredictor(space=InputSpace(bounds=(0.0, 0.1)))
    x = torch.full((1, 1, 4, 4), 0.1)
    assert float(x.max()) > 0.1
    _Liar().check(predictor, x, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": [0, 1]}, "labels list and 2 numbers of images. Legal: a whole number an image"),
        ({"y": torch.tensor([True, False])}, "labels torch.bool"),
        ({"y": torch.tensor([0.0, 1.0])}, "labels torch.float32"),
        ({"images": [0]}, "1 numbers of images"),
        ({"images": [-1, 0]}, "images has -1. Legal: whole numbers of 0 or more"),
        ({"images": ["a", 0]}, "images has 'a'"),
    ],
)
def test_labels_and_numbers_of_images_that_are_none(changed: dict[str, Any], said: str) -> None:
    given = {"y": torch.tensor([0, 1]), **changed}
    with pytest.raises(MixbitError, match=said):
        _Liar().run(LinearPredictor(), torch.rand(2, 1, 4, 4), **given)


def test_norms_are_numpys() -> None:
    delta = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    delta[0, 0] = 0
    for norm, order in zip(NORMS, (0, 1, 2, float("inf")), strict=True):
        flat = delta.flatten(1).numpy()
        wanted = torch.tensor([float(np.linalg.norm(one, order)) for one in flat])
        torch.testing.assert_close(norm_of(delta, norm), wanted)


def test_projection_is_the_nearest_point_of_the_ball() -> None:
    delta = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    inside = 0.1 * delta / norm_of(delta, "L2")[:, None]
    for norm in ("L2", "Linf"):
        assert torch.equal(project(inside, norm, 0.5), inside)
        cut = project(delta, norm, 0.5)
        assert float(norm_of(cut, norm).max()) <= 0.5 + 1e-6
        for other in torch.randn(200, 5, 6, generator=torch.Generator().manual_seed(1)):
            rival = project(other, norm, 0.5)
            assert bool((norm_of(delta - cut, "L2") <= norm_of(delta - rival, "L2") + 1e-5).all())
    radii = torch.tensor([0.1, 0.2, 0.3, 0.4, 10.0])
    torch.testing.assert_close(norm_of(project(delta, "L2", radii), "L2")[:4], radii[:4])


def test_streams_have_the_laws_they_say_and_hang_on_seed_purpose_and_image() -> None:
    rows = torch.arange(4)
    streams = Streams(0, "pgd", [0, 1, 2, 3])
    normal = streams.normal(rows, (20000,))
    assert abs(float(normal.mean())) < 0.02 and float(normal.std()) == pytest.approx(1, abs=0.02)
    uniform = streams.uniform(rows, (20000,), -2, 4)
    assert (
        float(uniform.mean()) == pytest.approx(1, abs=0.05)
        and -2 <= float(uniform.min()) < -1.99 < 3.99 < uniform.max()
    )
    whole = streams.integers(rows, 5, (20000,))
    assert torch.bincount(whole.flatten()).tolist() == pytest.approx([16000] * 5, rel=0.05)
    assert set(streams.signs(rows, (500,)).unique().tolist()) == {-1.0, 1.0}
    chosen = streams.choices(rows, 9, 4)
    assert chosen.shape == (4, 4) and all(len(set(one)) == 4 for one in chosen.tolist()) and int(chosen.max()) < 9
    first = {
        (seed, purpose, image): float(Streams(seed, purpose, [image]).normal(torch.tensor([0]), ()))
        for seed in (0, 1)
        for purpose in ("pgd", "square")
        for image in (0, 1)
    }
    assert len(set(first.values())) == 8
