"""A process that has imported what is slow and forks itself for every run of pytest.

torch alone takes longer to import than most mirrors take to run. This process imports the libraries once and nothing of
mixbit; each child then sees the sources as they are on disk. One line of JSON asks, one answers:

    {"tests": ["tests/test_cost.py"], "cpu": 60, "wall": 600}  ->  {"status": 1, "cpu": 3.9, "tail": "FAILED ...", ...}

`status` is pytest's exit code, or the name of what ended the child: "cpu", "wall", or "signal 11".
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HEAVY = ["numpy", "torch", "torch.export", "torch.utils.data", "torch._dynamo", "scipy.optimize", "scipy.stats",
         "scipy.special", "pydantic", "typer", "typer.testing", "rich.progress", "rich.table", "safetensors.torch",
         "sklearn.datasets", "onnx", "onnxruntime", "networkx", "accelerate", "pytest", "_pytest.doctest"]  # fmt: skip
OWN_ERROR = 70  # exit code of a child in which pytest did not come to run
OPTIONS = ["-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutants"]


def serve(folder: Path, heavy: Sequence[str]) -> None:
    """Answer until the input ends. Runs in the copy of the tree, `folder`."""
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src"), str(folder)]
    for name in heavy:
        with suppress(ImportError):
            importlib.import_module(name)
    if "mixbit" in sys.modules:
        raise RuntimeError("The server has imported mixbit: no change of a source would be seen.")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(run(folder, **json.loads(line))), flush=True)


def run(folder: Path, tests: list[str], cpu: float, wall: float, write: bool = False) -> dict[str, Any]:
    """One run of pytest in a child; `write` lets it keep what Python compiles."""
    log = folder.parent / "log"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(folder, tests, cpu, log, write)
    status, usage = _wait(child, wall)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))][:1] or lines[-1:]
    return {
        "status": status,
        "seconds": round(time.monotonic() - started, 2),
        "cpu": round(usage, 2),
        "tail": told[0][:300] if told else "",
    }


def _be_child(folder: Path, tests: list[str], cpu: float, log: Path, write: bool) -> None:
    status = OWN_ERROR
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 3))
        # A mistake that fills the memory is to be ended, and nothing else. (A limit of the address space is none for
        # sanitizers, which ask for terabytes.)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.dont_write_bytecode = not write
        os.environ.update({} if write else {"PYTHONDONTWRITEBYTECODE": "1"})
        import pytest
        from hypothesis import Phase, settings

        # The same examples each time, and no search for the smallest one that fails.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", deadline=None, derandomize=True, database=None, phases=phases)
        for test in tests:
            # pytest executes a source anew for its doctest unless it is imported, and operators register but once.
            if test.startswith("src/"):
                with suppress(Exception):  # a source that cannot be imported fails in pytest too, which tells how
                    importlib.import_module(test.removeprefix("src/").removesuffix(".py").replace("/", "."))
        status = int(pytest.main([*OPTIONS, f"--basetemp={folder.parent / 'tmp'}", *tests]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, wall: float) -> tuple[int | str, float]:
    """(how it ended, CPU seconds of it and its children); what it left running is ended too."""
    deadline = time.monotonic() + wall
    pause = 0.005
    late = False
    while True:
        found, code, usage = os.wait4(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > deadline and not late:
            late = True
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    used = usage.ru_utime + usage.ru_stime
    if late:
        return "wall", used
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        return ("cpu" if number in (signal.SIGXCPU, signal.SIGKILL) else f"signal {number}"), used
    return os.WEXITSTATUS(code), used


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
