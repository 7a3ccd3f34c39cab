"""Settings of a training that concern more than the training loop: `kurtosis`, `noise` and `quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixbit._settings import read
from mixbit.quantization import QuantizeConfig
from mixbit.training import KurtosisConfig, NoiseConfig, TrainConfig

KURTOSIS, NOISE, QUANTIZE = "kurtosis", "noise", "quantize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A training's settings, each in the hands of its room."""

    training: TrainConfig
    kurtosis: KurtosisConfig | None
    noise: NoiseConfig | None
    quantize: QuantizeConfig


def read_options(settings: Mapping[str, Any], seed: int) -> Options:
    """Sort the settings of `mixbit train`; an unknown key is an error that offers the nearest legal one."""
    rest = {key: value for key, value in settings.items() if key not in (KURTOSIS, NOISE, QUANTIZE)}
    return Options(
        training=TrainConfig.from_dict({"seed": seed, **rest}),
        kurtosis=KurtosisConfig.from_setting(settings.get(KURTOSIS)),
        noise=NoiseConfig.from_setting(settings.get(NOISE)),
        quantize=quantize_config(settings),
    )


def quantize_config(settings: Mapping[str, Any]) -> QuantizeConfig:
    """How layers are quantized, by the setting `quantize`: an object of `QuantizeConfig`'s names."""
    return read(QuantizeConfig, settings.get(QUANTIZE, {}), room=QUANTIZE)
