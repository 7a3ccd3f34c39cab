"""A policy onto a model: quantizers are put on, calibrated, switched, frozen, and come off again."""

from mixbit.quantization._layers import QuantizedLayer
from mixbit.quantization.attaching import (
    QuantizeConfig,
    attach,
    calibrate,
    check_calibrated,
    detach,
    freeze,
    quantize,
    quantized_layers,
    quantizers,
)

__all__ = [
    "QuantizeConfig",
    "QuantizedLayer",
    "attach",
    "calibrate",
    "check_calibrated",
    "detach",
    "freeze",
    "quantize",
    "quantized_layers",
    "quantizers",
]
