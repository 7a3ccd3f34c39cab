"""Scores of a method, in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io, methods
from mixbit.network import Network
from mixbit.policy import Scores
from mixbit.runs import _folder
from mixbit.runs.subject import Subject
from mixbit.task import Task

__all__ = ["Searched", "search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """Scores, the network that they are of, and the files written with what each holds."""

    scores: Scores
    network: Network
    files: dict[Path, str]


def search(
    subject: Subject,
    method: str,
    settings: Mapping[str, Any],
    run: Path,
    *,
    task: Task | None = None,
    quiet: bool = False,
) -> Searched:
    """Run a method; a killed search goes on, and a finished one is only read.

    Args:
        subject: model, weights and data.
        method: name, see `mixbit.methods.names`.
        settings: of the method; lists stand for tuples. The seed is the subject's.
        run: folder for config.json, network.json, scores.json and, where the method trains, its checkpoint.
        task: the subject's, if it is at hand already.
        quiet: no progress bar.
    """
    _distributed.start()
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    chosen = methods.make(method, {"seed": subject.seed, **values})
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    task = subject.task()[0] if task is None else task  # before the folder is begun: a typo must not claim it
    _folder.begin(run, {"command": "search", "subject": subject.to_json(), "method": method, "settings": plain})
    path = run / _folder.SCORES
    if not path.exists():
        found = chosen.search(task, run=run, quiet=quiet)
        if _distributed.rank() == 0:
            _io.write_text(run / _folder.NETWORK, task.network.to_json())
            found.save(path)  # last: its presence says that the search is done
        _distributed.barrier()
    scores = Scores.load(path)
    scores.check(task.network)
    return Searched(scores=scores, network=task.network, files=_files(run))


def _files(run: Path) -> dict[Path, str]:
    files = {
        run / _folder.SCORES: "harm of every bit-width to every layer",
        run / _folder.NETWORK: "the captured network",
        run / _folder.CONFIG: "what was asked for",
    }
    if (run / _folder.METRICS).exists():
        files[run / _folder.METRICS] = "one line an epoch"
    return files
