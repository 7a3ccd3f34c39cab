"""What a policy costs: BitOps, weight bytes, peak activation bytes, measured time; and the budgets that limit them."""

from mixbit.cost._bits import FLOAT_BITS, MAX_BITS, MIN_BITS, LayerBits, Pins, uniform_bits
from mixbit.cost._budget import Budget
from mixbit.cost._costs import ELSEWHERE_BITS, Costs, Macs, cost_table, costs, float_costs, layer_macs, tensor_bytes
from mixbit.cost._latency import Device, LatencyCheck, LatencyTable, LatencyUnit, LayerLatency, Part, Timing
from mixbit.cost._limit import Limit

__all__ = [
    "ELSEWHERE_BITS",
    "FLOAT_BITS",
    "MAX_BITS",
    "MIN_BITS",
    "Budget",
    "Costs",
    "Device",
    "LatencyCheck",
    "LatencyTable",
    "LatencyUnit",
    "LayerBits",
    "LayerLatency",
    "Limit",
    "Macs",
    "Part",
    "Pins",
    "Timing",
    "cost_table",
    "costs",
    "float_costs",
    "layer_macs",
    "tensor_bytes",
    "uniform_bits",
]
