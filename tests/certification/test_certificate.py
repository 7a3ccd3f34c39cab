import pytest
from scipy.stats import binomtest

from mixbit.certification import Certificate, Certified, lower_bound, radius_of
from mixbit.errors import MixbitError


def made(counts: list[int], right: list[int], samples: int = 1000, sigma: float = 0.5) -> Certified:
    found = []
    for image, (hits, label) in enumerate(zip(counts, right, strict=True)):
        chance = float(lower_bound(hits, samples, 0.001)) if samples else 0.0
        known = {"hits": hits, "samples": samples, "chance": chance, "radius": float(radius_of(chance, sigma))}
        found.append(Certificate(image=image, label=label, chosen=1, passes=samples + 100, **known))  # type: ignore[arg-type]
    return Certified(sigma=sigma, alpha=0.001, certificates=tuple(found))


FIVE = made([1000, 990, 950, 600, 540], [1, 0, 1, 1, 1])


def test_radii_and_their_mean() -> None:
    assert FIVE.radii.tolist() == pytest.approx([1.231631, 0, 0.719931, 0.064190, 0], abs=1e-6)
    assert FIVE.average_radius.value == pytest.approx(0.403150, abs=1e-6)
    assert FIVE.average_radius.low < 0.403 < FIVE.average_radius.high


def test_certified_accuracies_have_exact_intervals() -> None:
    assert [FIVE.accuracy(r).value for r in (0, 0.5, 0.719, 0.72, 1, 2)] == [0.6, 0.4, 0.4, 0.2, 0.2, 0.0]
    found, wanted = FIVE.accuracy(0), binomtest(3, 5).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert FIVE.abstention.value == 0.2 and FIVE.passes == 5500
    exact = Certified(sigma=1.0, alpha=0.001, certificates=FIVE.certificates[2:3])
    assert exact.accuracy(exact.certificates[0].radius).value == 1.0
    with pytest.raises(MixbitError, match=r"radius=-0.1 is illegal. Legal: 0 or more"):
        FIVE.accuracy(-0.1)


def test_the_conservative_accuracy_is_that_of_the_formula() -> None:
    many = made([1000] * 400 + [500] * 100, [1] * 500)
    log = 6.907755
    assert many.conservative(1.0) == pytest.approx(0.8 - 0.001 - (0.000999 * log / 500) ** 0.5 - log / 1500, abs=1e-6)
    assert many.conservative(1.0, rho=0.5) > many.conservative(1.0) and FIVE.conservative(2.0) == 0.0


def test_shares_of_hits_are_spread_over_images() -> None:
    assert FIVE.chances((0.0, 0.5, 1.0)) == {0.0: 0.54, 0.5: 0.95, 1.0: 1.0}
    assert made([0], [0], samples=0).chances() == {}


def test_a_network_that_stands_no_noise_is_told() -> None:
    (note,) = FIVE.notes(2)
    assert "smoothed accuracy is 60.0 %, which 2 classes have by chance" in note and "sigma 0.5" in note
    assert made([1000] * 50, [1] * 50).notes(2) == []
    with pytest.raises(MixbitError, match="certificates of no image"):
        Certified(sigma=1.0, alpha=0.001, certificates=())
