"""How numbers become integers: the fake-quantize operator, calibration rules, and the bank of quantizers."""

from mixbit.quantizers.operator import fake_quantize, fuse_under_compile
from mixbit.quantizers.quantizer import GradientScale, Quantizer
from mixbit.quantizers.rules import RULES, Rule, RuleName, find_rule, integer_range

__all__ = [
    "RULES",
    "GradientScale",
    "Quantizer",
    "Rule",
    "RuleName",
    "fake_quantize",
    "find_rule",
    "fuse_under_compile",
    "integer_range",
]
