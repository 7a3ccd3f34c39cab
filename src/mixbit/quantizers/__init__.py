"""How numbers become integers: the fake-quantize operator, calibration rules, and the bank of quantizers."""

from mixbit._bits import integer_range
from mixbit.quantizers.batch_quant import BatchQuant
from mixbit.quantizers.dorefa import DoReFaActivations, DoReFaWeights
from mixbit.quantizers.kinds import ACTIVATIONS, WEIGHTS, ActivationKind, WeightKind, find_kind, register_kind
from mixbit.quantizers.midrise import LsqClip, MidRise
from mixbit.quantizers.operator import fake_quantize, fuse_under_compile
from mixbit.quantizers.pact import Pact
from mixbit.quantizers.positive import PositiveSteps
from mixbit.quantizers.quantizer import GradientScale, Quantizer
from mixbit.quantizers.rules import RULES, Rule, RuleName, find_rule
from mixbit.quantizers.sample_rows import SampleRows

__all__ = [
    "ACTIVATIONS",
    "RULES",
    "WEIGHTS",
    "ActivationKind",
    "BatchQuant",
    "DoReFaActivations",
    "DoReFaWeights",
    "GradientScale",
    "LsqClip",
    "MidRise",
    "Pact",
    "PositiveSteps",
    "Quantizer",
    "Rule",
    "RuleName",
    "SampleRows",
    "WeightKind",
    "fake_quantize",
    "find_kind",
    "find_rule",
    "fuse_under_compile",
    "integer_range",
    "register_kind",
]
