"""A program as C text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mixbit._bits import WEIGHT_BITS
from mixbit._version import __version__
from mixbit.export.c._calls import Blob, Call, OwnScratch
from mixbit.export.c._program import CProgram, CStep, array_name
from mixbit.export.c.memory import MemoryPlan, scratch_name
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array

_WIDTH = 112
_LONGEST_NAME = 200
"""Characters of a module's name in comments and texts; a string may have 4,095 in C99."""
_TITLE = f"Written by mixbit {__version__}. Do not edit: export the network again."

ROLES = {
    "weights": "packed weights",
    "bias": "biases with the input's zero point folded in",
    "multiplier": "factors of the result by channel",
    "exponent": "and their powers of two",
    "table": "one entry an integer of the input",
}


ALL_SWITCHES = (
    "MIXBIT_PACKED_ACTIVATIONS",
    "MIXBIT_ROUNDING_AWAY",
    "MIXBIT_ROUNDING_DOUBLE",
    "MIXBIT_UNPACK_1",
    *(f"MIXBIT_WEIGHTS_{bits}" for bits in WEIGHT_BITS),
)
"""Variants that are there beside each other: kernels with all of them serve many networks."""
WIDE = "MIXBIT_WIDE_ACTIVATIONS"
"""Elements of 16 bits: structures have wider bounds, so such a network has kernels of its own."""


def kernel_files(program: CProgram) -> tuple[str, ...]:
    """Kernel sources that the program calls."""
    called = _called(program) - set(cmsis_files(program))
    names = {_FILE_OF.get(name, name) for name in called}
    names |= {"mixbit_rows"}
    if program.options.kernels == "dsp" and (columns := names & _WITH_DSP):
        names |= {f"{name}_dsp" for name in (*columns, "mixbit_rows")}
    return tuple(sorted(f"{name}.c" for name in names))


def cmsis_files(program: CProgram) -> tuple[str, ...]:
    """Names, without ending, of the sources that call CMSIS-NN for the program."""
    return tuple(sorted(name for name in _called(program) if name.startswith("mixbit_cmsis_")))


def _called(program: CProgram) -> set[str]:
    return {call.function for step in program.steps for call in step.printed.calls}


_FILE_OF = {"mixbit_fill": "mixbit_move", "mixbit_reshape": "mixbit_move", "mixbit_trim": "mixbit_rows"} | {
    f"mixbit_{name}_wide": "mixbit_wide" for name in ("conv", "linear", "lookup")
}
"""Functions that share a file."""
_WITH_DSP = {"mixbit_conv", "mixbit_depthwise", "mixbit_linear"}
"""Files of which there is a second one for cores with the DSP extension, and with them one of `mixbit_rows`."""
_DSP = ("#ifdef __ARM_FEATURE_DSP", "#define MIXBIT_DSP 1", "#else", "#define MIXBIT_DSP 0", "#endif")


def config_h(program: CProgram) -> str:
    """Which variants the kernels are compiled with."""
    weighted = [(_has_rows(step), step.op.weight_bits) for step in program.steps if isinstance(step.op, g.Weighted)]
    bits = {width for columns, width in weighted if columns}
    roundings = {getattr(step.op, "rounding", "single") for step in program.steps}
    packed = any(one.bits < 8 for one in program.tensors.values())
    chosen = {f"MIXBIT_WEIGHTS_{width}" for width in bits}
    chosen |= {"MIXBIT_PACKED_ACTIVATIONS"} if packed else set()
    # Weights that are unpacked one by one need no code of their width, but for the meaning of one bit.
    chosen |= {"MIXBIT_UNPACK_1"} if (False, 1) in weighted else set()
    chosen |= {WIDE} if is_wide(program) else set()
    chosen |= {f"MIXBIT_ROUNDING_{rounding.upper()}" for rounding in roundings - {"single"}}
    return config_text(chosen, dsp=program.options.kernels == "dsp")


def is_wide(program: CProgram) -> bool:
    """Whether any tensor has elements of 16 bits."""
    return any(one.bits == 16 for one in program.tensors.values())


