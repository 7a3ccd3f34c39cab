from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from mixbit.certification import Certificate, ConfidenceSequence, Smoothing, certify, lower_bound, most_radius, predict
from mixbit.errors import MixbitError
from mixbit.export import ExecutorPredictor, find_exporter
from mixbit.testing.attacks import LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower, unlike
from tests.inference import seen
from tests.needs import needs

SMALL = Smoothing(sigma=0.02, n0=40, n=600)


def images(predictor: LinearPredictor, count: int = 6, spread: float = 0.03) -> tuple[Tensor, Tensor]:
    x = 0.5 + spread * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, predictor.logits(x).argmax(1)


def true_chances(predictor: LinearPredictor, x: Tensor, y: Tensor, sigma: float) -> np.ndarray:
    """Of two classes the noise moves the lead by a normal number: the chance is Phi(distance / sigma)."""
    return np.asarray(norm.cdf(predictor.distances(x, y, 2.0).numpy() / sigma))


def made(**settings: Any) -> tuple[Certificate, ...]:
    predictor = LinearPredictor(classes=2)
    x, y = images(predictor, 3)
    return certify(predictor, x, y, Smoothing(**{"sigma": 0.02, "n0": 30, "n": 200, **settings}))


def passes(**settings: Any) -> int:
    return sum(one.passes for one in made(**settings))


def largest_batch(batch: int) -> int:
    asked = list[int]()

    class Listening(LinearPredictor):
        def logits(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return super().logits(x)

    predictor = Listening()
    x, y = images(predictor, 1)
    asked.clear()
    certify(predictor, x, y, Smoothing(sigma=0.02, n=200, batch=batch))
    return max(asked)


def wrong_passes(skip_wrong: bool) -> int:
    predictor = LinearPredictor(classes=2)
    x, y = images(predictor, 1)
    (found,) = certify(predictor, x, 1 - y, Smoothing(sigma=0.001, n0=30, n=200, skip_wrong=skip_wrong))
    return found.passes


class TestSmoothingOptions(OptionCases):
    owner = Smoothing
    options = fields_of(Smoothing)
    rows = (
        # The noisier, the fewer samples are of the class.
        OptionRow("sigma", (0.01, 0.1), seen=lambda it: sum(one.hits for one in made(sigma=it)), holds=lower),
        OptionRow("n0", (20, 50), seen=lambda it: passes(n0=it), holds=lambda a, b: (a, b) == (660, 750)),
        OptionRow("n", (100, 300), seen=lambda it: passes(n=it), holds=lambda a, b: (a, b) == (390, 990)),
        OptionRow("alpha", (0.001, 0.1), seen=lambda it: min(one.chance for one in made(alpha=it)), holds=higher),
        OptionRow("seed", (0, 1), seen=lambda it: [one.hits for one in made(seed=it)], holds=unlike),
        OptionRow("batch", (16, 64), seen=largest_batch, holds=lambda a, b: (a, b) == (16, 64)),
        OptionRow("radii", (None, (0.001,)), seen=lambda it: passes(radii=it, batch=20), holds=lower),
        OptionRow("skip_wrong", (True, False), seen=wrong_passes, holds=lambda a, b: (a, b) == (30, 230)),
    )


def test_defaults_are_those_of_the_page() -> None:
    found = Smoothing(sigma=0.1)
    assert (found.n0, found.n, found.alpha, found.seed, found.radii, found.skip_wrong) == (
        100, 10_000, 0.001, 0, None, False
    )  # fmt: skip


def test_counts_are_those_of_the_true_chance_and_radii_below_the_true_distance() -> None:
    predictor = LinearPredictor(classes=2)
    x, y = images(predictor, 12)
    smoothing = replace(SMALL, n=2000)
    found = certify(predictor, x, y, smoothing)
    wanted = true_chances(predictor, x, y, smoothing.sigma)
    shares = np.array([one.hits / one.samples if one.chosen == int(label) else 1 - one.hits / one.samples
                       for one, label in zip(found, y, strict=True)])  # fmt: skip
    assert np.abs(shares - wanted).max() < 4 * np.sqrt(0.25 / 2000)
    assert 0.5 < wanted.min() < 0.8 and wanted.max() > 0.95
    for one, distance in zip(found, predictor.distances(x, y, 2.0).tolist(), strict=True):
        assert one.radius <= distance or one.chosen != one.label
        assert one.chance == pytest.approx(float(lower_bound(one.hits, 2000, 0.001)))
        assert one.radius == pytest.approx(max(0.02 * float(norm.ppf(one.chance)), 0.0)) and one.passes == 2040
    assert sum(one.radius > 0 for one in found) > 6


@pytest.mark.parametrize("change", [{"batch": 7}, {"batch": 600}, {"n": 599}, {"seed": 1}, {"sigma": 0.03}, {"n0": 41}])
def test_only_the_batch_changes_nothing(change: dict[str, int]) -> None:
    predictor = LinearPredictor()
    x, y = images(predictor)
    base = certify(predictor, x, y, SMALL)
    other = certify(predictor, x, y, replace(SMALL, **change))
    assert (base == other) == ("batch" in change)


def test_an_image_has_its_noise_wherever_it_stands() -> None:
    predictor = LinearPredictor()
    x, y = images(predictor)
    whole = certify(predictor, x, y, SMALL, images=[5, 2, 9, 11, 4, 7])
    done: list[Certificate] = []
    part = certify(predictor, x[2:4], y[2:4], SMALL, images=[9, 11], done=done.append)
    assert part == whole[2:4] and tuple(done) == part
    assert [one.image for one in part] == [9, 11] and [one.label for one in part] == y[2:4].tolist()
    others = {certify(predictor, x[4:5], y[4:5], replace(SMALL, sigma=0.1), images=[at])[0].hits for at in range(6)}
    assert len(others) > 2


def test_the_class_is_chosen_on_samples_that_are_not_counted() -> None:
    asked: list[Tensor] = []

    class Listening(LinearPredictor):
        def logits(self, x: Tensor) -> Tensor:
            asked.append(x)
            return super().logits(x)

    predictor = Listening()
    x, y = images(predictor, 1)
    asked.clear()
    (found,) = certify(predictor, x, y, replace(SMALL, batch=100))
    sizes = [len(one) for one in asked]
    assert sizes == [40, 100, 100, 100, 100, 100, 100] and found.passes == sum(sizes)
    assert float(torch.cdist(asked[0].flatten(1), torch.cat(asked[1:]).flatten(1)).min()) > 0.01
    counted = LinearPredictor().logits(torch.cat(asked[1:])).argmax(1)
    assert found.hits == int((counted == found.chosen).sum())


def test_no_more_is_asked_where_the_class_is_wrong() -> None:
    predictor = LinearPredictor()
    x, y = images(predictor)
    wrong = (y + 1) % 3
    (found, *_) = certify(predictor, x, wrong, replace(SMALL, skip_wrong=True))
    assert (found.samples, found.radius, found.passes) == (0, 0.0, 40) and not found.right
    assert certify(predictor, x, wrong, SMALL)[0].samples == 600


def test_it_stops_when_every_radius_is_decided() -> None:
    predictor = LinearPredictor(classes=2)
    x, y = images(predictor, 12)
    radii = (0.005, 0.03)
    whole = certify(predictor, x, y, replace(SMALL, n=4000))
    early = certify(predictor, x, y, replace(SMALL, n=4000, radii=radii, batch=50))
    for radius in radii:
        assert [one.radius >= radius for one in early] == [one.radius >= radius for one in whole]
    assert sum(one.samples for one in early) < 0.5 * sum(one.samples for one in whole)
    for one in early:
        assert one.samples % 50 == 0 and one.passes == one.samples + 40
        bounds = ConfidenceSequence(0.001)
        bounds.add(one.hits, one.samples)
        assert bounds.low <= one.chance + 1e-9 and one.radius < most_radius(replace(SMALL, n=4000))


def test_predictions_and_abstention_are_those_of_the_binomial_test() -> None:
    predictor = LinearPredictor(classes=2)
    x, y = images(predictor, 8)
    x[0] = 0.5  # on the boundary
    found = predict(predictor, x, SMALL)
    assert found[0] is None
    chances = true_chances(predictor, x, y, 0.02)
    for one, label, chance in zip(found[1:], y[1:].tolist(), chances[1:], strict=True):
        if chance > 0.7:
            assert one == label
    assert predict(predictor, x, replace(SMALL, alpha=0.9999))[0] is not None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sigma": 0.0}, "sigma=0.0 is illegal"),
        ({"sigma": -1.0}, "sigma=-1.0 is illegal"),
        ({"alpha": 1.0}, "alpha=1.0 is illegal"),
        ({"n": 9}, "n=9 certifies nothing at alpha=0.001. Legal: 10 samples or more"),
        ({"radii": (0.0,)}, "radii"),
        ({"batch": 0}, "batch=0 is illegal"),
    ],
)
def test_settings_that_certify_nothing(changed: dict[str, object], said: str) -> None:
    with pytest.raises(MixbitError, match=said):
        Smoothing(**{"sigma": 0.1, **changed})  # type: ignore[arg-type]


