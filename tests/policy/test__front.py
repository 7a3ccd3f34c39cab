"""Fronts: round trips, what nothing beats, picking within a budget, and files that are of something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbit.cost import Budget, LayerBits, cost_table
from mixbit.errors import BudgetError, InfeasibleBudget, PolicyError
from mixbit.metric import ACCURACY, MetricInfo
from mixbit.policy import Front, FrontPoint, Measured, Policy, Terms, WeightsFile
from tests.support import chain, layer, network, random_latency

NET = chain((10, 100), (20, 300), (30, 500))
ERROR = MetricInfo(name="error", unit="dB", larger_is_better=False)
UNKNOWN = MetricInfo(name="odd", larger_is_better=None)
FREE = Terms(pins={})
OF = Measured(metrics=(ACCURACY.info, ERROR), on="20 images", data="sha256:1")


def point(weight: int, activation: int, accuracy: float, *, net: Any = NET, **more: float) -> FrontPoint:
    layers = {one.name: LayerBits(weight, activation) for one in net.layers}
    quality = {"accuracy": accuracy, "error": 1 - accuracy, "loss": 2 - 2 * accuracy, **more}
    return FrontPoint(name=f"W{weight}A{activation}", layers=layers, quality=quality, costs=cost_table(net, layers))


FRONT = Front(
    fingerprint=NET.fingerprint,
    points=(point(8, 8, 0.95), point(4, 4, 0.9), point(2, 8, 0.7), point(3, 3, 0.85), point(2, 2, 0.6)),
    measured=OF,
    method="by sight",
    seed=4,
    settings={"bits": [8, 4], "images": 20},
    notes=["a note"],
)


def names(front: Front) -> list[str]:
    return [one.name for one in front.points]


# ---------------------------------------------------------------------------------------------------------- files


def test_a_front_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x")
    whole = replace(FRONT, weights=WeightsFile.of(tmp_path / "weights", tmp_path / "run"))
    for front in (FRONT, whole):
        front.save(tmp_path / "run" / "front.json")
        assert Front.load(tmp_path / "run" / "front.json") == front
    content = json.loads((tmp_path / "run" / "front.json").read_text())
    assert list(content)[:3] == ["format", "version", "fingerprint"] and list(content)[-1] == "points"
    assert content["weights"]["path"] == "../weights"
    assert content["points"][1]["layers"]["l0"] == {"weight_bits": 4, "activation_bits": 4}


def edited(path: Path, change: Any) -> Path:
    FRONT.save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def put(*place: Any, value: Any) -> Any:
    def change(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    return change


WRONG: dict[str, tuple[Any, str]] = {
    "format": (put("format", value="mixbit-policy"), "wanted 'mixbit-front'. A mixbit-policy file is read by"),
    "newer": (put("version", value=2), "is version 2 of mixbit-front; this mixbit reads up to 1"),
    "no points": (put("points", value=[]), "'points' is an empty list. Legal: a list of policies, at least one"),
    "bits": (put("points", 1, "layers", "l0", "weight_bits", value=99), "'points' > '1' > 'layers' > 'l0' > 'weight_b"),
    "legal bits": (put("points", 1, "layers", "l0", "weight_bits", value=True), "is true. Legal: a whole number"),
    "extra": (
        put("points", 0, "qualitys", value={}),
        "is an unknown key. Did you mean 'quality'? Legal: name, quality",
    ),
    "extra head": (put("method_", value=""), "'method_' is an unknown key. Did you mean 'method'?"),
    "quality": (put("points", 0, "quality", "accuracy", value="good"), 'is "good". Legal: an object of finite numbers'),
    "other quality": (put("points", 2, "quality", value={"accuracy": 1.0}), "Policy 2 of the front has the qualities"),
    "no metric": (put("measured", "metrics", value=[]), "Legal: a list, each an object with name, unit and larger"),
    "direction": (put("measured", "metrics", 0, "larger_is_better", value="up"), "Legal: true, false or null"),
    "unmeasured": (put("measured", "metrics", 0, "name", value="f1"), "The metric 'f1' is not measured. Measured: acc"),
    "costs": (put("points", 0, "costs", "bitops", value="many"), "Legal: an object of finite numbers"),
    "weights": (put("weights", value={"path": "/w", "digest": "d"}), "'/w' is no relative path"),
    "weights of windows": (put("weights", value={"path": "C:\\w", "digest": "d"}), "is no relative path"),
    "no digest": (put("weights", value={"path": "w"}), "'weights' > 'digest' is missing. Legal: a text"),
    "settings": (put("settings", value=[]), "'settings' is an empty list. Legal: an object of JSON values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_none_is_refused_with_what_is_legal(name: str, tmp_path: Path) -> None:
    change, text = WRONG[name]
    with pytest.raises(PolicyError) as caught:
        Front.load(edited(tmp_path / "front.json", change))
    assert text in str(caught.value) and len(str(caught.value)) < 700
    assert "front.json" in str(caught.value)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PolicyError, match="accuracy=nan"):
        replace(FRONT, points=(point(2, 2, float("nan")),))
    with pytest.raises(PolicyError, match="at least one point"):
        replace(FRONT, points=())


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"one")
    found = WeightsFile.of(tmp_path / "w", tmp_path / "run")
    assert found.check(tmp_path / "run").read_bytes() == b"one"
    (tmp_path / "w").write_bytes(b"two")
    with pytest.raises(PolicyError, match="measured with other weights: .* now has the content"):
        found.check(tmp_path / "run")
    (tmp_path / "w").unlink()
    with pytest.raises(PolicyError, match=r"measured with the weights '\.\./w', and there is no"):
        found.check(tmp_path / "run")


# --------------------------------------------------------------------------------------------------------- pareto


def test_pareto_leaves_what_nothing_beats() -> None:
    """W2A8 costs the BitOps of W4A4 at less accuracy; in weight bytes it is level with W2A2 and better."""
    assert names(FRONT.pareto()) == ["W2A2", "W3A3", "W4A4", "W8A8"]
    assert names(FRONT.pareto(["weight_bytes", "accuracy"])) == ["W2A8", "W3A3", "W4A4", "W8A8"]
    assert names(FRONT.pareto(["error", "bitops"])) == ["W8A8", "W4A4", "W3A3", "W2A2"]  # less error is better
    assert names(FRONT.pareto(["loss"])) == ["W8A8"]
    assert names(FRONT.pareto(["bitops", "weight_bytes", "accuracy"])) == ["W2A2", "W3A3", "W2A8", "W4A4", "W8A8"]


def test_pareto_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, (60, 3))
    made = tuple(
        replace(point(2, 2, -float(a)), name=str(at), costs={"bitops": int(b), "weight_bytes": int(w)})
        for at, (b, w, a) in enumerate(values)
    )
    found = {int(one.name) for one in replace(FRONT, points=made).pareto(["bitops", "weight_bytes", "accuracy"]).points}
    rows = [tuple(map(int, row)) for row in values]

    def beats(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    wanted = {
        at for at, row in enumerate(rows) if row not in rows[:at] and not any(beats(other, row) for other in rows)
    }
    assert found == wanted and 1 < len(wanted) < 60


def test_of_equal_points_the_first_one_stays() -> None:
    twins = replace(FRONT, points=tuple(replace(point(4, 4, 0.9), name=name) for name in "bac"))
    assert names(twins.pareto()) == names(twins.pareto(["loss"])) == ["b"]


def test_an_objective_must_be_known() -> None:
    with pytest.raises(PolicyError, match="objective 'bitop' is unknown. Did you mean 'bitops'"):
        FRONT.pareto(["bitop"])
    odd = replace(FRONT, measured=replace(OF, metrics=(UNKNOWN,)), points=(point(2, 2, 0.5, odd=1.0),))
    with pytest.raises(PolicyError, match="larger values of 'odd' are better is not known. Rank by another"):
        odd.pareto()
    assert len(odd.pareto(["bitops", "loss"]).points) == 1


# ----------------------------------------------------------------------------------------------------------- pick


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (["bitops=8x8"], "W8A8"),
        (["bitops=4x4"], "W4A4"),
        (["bitops=14399"], "W3A3"),  # W4A4 takes 900 * 16
        (["bitops=14400"], "W4A4"),
        (["bitops=8x8", "weight-bytes=2x2"], "W2A8"),
        (["bitops=2x2"], "W2A2"),
    ],
)
def test_the_best_within_the_budget_is_picked(budget: list[str], name: str) -> None:
    policy = FRONT.pick(Budget.parse(budget), NET, terms=FREE)
    (picked,) = [one for one in FRONT.points if one.name == name]
    assert policy.layers == picked.layers and policy.costs == picked.costs
    assert policy.budget == Budget.parse(budget).texts and (policy.method, policy.seed) == ("by sight", 4)
    assert policy.check(NET) is policy
    assert policy.notes[0].startswith(f"picked from a front of 5: {name}, accuracy ")
    assert policy.notes[0].endswith(f"the best of {sum(_fits(one, budget) for one in FRONT.points)} within the budget")


def _fits(one: FrontPoint, budget: list[str]) -> bool:
    limits = Budget.parse(budget)
    resolved = limits.resolve(NET, {})
    return min(limits.slack(FREE.costs(NET, one.layers), resolved).values()) >= 0


def test_costs_are_counted_anew_and_not_believed() -> None:
    lies = tuple(replace(one, costs={**one.costs, "bitops": 1}) for one in FRONT.points)
    policy = replace(FRONT, points=lies).pick(Budget.parse(["bitops=3x3"]), NET, terms=FREE)
    assert policy.layers["l0"] == LayerBits(3, 3) and policy.costs["bitops"] == 900 * 9
    assert replace(FRONT, points=lies).check(NET).points[0].costs == FRONT.points[0].costs


def test_what_is_best_can_be_another_quality() -> None:
    odd = replace(
        FRONT, points=(*FRONT.points, replace(point(5, 5, 0.99), quality={"accuracy": 0.1, "error": 0.0, "loss": 9.0}))
    )
    budget = Budget.parse(["bitops=8x8"])
    assert odd.pick(budget, NET, terms=FREE).layers["l0"] == LayerBits(8, 8)
    assert odd.pick(budget, NET, by="error", terms=FREE).layers["l0"] == LayerBits(5, 5)
    assert odd.pick(budget, NET, by="loss", terms=FREE).layers["l0"] == LayerBits(8, 8)
    with pytest.raises(PolicyError, match="by='acuracy' was not measured. Did you mean 'accuracy'"):
        odd.pick(budget, NET, by="acuracy")


def test_of_equal_accuracies_the_less_loss_is_picked_though_it_costs_more() -> None:
    cheap, dear = point(3, 3, 0.9), point(8, 8, 0.9)
    better = replace(dear, quality={**dear.quality, "loss": cheap.quality["loss"] / 2})
    budget = Budget.parse(["bitops=8x8"])
    assert replace(FRONT, points=(cheap, better)).pick(budget, NET, terms=FREE).layers == dear.layers
    assert replace(FRONT, points=(dear, cheap)).pick(budget, NET, terms=FREE).layers == cheap.layers


@pytest.mark.parametrize(("by", "told"), [(None, "accuracy 85.00 %"), ("error", "error 0.15 dB"), ("loss", "loss 0.3")])
def test_the_policy_says_what_it_was_picked_by_in_its_unit(by: str | None, told: str) -> None:
    policy = FRONT.pick(Budget.parse(["bitops=3x3"]), NET, by=by, terms=FREE)
    assert policy.notes == [f"picked from a front of 5: W3A3, {told} on 20 images, the best of 2 within the budget"]


@pytest.mark.parametrize("cpu", [None, "any", "vnni"])
def test_the_policy_remembers_for_which_processor_times_hold(cpu: Any) -> None:
    terms = Terms(pins={}, latency=replace(random_latency(NET), cpu=cpu))
    found = FRONT.pick(Budget.parse(["latency=1s"]), NET, terms=terms)
    assert found.allocation == ({} if cpu is None else {"latency_cpu": cpu})


def test_of_equal_ones_the_cheaper_is_picked() -> None:
    even = replace(FRONT, points=(point(8, 8, 0.9), point(3, 3, 0.9), point(4, 4, 0.9)))
    assert even.pick(Budget.parse(["bitops=8x8"]), NET, terms=FREE).layers["l0"] == LayerBits(3, 3)


def test_terms_say_how_limits_are_counted() -> None:
    """Pins are what `bitops=2x2` refers to, times are of the table, MACs of the counting."""
    budget = Budget.parse(["bitops=2x2"])
    assert FRONT.pick(budget, NET).layers["l0"] == LayerBits(4, 4)  # the ends at 8 bits leave so much
    times = random_latency(NET)
    terms = Terms(pins={}, latency=times)
    policy = FRONT.pick(Budget.parse(["latency=1s"]), NET, terms=terms)
    assert policy.costs["latency_ns"] == times.cost(policy.layers)
    limit = min(times.cost(one.layers) for one in FRONT.points)
    fastest = FRONT.pick(Budget.parse([f"latency={limit}ns"]), NET, terms=terms)
    assert times.cost(fastest.layers) == limit
    with pytest.raises(BudgetError, match="needs a latency table"):
        FRONT.pick(Budget.parse(["latency=1s"]), NET)
    net = network([layer("a", "x", "y", macs=100, limpq=50)])
    one = replace(FRONT, fingerprint=net.fingerprint, points=(point(4, 4, 0.5, net=net),))
    picked = one.pick(Budget.parse(["bitops=4x4"]), net, terms=Terms(pins={}, macs="limpq"))
    assert picked.costs["bitops"] == 50 * 16 and picked.macs == "limpq"
    assert picked.check(net).costs == picked.costs, "whoever reads the policy counts as it was counted"


def test_a_budget_that_nothing_meets_tells_the_nearest_and_what_blocks() -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        FRONT.pick(Budget.parse(["bitops=3000", "weight-bytes=1kB"]), NET, terms=FREE)
    assert caught.value.nearest == {"bitops": 3600, "weight-bytes": 60 * 2 / 8}
    assert caught.value.blocking == ["bitops"]
    assert str(caught.value) == (
        "None of the front's 5 policies meets the budget. The nearest, W2A2, needs bitops=3.6k. Policies over each "
        "limit: bitops=3000 5, weight-bytes=1kB 0. Raise the limit, or make a front with fewer bits."
    )
    some = replace(FRONT, points=(point(8, 2, 0.9), point(2, 8, 0.8)))
    with pytest.raises(InfeasibleBudget) as caught:
        some.pick(Budget.parse(["activation-bytes=4x4", "weight-bytes=4x4"]), NET, terms=FREE)
    by_hand = {"activation-bytes": some.points[1].costs["activation_bytes"], "weight-bytes": 60.0}
    assert caught.value.nearest == by_hand


@pytest.mark.parametrize("seed", range(30))
def test_what_blocks_is_that_of_a_count_by_hand(seed: int) -> None:
    """On limits that some points meet exactly: the nearest has the least of the largest ratios."""
    random = np.random.default_rng(seed)
    bits = [(int(w), int(a)) for w, a in random.choice(np.arange(2, 9), (4, 2))]
    of_kind = {"bitops": [900 * w * a for w, a in bits], "weight-bytes": [-(-60 * w // 8) for w, _ in bits]}
    limits = {kind: int(random.choice(used)) - int(random.integers(2)) for kind, used in of_kind.items()}
    over = {kind: [one > limits[kind] for one in used] for kind, used in of_kind.items()}
    asked = replace(FRONT, points=tuple(replace(point(*one, 0.5), name=f"p{at}") for at, one in enumerate(bits)))
    budget = Budget.parse([f"bitops={limits['bitops']}", f"weight-bytes={limits['weight-bytes']}B"])
    if not all(any(each) for each in zip(*over.values(), strict=True)):
        fits = [at for at, each in enumerate(zip(*over.values(), strict=True)) if not any(each)]
        assert asked.pick(budget, NET, terms=FREE).notes[0].endswith(f"the best of {len(fits)} within the budget")
        return
    with pytest.raises(InfeasibleBudget) as caught:
        asked.pick(budget, NET, terms=FREE)
    ratios = [max(used[at] / limits[kind] for kind, used in of_kind.items()) for at in range(4)]
    nearest = ratios.index(min(ratios))
    counts = f"bitops={limits['bitops']} {sum(over['bitops'])}, weight-bytes={limits['weight-bytes']}B "
    assert f"The nearest, p{nearest}, needs " in str(caught.value)
    assert f"over each limit: {counts}{sum(over['weight-bytes'])}. " in str(caught.value)
    assert caught.value.blocking == [kind for kind, each in over.items() if each[nearest]]


def test_a_front_of_another_model_is_refused() -> None:
    other = chain((10, 100), (20, 300), (31, 500))
    with pytest.raises(PolicyError, match="This front was made for another model: the layers have the same names"):
        FRONT.pick(Budget.parse(["bitops=8x8"]), other)
    fewer = replace(FRONT.points[1], layers={"l0": LayerBits(2, 2)})
    with pytest.raises(PolicyError, match="Policy 1 of the front"):
        replace(FRONT, points=(FRONT.points[0], fewer)).check(NET)


# ---------------------------------------------------------------------------------------------------------- merged


def test_merged_has_the_points_of_both_and_the_first_of_the_same() -> None:
    other = replace(FRONT, points=(point(4, 4, 0.1), point(6, 6, 0.92)), method="other", seed=5, settings={}, notes=[])
    both = FRONT.merged(other)
    assert names(both) == [*names(FRONT), "W6A6"] and both.points[1].quality["accuracy"] == 0.9
    assert (both.method, both.seed, both.settings) == ("by sight and other", None, {})
    assert both.notes == ["a note", "1 policies of other were there already: the first measurement stays"]
    same = FRONT.merged(replace(FRONT, points=(point(6, 6, 0.92),)))
    assert (same.method, same.seed, same.settings, same.notes) == (FRONT.method, 4, FRONT.settings, ["a note"])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"fingerprint": "sha256:0123456789abcdef"}, "networks"),
        ({"measured": replace(OF, metrics=(ERROR,))}, "metrics"),
        ({"measured": replace(OF, data="sha256:2")}, "samples"),
        ({"weights": WeightsFile(path="w", digest="blake2b:1")}, "weights"),
    ],
)
def test_fronts_that_were_not_measured_alike_are_not_merged(change: dict[str, Any], what: str) -> None:
    with pytest.raises(PolicyError, match=f"The two fronts are of other {what}: "):
        FRONT.merged(replace(FRONT, **change))


def test_a_picked_policy_is_one_of_its_network_in_a_file(tmp_path: Path) -> None:
    FRONT.pick(Budget.parse(["bitops=4x4"]), NET, terms=FREE).save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json").check(NET).layers == FRONT.points[1].layers