def config_text(chosen: Iterable[str], *, dsp: bool = False) -> str:
    """`mixbit_config.h` with some of `ALL_SWITCHES` and `WIDE` on; with `dsp` the core decides on those kernels."""
    lines = [f"#define {name} {int(name in set(chosen))}" for name in (*ALL_SWITCHES, WIDE)]
    lines += _DSP if dsp else ["#define MIXBIT_DSP 0"]
    return _header("MIXBIT_CONFIG_H", "What this network needs of the kernels; the rest is not compiled.", lines)


def _has_rows(step: CStep) -> bool:
    return any(call.function in ("mixbit_conv", "mixbit_linear") for call in step.printed.calls)


def weights_h(program: CProgram) -> str:
    """Declarations of the arrays."""
    lines = ["#include <stdint.h>", ""]
    for step in program.steps:
        lines += [f"extern const {blob.ctype} {_array(step, blob.role)}[{blob.values.size}];" for blob in _blobs(step)]
    return _header("MODEL_WEIGHTS_H", "Constant arrays of the network, by layer.", lines)


def weights_c(program: CProgram) -> str:
    """Text of `weights.c`: the constant arrays."""
    lines = [
        f"/* {_TITLE} */",
        '#include "weights.h"',
        "",
        "/* Kernels may read words of packed weights. */",
        "#ifdef __GNUC__",
        "#define MODEL_ALIGNED __attribute__((aligned(4)))",
        "#else",
        "#define MODEL_ALIGNED",
        "#endif",
    ]
    for step in program.steps:
        for blob in _blobs(step):
            lines += ["", f"/* {step.index}: {_safe(step.op.name)}, {_what(step, blob)} */"]
            aligned = "MODEL_ALIGNED " if blob.role == "weights" else ""
            lines += [f"{aligned}const {blob.ctype} {_array(step, blob.role)}[{blob.values.size}] = {{"]
            lines += [*numbers(blob.values), "};"]
    return "\n".join(lines) + "\n"


def _what(step: CStep, blob: Blob) -> str:
    op = step.op
    if blob.role != "weights" or not isinstance(op, g.Weighted):
        return ROLES[blob.role]
    return f"{op.weight.size} weights of {op.weight_bits} bits, {_by(op.weight.shape)}, {blob.size_bytes} bytes"


def model_h(program: CProgram, plan: MemoryPlan) -> str:
    """Text of `model.h`: the interface of the network."""
    x, output = program.tensors[program.input], program.graph.tensors[program.last.output]
    weights = sum(blob.size_bytes for step in program.steps for blob in _blobs(step) if blob.role == "weights")
    lines = [
        "#include <stdint.h>",
        "",
        f"/* Network {_safe(program.graph.fingerprint)}",
        " *",
        f" * Input {_by(x.shape)} (channels first, as in training), in memory {_memory(x.shape)}: the channels of one",
        " * place side by side. A real number r is stored as",
        " *     clamp(round(r / MODEL_INPUT_SCALE) + MODEL_INPUT_ZERO, MODEL_INPUT_LOW, MODEL_INPUT_HIGH),",
        f" * round to the nearest and ties to even, in {_container(x.bits)}.",
        " *",
        f" * Output {_by(output.shape)}, in memory {_memory(output.shape)}: int32_t accumulators of the last layer.",
        " * Output i is the real number output[i] * (scale of its channel): model_output_scale() has the scales, and",
        " * the channel is i / MODEL_OUTPUT_INNER % MODEL_OUTPUT_CHANNELS. A softmax is left to the caller.",
        " *",
        " * One thread at a time: the activations lie in one static arena. */",
    ]
    macros: dict[str, Any] = {
        "MODEL_INPUT_SIZE": x.numel,
        "MODEL_INPUT_BYTES": x.size_bytes,
        "MODEL_INPUT_BITS": x.bits,
        "MODEL_INPUT_SCALE": f"{_float(x.grid.scale)} /* {x.grid.scale:.6g} */",
        "MODEL_INPUT_ZERO": x.zero,
        "MODEL_INPUT_LOW": x.low,
        "MODEL_INPUT_HIGH": x.high,
        "MODEL_OUTPUT_SIZE": output.numel,
        "MODEL_OUTPUT_CHANNELS": len(program.last.weight),
        "MODEL_OUTPUT_INNER": program.output_inner,
        "MODEL_LAYERS": len(program.steps),
        "MODEL_ARENA_BYTES": plan.arena_bytes,
        "MODEL_WEIGHT_BYTES": weights,
    }
    lines += ["", *(f"#define {name} {_signed(value)}" for name, value in macros.items()), "", _PROTOTYPES]
    return _header("MODEL_H", _TITLE, lines)


