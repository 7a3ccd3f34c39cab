"""Networks as C on this machine, where a layer may touch its inputs, its result and its scratch, and not a byte more.

Before each layer, all of the arena that the layer does not read is filled with a pattern, and what it has no business
with is closed to it by AddressSanitizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixbit.export.c import COptions, write_c
from mixbit.export.c._program import CProgram, CStep, build_program, root
from mixbit.export.c.host import CVerification, verify_c
from mixbit.export.c.memory import MemoryPlan, scratch_name
from mixbit.integer import IntegerGraph
from mixbit.integer.arithmetic import Array

_MAIN = """\
#include <stdio.h>
#include <string.h>
#include <sanitizer/asan_interface.h>
#include "model.h"

typedef struct {{ uint32_t offset, size; int kept, open; }} piece;
static const piece pieces[MODEL_LAYERS][{most}] = {{
{rows}
}};
static FILE *layers;

static void guard(int layer)
{{
    static int8_t before[MODEL_ARENA_BYTES];
    int8_t *const arena = model_input() - {input};
    int i;
    __asan_unpoison_memory_region(arena, MODEL_ARENA_BYTES);
    if (layer == MODEL_LAYERS) return;
    memcpy(before, arena, MODEL_ARENA_BYTES);
    memset(arena, 0x5B + layer, MODEL_ARENA_BYTES);
    for (i = 0; i < {most}; i++) {{
        const piece one = pieces[layer][i];
        if (one.kept) memcpy(arena + one.offset, before + one.offset, one.size);
    }}
    __asan_poison_memory_region(arena, MODEL_ARENA_BYTES);
    for (i = 0; i < {most}; i++) {{
        const piece one = pieces[layer][i];
        if (one.open) __asan_unpoison_memory_region(arena + one.offset, one.size);
    }}
}}

void model_hook(int layer, const void *output, uint32_t size_bytes)
{{
    if (layer >= 0) fwrite(output, 1, size_bytes, layers);
    guard(layer + 1);
}}

int main(int argc, char **argv)
{{
    static int8_t input[MODEL_INPUT_BYTES];
    static int32_t output[MODEL_OUTPUT_SIZE];
    FILE *inputs = fopen(argv[1], "rb"), *outputs = fopen(argv[2], "wb");
    layers = fopen(argv[3], "wb");
    (void)argc;
    while (fread(input, 1, sizeof input, inputs) == sizeof input) {{
        if (model_invoke(input, output) != 0) return 1;
        fwrite(output, sizeof output, 1, outputs);
    }}
    return fclose(outputs) + fclose(layers) + fclose(inputs);
}}
"""


def verify_guarded(
    graph: IntegerGraph, samples: Array, folder: Path, *, options: COptions, objects: Path, flags: tuple[str, ...]
) -> CVerification:
    """`verify_c` with guards around every layer's memory.

    Args:
        graph: the network.
        samples: float32 `(N, *input shape)`.
        folder: written.
        options: how.
        objects: kernels, compiled with the sanitizers.
        flags: of the compiler for the network.
    """
    program, written = build_program(graph, options), write_c(graph, folder, options=options)
    (folder / "host_main.c").write_text(_main(program, written.plan))
    return verify_c(graph, samples, folder=folder, sanitize=True, objects=objects, flags=flags)


def _main(program: CProgram, plan: MemoryPlan) -> str:
    rows = [list(_pieces(program, plan, step)) for step in program.steps]
    most = max(map(len, rows))
    text = ",\n".join("    {" + ", ".join(row + ["{0, 0, 0, 0}"] * (most - len(row))) + "}" for row in rows)
    return _MAIN.format(most=most, rows=text, input=plan.offset(program.input))


def _pieces(program: CProgram, plan: MemoryPlan, step: CStep) -> Iterator[str]:
    """Offset and bytes, whether what is there must stay, and whether the layer may touch it."""
    result = () if step.op is program.last else (step.op.output,)
    for name in (*step.reads, *result):
        size = program.tensors[root(program.views, name)].size_bytes
        yield f"{{{plan.offset(name)}, {size}, {int(name in step.reads)}, 1}}"
    if step.printed.scratch_bytes:
        yield f"{{{plan.offset(scratch_name(program, step))}, {step.printed.scratch_bytes}, 0, 1}}"
    for one in plan.buffers:
        if one.first < step.index < one.last:
            yield f"{{{one.offset}, {one.size_bytes}, 1, 0}}"