def test_inputs_that_do_not_fit() -> None:
    predictor = LinearPredictor()
    x, y = images(predictor)
    with pytest.raises(MixbitError, match="6 images, 5 labels and 6 numbers of images"):
        certify(predictor, x, y[:5], SMALL)
    with pytest.raises(MixbitError, match=r"images from -1 to 4. Legal: numbers of 0 or more"):
        certify(predictor, x[:2], y[:2], SMALL, images=[-1, 4])
    with pytest.raises(MixbitError, match="NaN or infinity"):
        certify(predictor, torch.full_like(x, torch.nan), y, SMALL)
    predictor.weight[:] = torch.nan
    with pytest.raises(MixbitError, match="logits with NaN or infinity"):
        certify(predictor, x, y, SMALL)
    with pytest.raises(MixbitError, match="two classes or more"):
        certify(LinearPredictor(classes=1), x, y, SMALL)


@needs("gcc")
def test_integers_have_the_same_certificate_wherever_they_run() -> None:
    cases = seen.PredictorCases()
    cases.shape = seen.SHAPE
    space = cases.space()
    graph, x = seen.graph(space), cases.inputs(2)
    smoothing = Smoothing(sigma=0.1, n0=10, n=40)
    networks = [find_exporter(name).predictor(graph, space) for name in ("onnx", "c")]
    base = ExecutorPredictor(graph, space)
    wanted = certify(base, x, torch.tensor([0, 1]), smoothing)
    assert len({one.hits for one in wanted} | {0, 40}) > 2, "noise changes the class of some"
    for network in networks:
        assert certify(network, x, torch.tensor([0, 1]), smoothing) == wanted
