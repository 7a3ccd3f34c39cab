"""Bytes of flash and RAM before anything is compiled."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mixbit.export.c import _emit
from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, CStep, as_program
from mixbit.export.c.memory import MemoryPlan, plan_program
from mixbit.integer import graph as g
from mixbit.integer.graph import IntegerGraph

__all__ = ["CLayer", "Footprint", "counted", "footprint", "layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CLayer:
    """What was written of one layer."""

    index: int
    name: str
    kernel: str
    """C functions that it calls."""
    macs: int
    weights: int
    """Number of its weights."""
    weight_bits: int
    weight_bytes: int
    """0 where an earlier layer has the same weights: the array is there once."""
    padding_bytes: int
    """Part of `weight_bytes` that rounding rows up to whole bytes or words adds."""
    factor_bytes: int
    """Biases, multipliers and exponents."""
    table_bytes: int
    settings_bytes: int
    """Its structures, on a core of 32 bits."""
    scratch_bytes: int
    output: str
    """The tensor that it writes."""
    output_shape: tuple[int, ...]
    """Channels first; in memory the channels are last."""
    output_bits: int
    """As stored; 32 for the outputs of the network."""
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of a network on a device."""

    policy_bytes: int
    """What the policy gives to the weights: `sum(weights * bits) / 8`, rounded up; 8 bits where it gives none."""
    weight_bytes: int
    factor_bytes: int
    table_bytes: int
    settings_bytes: int
    code_bytes: int
    """Measured or estimated, see `footprint`."""
    code_source: str
    """Where `code_bytes` come from."""
    arena_bytes: int
    """RAM: activations and scratch."""
    activation_bytes: int
    """Largest sum of activations at one layer, without scratch and rounding."""

    @property
    def data_bytes(self) -> int:
        """Bytes of constants in flash."""
        return self.weight_bytes + self.factor_bytes + self.table_bytes + self.settings_bytes

    @property
    def flash_bytes(self) -> int:
        """Constants and code, without startup code and the C library."""
        return self.data_bytes + self.code_bytes

    @property
    def ram_bytes(self) -> int:
        """Static RAM: the arena. The stack, and the input and outputs of the caller, are not in it."""
        return self.arena_bytes


def footprint(network: IntegerGraph | CProgram, *, options: COptions | None = None) -> Footprint:
    """Flash and RAM of a network as C, without a compiler.

    Constants and RAM are exact for a core of 32 bits. Code is the sum of a table that was measured once: GCC 12.2
    for Cortex-M4 with `-O2`, kernels and variants that the network needs, and one call a layer.

    Args:
        network: from `mixbit.export.lower`, or what `build_program` made of it.
        options: how it is written; None for those of a built program.

    Raises:
        ExportError: an operation has no kernel, or could leave int32.
    """
    program = as_program(network, options)
    return counted(program, plan_program(program))


