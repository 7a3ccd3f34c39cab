"""The written C on this machine, byte for byte against the reference executor."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from mixbit.errors import ExportError
from mixbit.export.c import _emit
from mixbit.export.c._cmsis_checkout import Library, library_of
from mixbit.export.c._manifest import read_manifest
from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, as_program
from mixbit.export.c._selftest import layer_bytes
from mixbit.export.c.writer import write_c
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

__all__ = [
    "SANITIZERS",
    "WARNINGS",
    "CVerification",
    "compile_host",
    "compile_kernels",
    "compile_library",
    "read_options",
    "verify_c",
]

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_SHARED = ("-shared", "-fPIC")
_CHUNK = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CVerification:
    """What the C was found to be.

    >>> CVerification(samples=20, layers=9, identical_outputs=20, identical_layers=180, first_difference=None,
    ...     compiler="gcc", sanitized=False, seconds=1.0).exact
    True
    """

    samples: int
    layers: int
    """Layers of the network, each compared for every sample; 0 if only outputs were."""
    identical_outputs: int
    """Samples with the same output bytes."""
    identical_layers: int
    """Layers with the same bytes, of `samples * layers`."""
    first_difference: str | None
    """Sample and layer that first differ."""
    compiler: str
    sanitized: bool
    seconds: float
    """Seconds of compiling and running."""

    @property
    def exact(self) -> bool:
        """Whether every compared byte is that of the reference."""
        return self.first_difference is None and self.identical_outputs == self.samples


def verify_c(
    network: IntegerGraph | CProgram,
    samples: Array,
    *,
    folder: Path | None = None,
    options: COptions | None = None,
    compiler: str = "gcc",
    sanitize: bool = False,
    every_layer: bool = True,
    flags: Sequence[str] = (),
    objects: Path | None = None,
) -> CVerification:
    """Write a network as C, compile it here, run it on inputs, and compare with the reference executor.

    Args:
        network: from `mixbit.export.lower` with `rounding="single"`, `"double"` or `"litert"`, or what `build_program`
            made of it.
        samples: inputs `(N, *input shape)` float32.
        folder: what `write_c` made of the network, to check that instead of writing anew; it stays as it is.
        options: how it is written; those of `folder` are in its manifest.
        compiler: a C compiler of this machine.
        sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer, which end the run at a fault.
        every_layer: compare what each layer writes, beside the outputs.
        flags: more flags for the compiler, e.g. `("-Os",)`.
        objects: folder of kernels compiled once for many networks, see `compile_kernels`; else the folder's own,
            as always where tensors have more than 8 bits.

    Raises:
        ExportError: the compiler is missing or fails, or the program ends with an error (a sanitizer's report is in the
            message); `folder` is of another network; or as `write_c`.
    """
    begin = time.perf_counter()
    program = as_program(network, options if folder is None else read_options(folder, network))
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name) / "model"
        if folder is None:
            write_c(program, sources, samples=samples[:1])
        else:
            shutil.copytree(folder, sources)
        shared = None if _emit.is_wide(program) else objects
        binary = compile_host(sources, compiler=compiler, sanitize=sanitize, flags=flags, objects=shared)
        tally = _Tally(program, every_layer=every_layer)
        for at in range(0, len(samples), _CHUNK):
            inputs, wanted = layer_bytes(program, np.asarray(samples[at : at + _CHUNK], np.float32))
            tally.add(*_run(binary, inputs, every_layer=every_layer), wanted)
    return CVerification(
        samples=tally.samples,
        layers=len(program.steps) if every_layer else 0,
        identical_outputs=tally.outputs,
        identical_layers=tally.layers,
        first_difference=tally.first,
        compiler=compiler,
        sanitized=sanitize,
        seconds=time.perf_counter() - begin,
    )


def read_options(folder: Path, network: IntegerGraph | CProgram) -> COptions:
    """How a folder was written.

    Raises:
        ExportError: mixbit did not write it, or of another network.
    """
    manifest = read_manifest(folder)
    graph = network.graph if isinstance(network, CProgram) else network
    if manifest.fingerprint != graph.fingerprint:
        raise ExportError(
            f"{folder} holds the network {manifest.fingerprint}, not {graph.fingerprint}. Export this one again."
        )
    return manifest.c_options()


def compile_host(
    folder: Path,
    *,
    compiler: str = "gcc",
    sanitize: bool = False,
    flags: Sequence[str] = (),
    target: Literal["host", "selftest"] = "host",
    objects: Path | None = None,
) -> Path:
    """Compile a written folder for this machine.

    Args:
        folder: of `write_c`.
        compiler: a C compiler.
        sanitize: as in `verify_c`.
        flags: more flags.
        target: `host` (files in, files out) or `selftest`.
        objects: as in `verify_c`.

    Returns:
        The program, below `folder/build`.

    Raises:
        ExportError: there is no such compiler, or it fails.
    """
    kernels = folder.glob("kernels/*.c") if objects is None else objects.glob("*.o")
    main = {"host": "host_main.c", "selftest": "selftest.c"}[target]
    sources = [main, *sorted(str(one.resolve()) for one in kernels)]
    return _link(folder, target, sources, [*_flags(sanitize, flags), "-DMODEL_HOOK"], compiler)


def compile_library(folder: Path, *, compiler: str = "gcc", flags: Sequence[str] = ()) -> Path:
    """Compile a written folder to a shared library of this machine, with the float helpers of `model.h`.

    Args:
        folder: of `write_c`.
        compiler: a C compiler.
        flags: more flags.

    Returns:
        The library, below `folder/build`.

    Raises:
        ExportError: there is no such compiler, or it fails.
    """
    kernels = sorted(str(one.resolve()) for one in folder.glob("kernels/*.c"))
    return _link(folder, "model.so", kernels, [*_flags(False, flags), *_SHARED, "-DMODEL_FLOAT"], compiler)


def _link(folder: Path, name: str, sources: list[str], arguments: list[str], compiler: str) -> Path:
    """A network and more sources, compiled and linked below `folder/build`."""
    program = folder / "build" / name
    program.parent.mkdir(exist_ok=True)
    if (library := library_of(folder)) is not None:
        arguments = [*arguments, f"-isystem{library.include}"]
        more = _SHARED if "-shared" in arguments else ()
        sources = [*sources, *_library_objects(library, program.parent / "cmsis_nn", compiler, more)]
    _compile(folder, [*arguments, "-o", str(program.resolve()), "model.c", "weights.c", *sources], compiler)
    return program


def _library_objects(library: Library, into: Path, compiler: str, flags: Sequence[str]) -> list[str]:
    """CMSIS-NN is other people's code: without our warnings and sanitizers."""
    into.mkdir(exist_ok=True)
    defines = [*(f"-D{name}" for name in library.defines), *(one for one in flags if one != "-shared")]
    sources = [str(source) for source in library.sources]
    _compile(into, ["-std=c99", "-w", "-O2", f"-isystem{library.include}", *defines, "-c", *sources], compiler)
    return [str((into / f"{source.stem}.o").resolve()) for source in library.sources]


