"""Recorded inputs, outputs and checksums of layers, all from the reference executor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mixbit.errors import ExportError
from mixbit.export.c._emit import _header, _safe, numbers
from mixbit.export.c._program import CProgram
from mixbit.integer.arithmetic import Array, dequantize
from mixbit.integer.executor import accumulate, trace


def checksum(raw: bytes) -> int:
    """Checksum of some bytes: FNV-1a, 32 bits.

    >>> checksum(b"a")
    3826002220
    """
    found = 2166136261
    for byte in raw:
        found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
    return found


def layer_bytes(program: CProgram, samples: Array) -> tuple[list[bytes], list[list[bytes]]]:
    """What the device holds: the stored input of every sample, and for every sample what each layer writes.

    Args:
        program: the network.
        samples: float32 `(N, *input shape)`.
    """
    values = trace(program.graph, samples)
    last = accumulate(program.graph, program.last, values[program.last.x]).reshape(len(samples), -1)
    outputs = last[:, program.output_order()].astype("<i4")
    inputs = [program.tensors[program.input].to_bytes(q) for q in values[program.input]]
    layers = [
        [
            outputs[at].tobytes()
            if step.op is program.last
            else program.tensors[step.op.output].to_bytes(values[step.op.output][at])
            for step in program.steps
        ]
        for at in range(len(samples))
    ]
    return inputs, layers


def recorded(program: CProgram, samples: Array | None) -> Array:
    """The inputs to record: the first of the given ones, or random ones over the whole range of the input."""
    count = program.options.vectors
    shape = program.graph.tensors[program.graph.input].shape
    if samples is None:
        grid = program.graph.grid(program.input)
        random = np.random.default_rng(0)
        return dequantize(random.integers(grid.qmin, grid.qmax + 1, (count, *shape)), grid)
    if samples.shape[1:] != shape or not len(samples):
        raise ExportError(f"samples of shape {samples.shape}, legal is (N, {', '.join(map(str, shape))}), N > 0.")
    return np.asarray(samples[:count], np.float32)


def vectors_h(program: CProgram, samples: Array) -> str:
    """Text of `selftest_vectors.h`: inputs, and checksums of what each layer writes."""
    inputs, layers = layer_bytes(program, samples)
    count = len(inputs)
    lines = ["#include <stdint.h>", "", '#include "model.h"', "", f"#define SELFTEST_VECTORS {count}", ""]
    lines += [f"static const int8_t selftest_inputs[{count}][MODEL_INPUT_BYTES] = {{"]
    lines += _rows(np.frombuffer(raw, np.int8) for raw in inputs)
    lines += ["};", "", f"static const int32_t selftest_outputs[{count}][MODEL_OUTPUT_SIZE] = {{"]
    lines += _rows(np.frombuffer(one[-1], "<i4") for one in _by_step(program, layers))
    lines += ["};", "", "/* FNV-1a of what each layer writes, little-endian. */"]
    lines += [f"static const uint32_t selftest_checksums[{count}][MODEL_LAYERS] = {{"]
    lines += _rows(np.array([checksum(raw) for raw in one]) for one in layers)
    lines += ["};", "", "static const char *const selftest_layers[MODEL_LAYERS] = {"]
    lines += [f'    "{_literal(step.op.name)}",' for step in program.steps]
    lines += ["};"]
    return _header("SELFTEST_VECTORS_H", "Recorded by the reference executor.", lines)


def _by_step(program: CProgram, layers: list[list[bytes]]) -> Iterator[list[bytes]]:
    """The output's bytes last, wherever the layer that makes it is."""
    at = next(step.index for step in program.steps if step.op is program.last)
    return ([one[at]] for one in layers)


def _rows(rows: Iterator[Array]) -> Iterator[str]:
    for row in rows:
        yield "    {"
        yield from ("    " + line for line in numbers(row))
        yield "    },"


def _literal(text: str) -> str:
    return _safe(text).replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?")
