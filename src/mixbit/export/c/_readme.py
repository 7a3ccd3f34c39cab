"""The README.txt of a written folder."""

from __future__ import annotations

from mixbit._version import __version__
from mixbit.export.c._emit import describe
from mixbit.export.c._program import CProgram
from mixbit.export.c.memory import MemoryPlan
from mixbit.export.c.sizes import Footprint, counted

_TEXT = """\
A quantized network as C99, written by mixbit {version}.

Use
    #include "model.h"
    static int32_t output[MODEL_OUTPUT_SIZE];
    /* write MODEL_INPUT_BYTES of quantized input to model_input(), as model.h says */
    model_invoke(model_input(), output);
    best = model_argmax(output);

Compile model.c, weights.c and kernels/*.c with your firmware; -I. -Ikernels. There is no heap, no float in the layers
and no library but memcpy and memset. -DMODEL_FLOAT adds helpers that quantize a float input and scale the outputs.

    make test                                                          the self-test on this machine
    make library CROSS=arm-none-eabi- CPU="-mcpu=cortex-m4 -mthumb"    libmodel.a
    make size    CROSS=arm-none-eabi- CPU="-mcpu=cortex-m4 -mthumb"    its bytes
    make object PREFIX=kws CROSS=... CPU=...                           build/kws.o and kws.h, to link several networks

selftest.c runs recorded inputs and compares every layer's checksum and all outputs with those of mixbit's reference
executor; model_selftest() returns 0, or 1 + the first layer that differs. Call it on the board: compile everything with
-DMODEL_HOOK -DMODEL_SELFTEST_NO_MAIN.

Numbers
    RAM      {ram:>9} bytes: the arena. Beside it: the outputs ({outputs} bytes, yours) and the stack.
    flash    {flash:>9} bytes, of which
             {weights:>9} packed weights (the policy says {policy})
             {factors:>9} biases and factors by channel
             {tables:>9} tables
             {settings:>9} settings of layers
             {code:>9} code ({source}), without startup and C library

Layers
{layers}
"""


def readme(program: CProgram, plan: MemoryPlan) -> str:
    """Text of `README.txt`, for whoever gets the folder."""
    found: Footprint = counted(program, plan)
    return _TEXT.format(
        version=__version__,
        ram=found.ram_bytes,
        outputs=4 * program.graph.tensors[program.last.output].numel,
        flash=found.flash_bytes,
        weights=found.weight_bytes,
        policy=found.policy_bytes,
        factors=found.factor_bytes,
        tables=found.table_bytes,
        settings=found.settings_bytes,
        code=found.code_bytes,
        source=found.code_source,
        layers="\n".join(f"    {describe(step, program)}" for step in program.steps),
    )