_PROTOTYPES = """\
#ifdef __cplusplus
extern "C" {
#endif

/* Where the input may be written to save a copy. It is overwritten by every inference. */
int8_t *model_input(void);

/* One inference; 0 if all is well, -1 for a null pointer. `input` may be model_input(). */
int model_invoke(const int8_t *input, int32_t *output);

/* Index of the largest output in real numbers; integers only. */
uint32_t model_argmax(const int32_t *output);

#ifdef MODEL_HOOK
/* Yours, if the network is compiled with -DMODEL_HOOK: called after every layer, and with -1 for the input. */
void model_hook(int layer, const void *output, uint32_t size_bytes);
#endif

#ifdef MODEL_FLOAT
/* Float helpers, compiled with -DMODEL_FLOAT. `x` has MODEL_INPUT_SIZE numbers in the order of the memory. */
void model_quantize_input(const float *x, int8_t *input);
void model_dequantize_output(const int32_t *output, float *y);
float model_output_scale(uint32_t channel);
#endif

#ifdef __cplusplus
}
#endif"""


def model_c(program: CProgram, plan: MemoryPlan) -> str:
    """Text of `model.c`: the calls, layer by layer."""
    lines = [
        f"/* {_TITLE} */",
        '#include "model.h"',
        "",
        "#include <string.h>",
        "",
        *(['#include "mixbit_cmsis_nn.h"'] if cmsis_files(program) else []),
        '#include "mixbit_kernels.h"',
        '#include "weights.h"',
        "",
        "/* Activations and scratch, placed so that nothing that is still needed is overwritten. */",
        "static union {",
        "    uint32_t align;",
        "    int8_t bytes[MODEL_ARENA_BYTES];",
        "} arena;",
        "",
        "#define AT(offset) (arena.bytes + (offset))",
        "",
        "#ifdef MODEL_HOOK",
        "#define AFTER(layer, output, size_bytes) model_hook(layer, output, size_bytes)",
        "#else",
        "#define AFTER(layer, output, size_bytes) ((void)0)",
        "#endif",
    ]
    for step in program.steps:
        lines += _settings(step, program)
    lines += ["", "int8_t *model_input(void)", "{", f"    return AT({plan.offset(program.input)});", "}"]
    lines += ["", *_invoke(program, plan), "", *_argmax(program), "", *_floats(program)]
    return "\n".join(lines) + "\n"


def _settings(step: CStep, program: CProgram) -> Iterator[str]:
    """The structures of a layer, under a comment that says what it is."""
    if any(call.struct for call in step.printed.calls):
        yield ""
        yield f"/* {describe(step, program)} */"
    for at, call in enumerate(step.printed.calls):
        if call.struct:
            yield f"static const {call.struct} {_name(step, at)} = {{"
            yield from _fields(step, call.fields, "    ")
            yield "};"


def _fields(step: CStep, fields: dict[str, Any], indent: str) -> Iterator[str]:
    line = indent
    for name, value in fields.items():
        text = f".{name} = {_value(step, value)},"
        if isinstance(value, dict):
            if line.strip():
                yield line.rstrip()
            yield f"{indent}.{name} = {{"
            yield from _fields(step, value, indent + "    ")
            yield f"{indent}}},"
            line = indent
        elif len(line) + len(text) > _WIDTH:
            yield line.rstrip()
            line = f"{indent}{text} "
        else:
            line += text + " "
    if line.strip():
        yield line.rstrip()


def _value(step: CStep, value: Any) -> str:
    if isinstance(value, list):
        return "{" + ", ".join(map(str, value)) + "}"
    text = str(value)
    return _array(step, text[1:]) if text.startswith("@") else text


def _invoke(program: CProgram, plan: MemoryPlan) -> Iterator[str]:
    yield from (
        "int model_invoke(const int8_t *input, int32_t *output)",
        "{",
        "    if (input == 0 || output == 0) {",
        "        return -1;",
        "    }",
        "    if (input != model_input()) {",
        "        memcpy(model_input(), input, MODEL_INPUT_BYTES);",
        "    }",
        "    AFTER(-1, model_input(), MODEL_INPUT_BYTES);",
    )
    for step in program.steps:
        yield ""
        yield f"    /* {describe(step, program)} */"
        for at, call in enumerate(step.printed.calls):
            yield f"    {call.function}({', '.join(_arguments(step, at, call, program, plan))});"
        if step.op is program.last:
            yield f"    AFTER({step.index}, output, 4u * MODEL_OUTPUT_SIZE);"
        else:
            name = step.op.output
            yield f"    AFTER({step.index}, {_at(name, program, plan)}, {program.tensors[name].size_bytes}u);"
    yield from ("    return 0;", "}")


