"""What the commands do, each in a run folder that a killed command goes on from."""

from __future__ import annotations

from mixbit.runs.allocating import Allocated, allocate
from mixbit.runs.demonstrating import Demo, demo
from mixbit.runs.evaluating import Evaluated, evaluate
from mixbit.runs.inspecting import Inspected, inspect
from mixbit.runs.searching import Searched, search
from mixbit.runs.subject import Outcome, Subject
from mixbit.runs.training import Trained, train

__all__ = [
    "Allocated",
    "Demo",
    "Evaluated",
    "Inspected",
    "Outcome",
    "Searched",
    "Subject",
    "Trained",
    "allocate",
    "demo",
    "evaluate",
    "inspect",
    "search",
    "train",
]
