"""Settings of a training that other rooms own: each goes there."""

from __future__ import annotations

import pytest

from mixbit.errors import MixbitError
from mixbit.quantization import QuantizeConfig
from mixbit.runs._options import quantize_config, read_options
from mixbit.training import KurtosisConfig, TrainConfig


def test_every_setting_goes_to_its_room() -> None:
    found = read_options({"epochs": 3, "kurtosis": 0.5, "quantize": {"weight_rule": "minmax"}}, 7)
    assert found.training == TrainConfig(epochs=3, seed=7)
    assert found.kurtosis == KurtosisConfig(weight=0.5)
    assert found.quantize == QuantizeConfig(weight_rule="minmax")
    plain = read_options({"seed": 2}, 7)
    assert plain.training == TrainConfig(seed=2) and plain.kurtosis is None and plain.quantize == QuantizeConfig()
    with pytest.raises(MixbitError, match="quantize has no setting 'weight_rul'. Did you mean 'weight_rule'"):
        quantize_config({"quantize": {"weight_rul": "minmax"}})
