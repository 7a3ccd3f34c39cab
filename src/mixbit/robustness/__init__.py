"""What happens to a quantized network when quantizer, bits or data are not those that it was trained for."""

from mixbit.robustness.corruption import (
    BitUse,
    CorruptionCell,
    CorruptionReport,
    evaluate_corruptions,
    static_bits,
)
from mixbit.robustness.quantizer_shift import (
    ShiftPoint,
    ShiftSummary,
    ShiftSweep,
    bit_shift_sweep,
    clipping_sweep,
    evaluator,
    power_of_two,
    ptq_bit_sweep,
    qat_bit_sweep,
    rounding_sweep,
    shifted,
    step_sweep,
    summarise,
)

__all__ = [
    "BitUse",
    "CorruptionCell",
    "CorruptionReport",
    "ShiftPoint",
    "ShiftSummary",
    "ShiftSweep",
    "bit_shift_sweep",
    "clipping_sweep",
    "evaluate_corruptions",
    "evaluator",
    "power_of_two",
    "ptq_bit_sweep",
    "qat_bit_sweep",
    "rounding_sweep",
    "shifted",
    "static_bits",
    "step_sweep",
    "summarise",
]
