"""What a policy costs: BitOps, weight bytes, peak activation bytes; and the budgets that limit them."""

from mixbit.cost._bits import FLOAT_BITS, MAX_BITS, MIN_BITS, LayerBits, Pins, uniform_bits
from mixbit.cost._budget import Budget
from mixbit.cost._costs import ELSEWHERE_BITS, Costs, Macs, cost_table, costs, float_costs, layer_macs, tensor_bytes
from mixbit.cost._limit import Limit

__all__ = [
    "ELSEWHERE_BITS",
    "FLOAT_BITS",
    "MAX_BITS",
    "MIN_BITS",
    "Budget",
    "Costs",
    "LayerBits",
    "Limit",
    "Macs",
    "Pins",
    "cost_table",
    "costs",
    "float_costs",
    "layer_macs",
    "tensor_bytes",
    "uniform_bits",
]
