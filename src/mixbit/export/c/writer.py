"""A network as a folder of portable C99: no heap, no float in the layers, no library."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mixbit._io import filesystem
from mixbit._version import __version__
from mixbit.errors import ExportError
from mixbit.export.c import _emit
from mixbit.export.c._cmsis_checkout import SINGLE_ROUNDING
from mixbit.export.c._cmsis_nn import HandedOver
from mixbit.export.c._manifest import MANIFEST
from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, as_program
from mixbit.export.c._readme import readme
from mixbit.export.c._selftest import recorded, vectors_h
from mixbit.export.c.memory import MemoryPlan, plan_program
from mixbit.export.c.sizes import CLayer, Footprint, counted, layers
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

__all__ = ["CFolder", "render_c", "write_c"]

"""Of a written folder: version, options, sizes, layers."""
_TEMPLATES = ("Makefile", "host_main.c", "selftest.c", "selftest.h")
_HEADERS = ("mixbit_inline.h", "mixbit_kernels.h")


@dataclass(frozen=True, slots=True, kw_only=True)
class CFolder:
    """A folder that was written."""

    path: Path
    layers: tuple[CLayer, ...]
    footprint: Footprint
    plan: MemoryPlan
    files: tuple[str, ...]
    """Names of the files below `path`."""
    cmsis_nn: HandedOver | None = None
    """Which layers call CMSIS-NN, and why the others do not; None where the options name no checkout."""


def write_c(
    network: IntegerGraph | CProgram,
    folder: str | os.PathLike[str],
    *,
    options: COptions | None = None,
    samples: Array | None = None,
) -> CFolder:
    """Write a network as C, the whole folder or nothing.

    Args:
        network: from `mixbit.export.lower` with `rounding="single"`, `"double"` or `"litert"`, or what `build_program`
            made of it.
        folder: made, or replaced if mixbit wrote it.
        options: how it is written; None for those of a built program.
        samples: real inputs `(N, *input shape)` float32, of which the self-test records the first `options.vectors`;
            without them it records random ones.

    Returns:
        What was written: layers, bytes of flash and RAM, the memory plan.

    Raises:
        ExportError: an operation has no kernel or could leave int32 (the message names it), or `folder` holds other
            things. Nothing is written then.
    """
    files, program, plan = _render(as_program(network, options), samples)
    _write_folder(Path(folder), files)
    return CFolder(
        path=Path(folder),
        layers=layers(program),
        footprint=counted(program, plan),
        plan=plan,
        files=tuple(sorted(files)),
        cmsis_nn=program.cmsis_nn,
    )


def render_c(
    network: IntegerGraph | CProgram, *, options: COptions | None = None, samples: Array | None = None
) -> dict[str, str]:
    """The files that `write_c` writes, path below the folder -> text; the same graph gives the same text.

    Args:
        network: as in `write_c`.
        options: as in `write_c`.
        samples: as in `write_c`.

    Raises:
        ExportError: as in `write_c`.
    """
    return _render(as_program(network, options), samples)[0]


def _render(program: CProgram, samples: Array | None) -> tuple[dict[str, str], CProgram, MemoryPlan]:
    options, plan = program.options, plan_program(program)
    files = {
        "README.txt": readme(program, plan),
        "model.h": _emit.model_h(program, plan),
        "model.c": _emit.model_c(program, plan),
        "weights.h": _emit.weights_h(program),
        "weights.c": _emit.weights_c(program),
        "mixbit_config.h": _emit.config_h(program),
        "selftest_vectors.h": vectors_h(program, recorded(program, samples)),
        MANIFEST: json.dumps(_manifest(program, plan), indent=1) + "\n",
    }
    files |= {name: _packaged("templates", name) for name in _TEMPLATES}
    names = (*_HEADERS, *_emit.kernel_files(program), *(("mixbit_dsp.h",) if options.kernels == "dsp" else ()))
    files |= {f"kernels/{name}": _packaged("kernels", name) for name in names}
    if (called := _emit.cmsis_files(program)) and program.cmsis_nn is not None:
        names = ("mixbit_cmsis_inline.h", "mixbit_cmsis_nn.h", *(f"{name}.c" for name in called))
        files |= {f"kernels/{name}": _packaged("cmsis_nn", name) for name in names}
        files["cmsis_nn.mk"] = _makefile(program.cmsis_nn)
    return files, program, plan


def _packaged(folder: str, name: str) -> str:
    return (resources.files("mixbit.export.c") / folder / name).read_text(encoding="utf-8")


def _manifest(program: CProgram, plan: MemoryPlan) -> dict[str, Any]:
    return {
        "mixbit": __version__,
        "fingerprint": program.graph.fingerprint,
        "options": asdict(program.options),
        "roundings": {op.kind: op.rounding for op in program.graph.ops if hasattr(op, "rounding")},
        "footprint": asdict(counted(program, plan)),
        **({} if program.cmsis_nn is None else {"cmsis_nn": asdict(program.cmsis_nn)}),
        "layers": [asdict(layer) for layer in layers(program)],
        "arena": [asdict(one) for one in plan.buffers],
    }


def _makefile(found: HandedOver) -> str:
    """`cmsis_nn.mk`, which the Makefile reads if it is there."""
    define = f" -D{SINGLE_ROUNDING}" if found.rounding == "single" else ""
    objects = [f"$(BUILD)/cmsis_nn/{name.removesuffix('.c')}.o" for name in found.sources]
    return "\n".join(
        (
            f"# Layers of 8 bits call CMSIS-NN, which is compiled from here. It rounds {_TIMES[found.rounding]}.",
            f"CMSIS_NN ?= {found.path}",
            "EXTRA_FLAGS := -isystem $(CMSIS_NN)/Include",
            " \\\n\t".join(("EXTRA_OBJECTS :=", *objects)),
            "",
            "$(BUILD)/cmsis_nn/%.o: $(CMSIS_NN)/Source/%.c",
            "\t@mkdir -p $(dir $@)",
            f"\t$(CC) -std=c99 -w -ffunction-sections -fdata-sections $(EXTRA_FLAGS){define} $(OPT) $(CPU) -c -o $@ $<",
            "",
        )
    )


_TIMES = {"single": "once", "double": "twice"}


def _write_folder(folder: Path, files: dict[str, str]) -> None:
    """A temporary sibling takes the folder's place."""
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} holds other things than a network of mixbit. Give a new or an empty folder.")
    with filesystem(folder):
        _replace_folder(folder, files)


def _replace_folder(folder: Path, files: dict[str, str]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:32]}."))
    try:
        new = temporary / "new"
        for name, text in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(text.encode())
        if folder.exists():
            folder.rename(temporary / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
