"""Post-training quantization: step sizes found on a few images, without training."""

from mixbit.ptq.bias import correct_bias, fold_bias, forget_bias
from mixbit.ptq.lapq import PTQConfig, PTQResult, Stage, ptq
from mixbit.ptq.lp import Levels, Sketch, lp_error, lp_step, widest_step

__all__ = [
    "Levels",
    "PTQConfig",
    "PTQResult",
    "Sketch",
    "Stage",
    "correct_bias",
    "fold_bias",
    "forget_bias",
    "lp_error",
    "lp_step",
    "ptq",
    "widest_step",
]
