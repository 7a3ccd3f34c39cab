"""What a test may need that is not on every machine: one name and one reason for each, told at the end of a run.

`@needs("gcc")` stands at a test, `need("gcc")` in a fixture or a test. At the head of a file whose imports need a
package stands `pytest.importorskip("onnx", reason=why("onnx"))`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARM = ("arm-none-eabi-gcc", "arm-none-eabi-size")


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


def _packages(*names: str) -> Callable[[], bool]:
    return lambda: all(importlib.util.find_spec(name) for name in names)


def _kernels() -> bool:
    from mixbit.quantizers._native import library

    return library() is not None


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _processor(*instructions: str) -> Callable[[], bool]:
    """Whether Linux names all of these among what the processor has."""

    def there() -> bool:
        told = Path("/proc/cpuinfo")
        return told.exists() and set(instructions) <= set(told.read_text().split())

    return there


def _jpeg() -> bool:
    from PIL import features

    return features.version("libjpeg_turbo") is not None


def shared_folder() -> Path:
    """The shared reference material: what holds the folder of `MIXBIT_DATA`, or stands beside the repository."""
    data = os.environ.get("MIXBIT_DATA")
    return Path(data).parent if data else Path(__file__).resolve().parents[2] / "shared"


DATA = "the shared reference material: MIXBIT_DATA names its data folder"
NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "ai_edge_litert": ("ai-edge-litert: make setup-oracles", _packages("ai_edge_litert")),
    "arm": ("the compiler for Cortex-M: make setup-mcu", _programs(*ARM)),
    "art": ("adversarial-robustness-toolbox: make setup-oracles", _packages("art", "packaging")),
    "board": ("compiler and emulator for Cortex-M: make setup-mcu", _programs(*ARM, "qemu-system-arm")),
    "cmsis-nn": ("a checkout of CMSIS-NN: MIXBIT_CMSIS_NN names its folder", lambda: "MIXBIT_CMSIS_NN" in os.environ),
    "cosmic-ray": ("cosmic-ray: extra mutants", _packages("cosmic_ray")),
    "cuda": ("a CUDA device", _cuda),
    "datasets": ("datasets: extra data", _packages("datasets")),
    "foolbox": ("foolbox: make setup-oracles", _packages("foolbox")),
    "g++": ("g++: apt-get install g++", _programs("g++")),
    "gcc": ("gcc and make: apt-get install gcc make", _programs("gcc", "make", "ar", "objcopy")),
    "gudhi": ("gudhi: make setup-oracles", _packages("gudhi")),
    "kernels": ("the compiled kernels: a C compiler when mixbit is installed", _kernels),
    "ldd": ("cc and ldd, to build the kernels and see what they link", _programs("cc", "ldd")),
    "libjpeg-turbo": ("a pillow that was built with libjpeg-turbo", _jpeg),
    "linux": ("Linux: page faults are counted, and mallopt is glibc's", lambda: sys.platform.startswith("linux")),
    "onnx": ("onnx and onnxruntime: extra export", _packages("onnx", "onnxruntime", "onnxscript")),
    "openvino": ("openvino: make setup-oracles", _packages("openvino")),
    "peers": ("the environment of other toolkits: make bench-peers", (ROOT / ".venv-peers" / "bin" / "python").exists),
    "pillow": ("pillow: extra data", _packages("PIL")),
    "plotly": ("plotly: extra report", _packages("plotly")),
    "pymoo": ("pymoo: make setup-oracles", _packages("pymoo")),
    "qemu-user": ("qemu-x86_64: apt-get install qemu-user", _programs("qemu-x86_64")),
    "qonnx": ("qonnx: extra export", _packages("qonnx")),
    "ripser": ("ripser: make setup-oracles", _packages("ripser")),
    "shared": (DATA, lambda: shared_folder().is_dir()),
    "transformers": ("transformers: extra zoo", _packages("transformers")),
    "unicorn": ("unicorn: make setup-oracles, or extra emulator", _packages("unicorn")),
    "x86-64": ("an x86-64 processor under Linux", _processor("sse2")),
    "x86-64-v3": ("a processor with AVX2", _processor("avx2", "fma", "bmi2")),
    "x86-64-v4": ("a processor with AVX-512", _processor("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    "ziglang": ("ziglang: extra emulator", _packages("ziglang")),
}
"""Name -> what is missing and how it is got, and whether it is there."""


def why(name: str) -> str:
    """The reason as it is told, for `pytest.importorskip` at the head of a file."""
    return f"needs {NEEDS[name][0]}"


def reason(*names: str) -> str | None:
    """Why a test with these needs is not run here, by the first that is missing; None if all are there."""
    return next((why(name) for name in names if not NEEDS[name][1]()), None)


def needs(*names: str) -> pytest.MarkDecorator:
    """Marks a test that is not run where one of these is missing."""
    missing = reason(*names)
    return pytest.mark.skipif(missing is not None, reason=missing or "")


def need(*names: str) -> None:
    """Skips the running test where one of these is missing."""
    missing = reason(*names)
    if missing is not None:
        pytest.skip(missing)


def not_run(reports: Iterable[Any]) -> list[str]:
    """How many cases were not run for which reason, most first: `  27  needs ...`.

    Args:
        reports: of skipped cases; a file that was skipped at its head counts as one.
    """
    told = Counter(str(one.longrepr[2]).removeprefix("Skipped: ") for one in reports)
    return [f"{count:5}  {text}" for text, count in sorted(told.items(), key=lambda item: (-item[1], item[0]))]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The end of a run, with one process or many."""
    lines = not_run(terminalreporter.stats.get("skipped", []))
    if lines:
        terminalreporter.section("not run, and why")
        for line in lines:
            terminalreporter.write_line(line)
