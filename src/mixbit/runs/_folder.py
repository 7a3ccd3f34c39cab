"""A run is a folder; its `config.json` says what was asked for, and other wishes on the same folder are refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io
from mixbit.data import parse_spec
from mixbit.errors import MixbitError, StaleRun, shown
from mixbit.ledger import check_settings
from mixbit.runs.subject import CONFIG as CONFIG
from mixbit.runs.subject import FORMAT, Subject

NETWORK, SCORES, POLICY, FRONT = "network.json", "scores.json", "policy.json", "front.json"
WEIGHTS, METRICS = "model.safetensors", "metrics.jsonl"
CONTENT = "content"
"""Key of the digests of weights, data and code."""

_FORMAT = {"format": FORMAT, "version": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the `config.json` of every command holds."""

    command: str
    subject: Subject
    content: dict[str, str | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainFacts(_Facts):
    settings: dict[str, Any]
    bits: dict[str, tuple[int | None, int | None]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _SearchFacts(_Facts):
    method: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _JudgeFacts:
    weights: str
    on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _CompareFacts(_Facts):
    settings: dict[str, Any] | None
    judge: _JudgeFacts | None = None


_KINDS: dict[str, type[_Facts]] = {"train": _TrainFacts, "search": _SearchFacts, "compare": _CompareFacts}


def begin(run: Path, facts: Mapping[str, Any], anew: str = "another folder to begin anew") -> None:
    """Write `config.json`, or compare with the one that is there; `anew` is what else than the old value helps.

    Raises:
        StaleRun: the folder belongs to a run with other settings, or with weights or data of other content; the message
            names the first key that differs.
        FileError: the folder cannot be made.
    """
    # As they come back from the file: a tuple is a list there, and must not make a run refuse itself.
    wanted = json.loads(json.dumps({**_FORMAT, **facts}))
    if (run / CONFIG).exists():
        check_settings(str(run), *_by_content(run, read(run), wanted), anew)
    elif _distributed.rank() == 0:
        _io.write_json(run / CONFIG, wanted)


def read(run: Path) -> dict[str, Any]:
    """Read the facts that `begin` wrote.

    Raises:
        MixbitError: no run folder, or its `config.json` is not as a command writes it.
    """
    path = run / CONFIG
    if not path.is_file():
        raise MixbitError(f"{run} is no run folder: it has no {CONFIG}. Give the --run folder of an earlier command.")
    found = _io.read_json(path)
    if not isinstance(found, dict) or found.get("format") != _FORMAT["format"]:
        raise MixbitError(f"{path} is no configuration of a mixbit run. Give the --run folder of a command.")
    if found.get("version") != _FORMAT["version"] or isinstance(found["version"], bool):
        raise MixbitError(
            f"{path} has version {shown(found.get('version'))}; this mixbit reads {_FORMAT['version']}. Update mixbit."
        )
    command = found.get("command")
    kind = _KINDS.get(command, _Facts) if isinstance(command, str) else _Facts
    _io.as_record(found, kind, where=shown(str(path)), remedy="Give the --run folder of a mixbit command.")
    return found


def _by_content(
    run: Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both without their digests; where digests agree, the new facts get the old path, since it holds the same."""
    was, now = old.get(CONTENT), new.get(CONTENT) or {}
    old, new = ({key: value for key, value in facts.items() if key != CONTENT} for facts in (old, new))
    if was is None:
        if any(now.values()):
            warnings.warn(
                f"{run} is of a mixbit that kept no digests: whether its weights and data still are what it began with "
                "is not known.",
                stacklevel=4,
            )
        return old, new
    subject = dict(new["subject"])
    if now.get("code") and was.get("code", now["code"]) != now["code"]:
        warnings.warn(
            f"{shown(subject['model'])} is not the code that {run} was begun with; what is finished there is of the "
            "older one. Where the change moves results, begin anew in another --run folder.",
            stacklevel=4,
        )
    for part in [key for key in ("weights", "data") if now.get(key) and was.get(key)]:
        if was[part] != now[part]:
            raise StaleRun(
                f"{run} was begun with other {part}: those of {shown(str(subject[part]))} now have the content "
                f"{now[part]}, and were {was[part]}. Give the old {part} to go on with it, or another --run folder to "
                "begin anew."
            )
        subject[part] = same_files(old["subject"][part], subject[part]) if part == "data" else old["subject"][part]
    return old, {**new, "subject": subject}


def same_files(old: str, new: str) -> str:
    """The old spec, if the new one differs in its path alone."""
    (name, _, options), (new_name, _, new_options) = parse_spec(old), parse_spec(new)
    return old if (name, options) == (new_name, new_options) else new
