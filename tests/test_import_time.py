"""`import mixbit` stays light: heavy modules are loaded where they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each costs tens of milliseconds to seconds; none is needed before something is captured, solved, read or drawn.
HEAVY = {
    "PIL",
    "accelerate",
    "datasets",
    "jinja2",
    "pandas",
    "pydantic",
    "rich",
    "scipy.optimize",
    "sklearn",
    "torch._dynamo",
    "torch._inductor",
    "transformers",
    "typer",
}
LIMIT_S = 0.2


def loaded_by(statement: str) -> set[str]:
    """Names of the modules in a fresh interpreter after a statement."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def cpu_seconds(statement: str, *, runs: int = 7) -> float:
    """Smallest CPU time of a statement in a fresh interpreter; CPU time does not count waiting for a busy machine."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    command = [sys.executable, "-c", code]
    times = [subprocess.run(command, text=True, capture_output=True, check=True).stdout for _ in range(runs)]
    return min(float(text) for text in times)


def test_import_loads_nothing_heavy() -> None:
    """What torch itself loads is torch's affair."""
    loaded = loaded_by("import mixbit") - loaded_by("import torch")
    assert loaded & HEAVY == set()
    assert "mixbit" in loaded


@pytest.mark.bench
def test_import_costs_little_over_torch() -> None:
    assert cpu_seconds("import mixbit") - cpu_seconds("import torch") <= LIMIT_S
