"""Scores of a method, in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io, methods
from mixbit.errors import MixbitError
from mixbit.evaluation import try_out
from mixbit.network import Network
from mixbit.policy import Scores
from mixbit.runs import _folder
from mixbit.runs._options import KURTOSIS, regularised
from mixbit.runs.subject import Subject
from mixbit.task import Task
from mixbit.training import KurtosisConfig

__all__ = ["Searched", "search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """Scores, the network that they are of, and the files written with what each holds."""

    scores: Scores
    network: Network
    files: dict[Path, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the method did otherwise than its settings say, and why."""
        found = self.scores.settings.get("notes")
        return tuple(map(str, found)) if isinstance(found, list) else ()


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
        settings: of the method; lists stand for tuples. The seed is the subject's. Beside them `kurtosis`, as for
            `train`: methods that train weights then train them with KURE.
        run: folder for config.json, network.json, scores.json and, where the method trains, its checkpoint.
        task: the subject's, if it is at hand already.
        quiet: no progress bar.
    """
    _distributed.start()
    term = KurtosisConfig.from_setting(settings.get(KURTOSIS))
    chosen = methods.make(method, {"seed": subject.seed, **{k: v for k, v in settings.items() if k != KURTOSIS}})
    if term is not None and methods.info(method).cost != "training":
        raise MixbitError(
            f"kurtosis={settings[KURTOSIS]!r} has no effect on {method}, which trains no weights. Train with it first "
            "(mixbit train ... --set kurtosis=1), and search from those weights."
        )
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if task is None:  # before the folder is begun: a typo must not claim it
        task = subject.task()[0]
        try_out(task.model, task.test, task.objective, label_smoothing=getattr(chosen, "label_smoothing", None) or 0.0)
    task = regularised(task, term)
    _folder.begin(
        run,
        {
            "command": "search",
            "subject": subject.to_json(),
            "content": subject.content(),
            "method": method,
            "settings": plain,
        },
    )
    path = run / _folder.SCORES
    found = None if path.exists() else chosen.search(task, run=run, quiet=quiet)
    if _distributed.rank() == 0:
        # Also where the search is done: the file may be of an older version, or may count less than today's capture.
        _io.write_text(run / _folder.NETWORK, task.network.to_json())
        if found is not None:
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
