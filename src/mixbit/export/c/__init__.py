"""A trained network as C99 for microcontrollers: packed weights, a static arena, and the reference's integers."""

from mixbit.export.c._cmsis_checkout import library_of
from mixbit.export.c._cmsis_nn import HandedOver
from mixbit.export.c._emit import output_scales
from mixbit.export.c._manifest import MANIFEST, Manifest, read_manifest
from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, CStep, as_program, build_program
from mixbit.export.c._selftest import layer_bytes
from mixbit.export.c.budgets import memory_table
from mixbit.export.c.fitting import Fitted, Layouts, allocate_to_fit
from mixbit.export.c.host import CVerification, verify_c
from mixbit.export.c.memory import MemoryPlan, plan_memory
from mixbit.export.c.predictor import CPredictor
from mixbit.export.c.sizes import CLayer, Footprint, footprint
from mixbit.export.c.writer import CFolder, render_c, write_c

__all__ = [
    "MANIFEST",
    "CFolder",
    "CLayer",
    "COptions",
    "CPredictor",
    "CProgram",
    "CStep",
    "CVerification",
    "Fitted",
    "Footprint",
    "HandedOver",
    "Layouts",
    "Manifest",
    "MemoryPlan",
    "allocate_to_fit",
    "as_program",
    "build_program",
    "footprint",
    "layer_bytes",
    "library_of",
    "memory_table",
    "output_scales",
    "plan_memory",
    "read_manifest",
    "render_c",
    "verify_c",
    "write_c",
]