def counted(program: CProgram, plan: MemoryPlan) -> Footprint:
    """The footprint of a program whose arena is planned already."""
    found = layers(program)
    output = 4 * len(program.last.weight)  # scales of model_argmax, one a channel
    return Footprint(
        policy_bytes=-(-program.graph.weight_bits // 8),
        weight_bytes=sum(one.weight_bytes for one in found),
        factor_bytes=sum(one.factor_bytes for one in found),
        table_bytes=sum(one.table_bytes for one in found),
        settings_bytes=sum(one.settings_bytes for one in found),
        code_bytes=output + code_bytes(program),
        code_source="table: GCC 12.2, Cortex-M4, -O2" + (", without CMSIS-NN" if _emit.cmsis_files(program) else ""),
        arena_bytes=plan.arena_bytes,
        activation_bytes=activation_bytes(program, plan),
    )


def activation_bytes(program: CProgram, plan: MemoryPlan) -> int:
    """Largest sum of activations at one step; views and results in place count once."""
    most = 0
    for step in range(len(plan.steps)):
        live = [one for one in plan.buffers if one.first <= step <= one.last and one.names[0] in program.tensors]
        most = max(most, sum(max(program.tensors[name].size_bytes for name in one.names) for one in live))
    return most


def layers(program: CProgram) -> tuple[CLayer, ...]:
    """Every layer of a program."""
    wide = _emit.is_wide(program)
    return tuple(_layer(program, step, wide) for step in program.steps)


def _layer(program: CProgram, step: CStep, wide: bool) -> CLayer:
    op, roles = step.op, {blob.role: blob.size_bytes for blob in step.printed.blobs}
    weights, bits = (op.weight.size, op.weight_bits) if isinstance(op, g.Weighted) else (0, 0)
    stored = None if op is program.last else program.tensors[op.output]
    tensor = program.graph.tensors[op.output]
    return CLayer(
        index=step.index,
        name=op.name,
        kernel="+".join(dict.fromkeys(call.function for call in step.printed.calls)),
        macs=step.printed.macs,
        weights=weights,
        weight_bits=bits,
        weight_bytes=roles.get("weights", 0),
        padding_bytes=roles["weights"] - -(-weights * bits // 8) if "weights" in roles else 0,
        factor_bytes=sum(roles.get(role, 0) for role in ("bias", "multiplier", "exponent")),
        table_bytes=roles.get("table", 0),
        settings_bytes=sum(struct_bytes(call.struct, wide=wide) for call in step.printed.calls if call.struct),
        scratch_bytes=step.printed.scratch_bytes,
        output=op.output,
        output_shape=tensor.shape,
        output_bits=32 if stored is None else stored.bits,
        output_bytes=4 * tensor.numel if stored is None else stored.size_bytes,
    )


# ------------------------------------------------------------------------------------------------ structures and code

_HEADERS = ("kernels/mixbit_kernels.h", "cmsis_nn/mixbit_cmsis_nn.h")
_BYTES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4}


@cache
def _structs(wide: bool) -> dict[str, tuple[int, int]]:
    """Name -> size and alignment on a core of 32 bits, read from the header that the compiler reads.

    `wide`: in a network with tensors of 16 bits, whose bounds are wider.
    """
    package = resources.files("mixbit.export.c")
    text = "".join((package / name).read_text(encoding="utf-8") for name in _HEADERS)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = {name: (width, width) for name, width in (_BYTES | {"mixbit_level": 1 + wide}).items()}
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL):
        size, widest = 0, 1
        for kind, fields in re.findall(r"(?:const )?(\w+) ([^;]+);", body):
            for field in fields.split(","):
                each, align = (4, 4) if "*" in field else found[kind]
                count = int(array.group(1)) if (array := re.search(r"\[(\d+)\]", field)) else 1
                size = _up(size, align) + each * count
                widest = max(widest, align)
        found[name] = (_up(size, widest), widest)
    return found


def struct_bytes(name: str, *, wide: bool = False) -> int:
    """Size of a structure of the kernels on a core of 32 bits; `wide` in a network with tensors of 16 bits."""
    return _structs(wide)[name][0]


def _up(size: int, align: int) -> int:
    return -(-size // align) * align


@cache
def _code_table() -> dict[str, Any]:
    text = (resources.files("mixbit.export.c") / "code_bytes.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def width_code(program: CProgram) -> dict[int, int]:
    """Estimated `.text` of reading weights, by their bits: it is there once if any layer has these."""
    return {int(bits): size for bits, size in _kernel_table(program)["weights"].items()}


def unpacking_code() -> int:
    """Estimated `.text` of unpacking weights of 1 bit, once if any layer with 1 bit is depthwise or reads 16 bits."""
    return int(_code_table()["unpack_1"])


def _kernel_table(program: CProgram) -> dict[str, Any]:
    table = _code_table()
    return table | table["dsp"] if program.options.kernels == "dsp" else table


def code_bytes(program: CProgram) -> int:
    """Estimated `.text` of kernels and network."""
    table = _kernel_table(program)
    switches = dict(re.findall(r"#define (\w+) (\d)", _emit.config_h(program)))
    double, packed = switches["MIXBIT_ROUNDING_DOUBLE"], switches["MIXBIT_PACKED_ACTIVATIONS"]
    variant = f"double={double} packed={packed}"
    kernels = _code_table()["kernels"][variant] | table["kernels"][variant]
    if _emit.is_wide(program):
        kernels |= _code_table()["wide"][f"packed={packed}"] | table["wide"][f"packed={packed}"]
    code = sum(kernels[name.removesuffix(".c")] for name in _emit.kernel_files(program))
    code += sum(size for bits, size in width_code(program).items() if switches[f"MIXBIT_WEIGHTS_{bits}"] == "1")
    code += unpacking_code() if switches["MIXBIT_UNPACK_1"] == "1" else 0
    if switches["MIXBIT_ROUNDING_AWAY"] == "1":
        code += sum(_code_table()["away"].get(name.removesuffix(".c"), 0) for name in _emit.kernel_files(program))
    code += sum(table["cmsis_nn"][name] for name in _emit.cmsis_files(program))
    calls = sum(len(step.printed.calls) for step in program.steps)
    return int(code + table["model"] + calls * table["call"])
