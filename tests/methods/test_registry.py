"""Methods by name."""

from __future__ import annotations

import pytest

from mixbit import methods
from mixbit.errors import MixbitError
from mixbit.methods import Limpq


def test_names_match_a_glob_and_carry_a_summary() -> None:
    assert methods.names("limpq*") == ["limpq", "limpq-init"]
    assert all(methods.summary(name) for name in methods.names())


def test_make_passes_settings_on() -> None:
    method = methods.make("limpq", {"epochs": 7})
    assert isinstance(method, Limpq) and method.epochs == 7


def test_unknown_method_and_setting_offer_the_nearest() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'limpq'"):
        methods.make("limqp")
    with pytest.raises(MixbitError, match="no setting 'epoch'. Did you mean 'epochs'"):
        methods.make("limpq", {"epoch": 3})


def test_a_name_is_given_once() -> None:
    with pytest.raises(MixbitError, match="registered already"):
        methods.register("limpq", "again")(Limpq)
