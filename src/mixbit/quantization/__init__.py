"""A policy onto a model: quantizers are put on, calibrated, switched, frozen, and come off again."""

from mixbit.quantization._layers import QuantizedLayer
from mixbit.quantization.attaching import (
    CALIBRATION_SAMPLES,
    QuantizeConfig,
    attach,
    calibrate,
    check_calibrated,
    detach,
    fold_residuals,
    freeze,
    put_policy_on,
    quantize,
    quantized_layers,
    quantizers,
)
from mixbit.quantization.norms import norms_after_layers, norms_fed_by_layers

__all__ = [
    "CALIBRATION_SAMPLES",
    "QuantizeConfig",
    "QuantizedLayer",
    "attach",
    "calibrate",
    "check_calibrated",
    "detach",
    "fold_residuals",
    "freeze",
    "norms_after_layers",
    "norms_fed_by_layers",
    "put_policy_on",
    "quantize",
    "quantized_layers",
    "quantizers",
]