def _arguments(step: CStep, at: int, call: Call, program: CProgram, plan: MemoryPlan) -> Iterator[str]:
    if call.struct:
        yield f"&{_name(step, at)}"
    for one in call.arguments:
        if isinstance(one, str):
            yield one
        elif isinstance(one, OwnScratch):
            yield f"AT({plan.offset(scratch_name(program, step))})" if step.printed.scratch_bytes else "0"
        elif one.name == program.last.output:
            yield "output"
        else:
            yield _at(one.name, program, plan)


def _at(name: str, program: CProgram, plan: MemoryPlan) -> str:
    return f"AT({plan.offset(name)})"


def _argmax(program: CProgram) -> Iterator[str]:
    """Outputs of different channels have different units: a common fixed point makes them comparable."""
    scales = output_scales(program).astype(np.float64)
    common = np.rint(scales / max(np.abs(scales).max(), 1e-300) * 2.0**30).astype(np.int64)
    yield from (
        "uint32_t model_argmax(const int32_t *output)",
        "{",
        "    /* Scales of the output channels over the largest, times 2^30. */",
        f"    static const int32_t scale[{len(common)}] = {{",
        *("    " + line for line in numbers(common)),
        "    };",
        "    int64_t best = INT64_MIN;",
        "    uint32_t found = 0, i;",
        "    for (i = 0; i < MODEL_OUTPUT_SIZE; i++) {",
        "        const int64_t value = (int64_t)output[i] * scale[i / MODEL_OUTPUT_INNER % MODEL_OUTPUT_CHANNELS];",
        "        if (value > best) {",
        "            best = value;",
        "            found = i;",
        "        }",
        "    }",
        "    return found;",
        "}",
    )


def _floats(program: CProgram) -> Iterator[str]:
    """Helpers in float32, in the operations of the reference."""
    scales, bits = output_scales(program), program.tensors[program.input].bits
    far = "262144.0f" if bits == 16 else "4096.0f"
    yield from (
        "#ifdef MODEL_FLOAT",
        "/* Adding and taking 1.5 * 2^23 rounds to the nearest, ties to even. NaN becomes the lowest. */",
        "static int32_t nearest(float x)",
        "{",
        "    volatile float shifted;",
        f"    x = x > -{far} ? x : -{far};",
        f"    x = x < {far} ? x : {far};",
        "    shifted = x + 12582912.0f;",
        "    return (int32_t)(shifted - 12582912.0f);",
        "}",
        "",
        "void model_quantize_input(const float *x, int8_t *input)",
        "{",
        "    uint32_t i;",
        *(("    memset(input, 0, MODEL_INPUT_BYTES);",) if bits < 8 else ()),
        "    for (i = 0; i < MODEL_INPUT_SIZE; i++) {",
        "        int32_t q = nearest(x[i] / MODEL_INPUT_SCALE) + MODEL_INPUT_ZERO;",
        "        q = q < MODEL_INPUT_LOW ? MODEL_INPUT_LOW : q > MODEL_INPUT_HIGH ? MODEL_INPUT_HIGH : q;",
        *(_PUT_PACKED if bits < 8 else _PUT_WIDE if bits == 16 else ("        input[i] = (int8_t)q;",)),
        "    }",
        "}",
        "",
        "float model_output_scale(uint32_t channel)",
        "{",
        f"    static const float scale[{len(scales)}] = {{",
        *("    " + line for line in _lines(map(_float, scales.tolist()))),
        "    };",
        "    return scale[channel];",
        "}",
        "",
        "void model_dequantize_output(const int32_t *output, float *y)",
        "{",
        "    uint32_t i;",
        "    for (i = 0; i < MODEL_OUTPUT_SIZE; i++) {",
        "        y[i] = (float)output[i] * model_output_scale(i / MODEL_OUTPUT_INNER % MODEL_OUTPUT_CHANNELS);",
        "    }",
        "}",
        "#endif",
    )


