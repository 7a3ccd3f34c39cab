"""What the commands do, each in a run folder that a killed command goes on from."""

from __future__ import annotations

from mixbit.runs.allocate import Allocated, allocate
from mixbit.runs.demo import Demo, demo
from mixbit.runs.evaluate import Evaluated, evaluate
from mixbit.runs.inspect import Inspected, inspect
from mixbit.runs.search import Searched, search
from mixbit.runs.subject import Outcome, Subject
from mixbit.runs.train import Trained, train

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
