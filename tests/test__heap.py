"""Memory that was freed stays in the process."""

from __future__ import annotations

import subprocess
import sys

from tests.needs import needs

SCRIPT = """
import resource, sys, torch
from mixbit._heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    return [torch.ones(12_000_000) for _ in range(3)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@needs("linux")
def test_a_step_takes_no_new_pages() -> None:
    """Three tensors of 48 MB are 35,000 pages of 4 KiB; without the call, glibc maps each of them anew."""
    assert faults("keep") < 100 < faults("leave")
