"""What a policy costs: BitOps, bytes, measured time, memory of a device; and the budgets that limit them."""

from mixbit.cost._bits import FLOAT_BITS, LayerBits, Pins, check_layer_names, uniform_bits, width
from mixbit.cost._budget import Budget
from mixbit.cost._costs import (
    Costs,
    Macs,
    cost_table,
    costs,
    float_costs,
    float_rest,
    layer_macs,
    tabulated,
    tensor_bytes,
)
from mixbit.cost._latency import Device, ExportCpu, LatencyCheck, LatencyTable, LatencyUnit, LayerLatency, Part, Timing
from mixbit.cost._limit import BYTES, ON_DEVICE, Limit, read_bytes, show_amount
from mixbit.cost._memory import MemoryTable, RamStep

__all__ = [
    "BYTES",
    "FLOAT_BITS",
    "ON_DEVICE",
    "Budget",
    "Costs",
    "Device",
    "ExportCpu",
    "LatencyCheck",
    "LatencyTable",
    "LatencyUnit",
    "LayerBits",
    "LayerLatency",
    "Limit",
    "Macs",
    "MemoryTable",
    "Part",
    "Pins",
    "RamStep",
    "Timing",
    "check_layer_names",
    "cost_table",
    "costs",
    "float_costs",
    "float_rest",
    "layer_macs",
    "read_bytes",
    "show_amount",
    "tabulated",
    "tensor_bytes",
    "uniform_bits",
    "width",
]
