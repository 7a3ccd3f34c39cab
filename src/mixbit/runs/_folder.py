"""A run is a folder; its `config.json` says what was asked for, and other wishes on the same folder are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io
from mixbit.errors import MixbitError, StaleRun

CONFIG, NETWORK, SCORES, POLICY = "config.json", "network.json", "scores.json", "policy.json"
WEIGHTS, METRICS = "model.safetensors", "metrics.jsonl"

_FORMAT = {"format": "mixbit-run", "version": 1}


def begin(run: Path, facts: Mapping[str, Any]) -> None:
    """Write `config.json`, or compare with the one that is there.

    Raises:
        StaleRun: the folder belongs to a run with other settings; the message names the first key that differs.
    """
    # As they come back from the file: a tuple is a list there, and must not make a run refuse itself.
    wanted = json.loads(json.dumps({**_FORMAT, **facts}))
    if (run / CONFIG).exists():
        _compare(run, read(run), wanted)
    elif _distributed.rank() == 0:
        run.mkdir(parents=True, exist_ok=True)
        _io.write_json(run / CONFIG, wanted)


def read(run: Path) -> dict[str, Any]:
    """What `begin` wrote."""
    if not (run / CONFIG).is_file():
        raise MixbitError(f"{run} is no run folder: it has no {CONFIG}. Give the --run folder of an earlier command.")
    found = _io.read_json(run / CONFIG)
    if not isinstance(found, dict) or found.get("format") != _FORMAT["format"]:
        raise MixbitError(f"{run / CONFIG} is no configuration of a mixbit run. Give the --run folder of a command.")
    if found.get("version") != _FORMAT["version"]:
        raise MixbitError(
            f"{run / CONFIG} has version {found.get('version')!r}; this mixbit reads {_FORMAT['version']}. "
            "Update mixbit."
        )
    for key in ("command", "subject"):
        if key not in found:
            raise MixbitError(
                f"{run / CONFIG} has no {key!r}. Give the --run folder of a mixbit command, as it wrote it."
            )
    return found


def _compare(run: Path, old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> None:
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            _compare(run, was, now, f"{prefix}{key}.")
        elif was != now:
            raise StaleRun(
                f"{run} was begun with {prefix}{key}={was!r}, now {prefix}{key}={now!r}. "
                "Give the old value to go on with it, or another --run folder to begin anew."
            )
