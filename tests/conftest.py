"""Settings for all tests."""

from __future__ import annotations

import fcntl
import gc
import getpass
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.needs import pytest_terminal_summary as pytest_terminal_summary
from tests.remembered import remembered_exports
from tests.warm import Warm, path_of

# A test says nothing of time: on a machine with other work the first example alone may take seconds.
settings.register_profile("mixbit", deadline=None)
settings.load_profile("mixbit")

# What inductor compiled for one instruction set does not build for another, and its cache does not tell them apart.
if isa := os.environ.get("ATEN_CPU_CAPABILITY"):
    cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{isa}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))

# Tests run side by side on few cores: one thread each. Two thread pools on the same cores wait for each other at
# every step.
torch.set_num_threads(1)


@contextmanager
def _shared(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder for what is made once in a session, also where workers share it: by the first, while the others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """PATH with `mixbit`, `python` and `torchrun` that start at once (warm.py)."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        with Warm() as server:
            yield server.path
        return
    with _shared(tmp_path_factory, "warm") as folder:
        if not (folder / "programs").exists():
            # Other workers may need it longer than this one: it ends with the process that started them.
            (folder / "programs").write_text(str(Warm(until=os.getppid()).folder))
    yield path_of(Path((folder / "programs").read_text()))


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory, warm: str) -> dict[str, Any]:
    """What two real processes found (ranks_script.py), by rank, where they wrote, and what rank 0 said at the end."""
    with _shared(tmp_path_factory, "two-processes") as folder:
        if not (folder / "said").exists():
            (folder / "said").write_text(_launched(folder, str(shutil.which("python", path=warm))))
    found = {str(rank): json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)}
    return {"said": (folder / "said").read_text(), "folder": folder, **found}


def _launched(folder: Path, python: str) -> str:
    """Run both ranks to their end; what rank 0 wrote to standard error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).parent / "ranks_script.py"
    processes = [
        subprocess.Popen(
            [python, script, folder],
            env={**os.environ, **settings, "RANK": str(rank)},
            stderr=subprocess.PIPE if rank == 0 else None,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        return str(processes[0].communicate(timeout=900)[1])
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Python looks for no garbage while ten thousand cases are made, and afterwards not among them and all modules.

    There are more than a million objects, all of which stay: each look at them takes a second. What tests make goes by
    itself, nearly all: looking for the rest after every 700 objects takes a twentieth of their time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.set_threshold(50_000)
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests are begun first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_docs.py", item.path not in slow))


# Folders and files where a run, a method or a command opens the same network again and again.
REMEMBERED = {
    *("allocation", "attacks", "cli", "end_to_end", "export", "inference", "integer", "latency", "methods", "ptq"),
    *("quantization", "reference", "robustness", "runs", "sensitivity", "supernet", "test_cli", "training"),
}


@pytest.fixture(scope="module", autouse=True)
def _remembered(request: pytest.FixtureRequest) -> Iterator[None]:
    """There the same network is followed once. Elsewhere torch.export, and what is read from it, is tested itself."""
    inside = request.path.parts[len(Path(__file__).parent.parts) :]
    with remembered_exports() if REMEMBERED & {*inside, request.path.stem} else nullcontext():
        yield
