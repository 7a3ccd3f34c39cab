"""Methods by name."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from mixbit import methods
from mixbit.errors import MixbitError
from mixbit.methods import Limpq, registry


def test_names_match_a_glob_and_carry_what_a_list_shows() -> None:
    assert methods.names("limpq*") == ["limpq", "limpq-init"]
    for name in methods.names():
        found = methods.info(name)
        assert found.name == name and found.summary and found.source


def test_make_passes_settings_on() -> None:
    method = methods.make("limpq", {"epochs": 7})
    assert isinstance(method, Limpq) and method.epochs == 7
    assert methods.make("limpq", {"bits": [4, 2]}) == Limpq(bits=(4, 2))
    assert methods.make("limpq") == Limpq()


MAYBE = ("step_lr", "label_smoothing", "noise_decay", "sigma", "radius")
"""Numbers that are None by default."""
COSTS = {
    "none": {"map-size", "random", "uniform"},
    "weights": {"weight-entropy"},
    "forward": {
        "arq",
        "clado",
        "haq",
        "limpq-init",
        "one-at-a-time",
        "random-search",
        "sqnr",
        "topological-entropy",
        "uniform-front",
    },
    "gradient": {"fit", "mpq-co"},
    "curvature": {"hawq-v2", "hawq-v3"},
    "training": {"limpq", "qfa"},
}


def test_every_method_says_what_it_ends_in() -> None:
    assert methods.names(kind="policy") == ["arq", "haq", "random-search"]
    assert methods.names(kind="front") == ["qfa", "uniform-front"]
    assert {*methods.names()} == {one for kind in ("score", "policy", "front") for one in methods.names(kind=kind)}
    assert methods.names("random*", kind="score") == ["random"] and methods.info("random-search").kind == "policy"


def test_one_kind_can_be_asked_for() -> None:
    assert methods.make("random-search", {"trials": 3}, kind="policy") == methods.RandomSearch(trials=3)
    assert methods.make("fit", kind="score") == methods.Fit() and methods.Method is methods.ScoreMethod
    with pytest.raises(
        MixbitError, match=r"'fit' ends in scores.*Here one is wanted that ends in a policy.*: arq, haq, random-s"
    ):
        methods.make("fit", kind="policy")
    with pytest.raises(MixbitError, match="'uniform-front' ends in a front"):
        methods.make("uniform-front", kind="score")
    with pytest.raises(MixbitError, match="kind 'table' is not legal. Legal: score, policy, front"):
        registry.register("mine", "mine", source="ours", cost="none", kind="table")  # type: ignore[arg-type]


def test_every_method_says_what_its_search_needs() -> None:
    for cost, those in COSTS.items():
        assert {name for name in methods.names() if methods.info(name).cost == cost} == those


def test_unknown_method_and_setting_offer_the_nearest() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'limpq'"):
        methods.make("limqp")
    with pytest.raises(MixbitError, match="no setting 'epoch'. Did you mean 'epochs'"):
        methods.make("limpq", {"epoch": 3})


JUNK: dict[str, object] = {
    "text": "x",
    "nan": math.nan,
    "infinity": math.inf,
    "object": {},
    "digits": 10**5000,
    "nested": [[[]]],
    "half": 0.5,
    "true": True,
    "negative": -1,
}


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("junk", JUNK)
def test_every_setting_of_every_method_has_a_type_and_a_range(name: str, junk: str) -> None:
    """Whatever its annotation says: the only values that pass are those that it names."""
    value = JUNK[junk]
    settings = methods.make(name)
    for field in fields(settings):
        default = getattr(settings, field.name)
        number = isinstance(default, float) or (default is None and field.name in MAYBE)
        if (number and junk in ("half", "negative")) or (isinstance(default, bool) and junk == "true"):
            continue
        told, inner = f"method '{name}': {field.name}=.* is illegal. Legal: ", f"^{field.name}=.* is illegal. Legal: "
        if (name, field.name, junk) == (
            "qfa",
            "activations",
            "text",
        ):  # kinds are registered, so any name is of the type
            told = inner = "^activations 'x' is unknown. Legal: batchquant, "
        with pytest.raises(MixbitError, match=told):
            methods.make(name, {field.name: value})
        with pytest.raises(MixbitError, match=inner):
            type(settings)(**{field.name: value})


def test_a_name_is_given_once() -> None:
    with pytest.raises(MixbitError, match="registered already"):
        methods.register("limpq", "again", source="ours", cost="none")(Limpq)


def test_names_are_in_the_order_of_the_alphabet_whenever_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_METHODS", registry._METHODS.copy())
    methods.register("aaa", "mine", source="ours", cost="none")(Limpq)
    assert methods.names()[0] == "aaa" and methods.names() == sorted(methods.names())


def test_a_cost_class_is_one_of_a_few() -> None:
    with pytest.raises(MixbitError, match="'cheap' is not legal. Legal: none, weights"):
        methods.register("mine", "mine", source="ours", cost="cheap")  # type: ignore[arg-type]