_PUT_PACKED = (
    "        q = (q & ((1 << MODEL_INPUT_BITS) - 1)) << (i * MODEL_INPUT_BITS & 7u);",
    "        input[i * MODEL_INPUT_BITS / 8u] = (int8_t)(uint8_t)((uint8_t)input[i * MODEL_INPUT_BITS / 8u] | q);",
)


_PUT_WIDE = (
    "        input[2u * i] = (int8_t)(uint8_t)(q & 255);",
    "        input[2u * i + 1u] = (int8_t)(uint8_t)(q >> 8 & 255);",
)


def output_scales(program: CProgram) -> Array:
    """Real number that one unit of an output is, by channel, float32: as the reference executor computes it."""
    op = program.last
    weight_scale = op.weight_scale.astype(np.float32) / np.float32(2**op.shift)
    found: Array = (np.float32(program.graph.grid(op.x).scale) * weight_scale).astype(np.float32)
    return found


# ------------------------------------------------------------------------------------------------ text


def describe(step: CStep, program: CProgram) -> str:
    """One line: index, module, what it does, shapes and bits.

    >>> import numpy as np
    >>> _safe("a */ b")
    'a * / b'
    """
    op, tensors = step.op, program.graph.tensors
    parts = [f"{step.index}: {_safe(op.name)}", _kind(op)]
    shapes = f"{_by(tensors[op.x].shape)} -> {_by(tensors[op.output].shape)}"
    grid = tensors[op.output].grid
    parts += [shapes, "int32 out" if grid is None else f"{grid.bits}-bit out"]
    if op.x in program.folded:
        parts.append(f"requantized on reading ({_safe(program.folded[op.x].name)})")
    if step.printed.calls and step.printed.calls[0].function.startswith("mixbit_cmsis_"):
        parts.append("by CMSIS-NN")
    return ", ".join(parts)


def _kind(op: g.Op) -> str:
    if isinstance(op, g.Conv):
        depthwise = op.is_depthwise
        name = f"{'depthwise ' if depthwise else ''}convolution {_by(op.weight.shape[2:])}"
        return f"{name}, {op.weight_bits}-bit weights"
    if isinstance(op, g.Linear):
        return f"linear, {op.weight_bits}-bit weights"
    return f"{op.kind} {_safe(op.function)}" if isinstance(op, g.Lookup) else op.kind


def numbers(values: Array) -> Iterator[str]:
    """Lines of an initializer."""
    return _lines(map(str, np.asarray(values).ravel().tolist()))


def _lines(texts: Iterable[str]) -> Iterator[str]:
    line = "   "
    for text in texts:
        if len(line) + len(text) + 2 > _WIDTH:
            yield line
            line = "   "
        line += f" {text},"
    if line.strip():
        yield line


def _blobs(step: CStep) -> tuple[Blob, ...]:
    return step.printed.blobs


def _array(step: CStep, role: str) -> str:
    return step.printed.elsewhere.get(role) or array_name(step.index, role)


def _name(step: CStep, at: int) -> str:
    several = sum(bool(call.struct) for call in step.printed.calls) > 1
    return f"layer_{step.index}" + (f"_{at}" if several else "")


def _header(guard: str, comment: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return f"/* {comment} */\n#ifndef {guard}\n#define {guard}\n\n{body}\n\n#endif\n"


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _memory(shape: tuple[int, ...]) -> str:
    return _by((*shape[1:], shape[0]))


def _container(bits: int) -> str:
    if bits == 16:
        return "two bytes, the low one first"
    return "an int8_t" if bits == 8 else f"{bits} bits, two's complement, the first in the lowest bits of a byte"


def _float(value: float) -> str:
    """A float32 constant, exact."""
    return f"{float(value).hex()}f"


def _signed(value: Any) -> str:
    return f"({value})" if isinstance(value, int) and value < 0 else str(value)


def _safe(text: str) -> str:
    """Names of modules are the user's: nothing in them may end a comment, break a line, leave ASCII, or have no end."""
    line = "".join(one if " " <= one <= "~" else "?" for one in text.replace("\n", " "))
    line = line.replace("*/", "* /").replace("/*", "/ *")
    return line if len(line) <= _LONGEST_NAME else f"{line[:_LONGEST_NAME]}..."