def compile_kernels(folder: Path, *, compiler: str = "gcc", sanitize: bool = False, flags: Sequence[str] = ()) -> Path:
    """Compile all kernels with all variants switched on, to link many networks with them.

    Args:
        folder: made if it is not there.
        compiler: a C compiler.
        sanitize: as in `verify_c`.
        flags: more flags.

    Returns:
        `folder`, for `objects=` of `verify_c`.

    Raises:
        ExportError: there is no such compiler, or it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "mixbit_config.h").write_text(_emit.config_text(_emit.ALL_SWITCHES))
        with resources.as_file(resources.files("mixbit.export.c") / "kernels") as sources:
            found = [str(one) for one in sorted(sources.glob("*.c"))]
            _compile(folder, [*_flags(sanitize, flags), f"-I{name}", f"-I{sources}", "-c", *found], compiler)
    return folder


def _flags(sanitize: bool, flags: Sequence[str]) -> list[str]:
    return [*WARNINGS, "-O2", "-I.", "-Ikernels", *(SANITIZERS if sanitize else ()), *flags]


def _compile(folder: Path, arguments: list[str], compiler: str) -> None:
    if shutil.which(compiler) is None:
        raise ExportError(
            f"the compiler {compiler!r} is not there. Install one (Debian: apt-get install gcc), or name yours."
        )
    found = subprocess.run([compiler, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ExportError(f"{compiler} failed in {folder}: {_tail(found.stderr)}")


def _run(binary: Path, inputs: list[bytes], *, every_layer: bool) -> tuple[bytes, bytes]:
    """Output and layer bytes of some samples."""
    with tempfile.TemporaryDirectory() as name:
        paths = [os.path.join(name, one) for one in ("inputs", "outputs", "layers")]
        Path(paths[0]).write_bytes(b"".join(inputs))
        command = [str(binary.resolve()), *paths[: 3 if every_layer else 2]]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise ExportError(f"the compiled network ended with {found.returncode}: {_tail(found.stderr)}")
        return Path(paths[1]).read_bytes(), Path(paths[2]).read_bytes() if every_layer else b""


def _tail(text: str) -> str:
    return text.strip()[:2000] or "no message"


class _Tally:
    """What is identical so far."""

    def __init__(self, program: CProgram, *, every_layer: bool) -> None:
        self._steps, self._every_layer = program.steps, every_layer
        self._last = next(step.index for step in program.steps if step.op is program.last)
        self.samples = self.outputs = self.layers = 0
        self.first: str | None = None

    def add(self, outputs: bytes, layers: bytes, wanted: list[list[bytes]]) -> None:
        """Some samples."""
        out_at = layer_at = 0
        for one in wanted:
            if self._every_layer:
                for step, raw in zip(self._steps, one, strict=True):
                    self.layers += self._same(
                        layers[layer_at : layer_at + len(raw)], raw, f"layer {step.index} ({step.op.name})"
                    )
                    layer_at += len(raw)
            raw = one[self._last]
            self.outputs += self._same(outputs[out_at : out_at + len(raw)], raw, "the outputs")
            out_at += len(raw)
            self.samples += 1

    def _same(self, found: bytes, wanted: bytes, what: str) -> bool:
        if found == wanted:
            return True
        if self.first is None:
            self.first = f"sample {self.samples}, {what}"
        return False
