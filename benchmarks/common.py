"""What every benchmark shares: where the real data are, and how a result file is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def shared_data() -> Path:
    """The folder of real data and weights: MIXBIT_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("MIXBIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.exists():
        sys.exit(f"{folder} does not exist. Set MIXBIT_DATA to the folder with weights/ and cifar10/.")
    return folder


def unpacked_data() -> Path:
    """Where CIFAR-10 lies as its standard binary files; unpacked on first use into an ignored folder."""
    folder = ROOT / "runs" / "data"
    if not (folder / "cifar-10-batches-bin" / "test_batch.bin").exists():
        subprocess.run([sys.executable, str(shared_data() / "unpack.py"), str(folder)], check=True)
    return folder


def commit() -> str:
    """Short hash of the checkout, with a plus if it has changes."""
    run = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=ROOT)
    return run.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores and versions, for the record."""
    import torch

    cpu = next((ln.split(":")[1].strip() for ln in _cpuinfo() if ln.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_result(name: str, payload: dict[str, Any], *, seed: int | list[int]) -> Path:
    """Write `results/<name>.json` with command, commit, seed and machine, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = "python " + " ".join([str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])
    record = {"command": command, "commit": commit(), "seed": seed, "machine": machine(), **payload}
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)
    return path


def result(name: str) -> dict[str, Any]:
    """A result file."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def markdown(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; columns whose title begins with `>` are aligned right."""
    titles = list(columns)
    lines = ["| " + " | ".join(t.removeprefix(">") for t in titles) + " |"]
    lines.append("| " + " | ".join("---:" if t.startswith(">") else "---" for t in titles) + " |")
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def when_run(name: str, part: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """A table of one part of a result file; where that was not run yet, it says so."""

    def around(table: Callable[[], str]) -> Callable[[], str]:
        def made() -> str:
            there = (RESULTS / f"{name}.json").exists() and part in result(name)
            return table() if there else "Not run yet.\n"

        return made

    return around
