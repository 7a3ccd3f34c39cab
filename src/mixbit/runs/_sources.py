"""What lies in the folder that a command is given: a result, the network that it is of, and what it was made from."""

from __future__ import annotations

from pathlib import Path

from mixbit import _io
from mixbit.errors import MixbitError
from mixbit.methods import Kind
from mixbit.network import Network, check_network
from mixbit.policy import Front, Policy
from mixbit.runs import _folder
from mixbit.runs.subject import Subject

ENDS: dict[Kind, str] = {"score": _folder.SCORES, "policy": _folder.POLICY, "front": _folder.FRONT}
"""The file that a search ends in; its presence says that the search is done."""


def result_of(source: Path) -> tuple[Kind, Path]:
    """What a search left in a folder, or what a file holds; scores where neither says otherwise."""
    if not source.is_dir():
        content = _io.read_json(source) if source.is_file() else None
        found = content.get("format") if isinstance(content, dict) else None
        return ("front" if found == Front.FORMAT else "policy" if found == Policy.FORMAT else "score"), source
    for kind in ("score", "front"):
        if (source / ENDS[kind]).is_file():
            return kind, source / ENDS[kind]
    if (source / _folder.CONFIG).is_file() and _folder.read(source)["command"] == "search":
        return (
            ("policy", source / _folder.POLICY)
            if (source / _folder.POLICY).is_file()
            else ("score", source / _folder.SCORES)
        )
    return "score", source / _folder.SCORES


def read_network(folder: Path) -> Network:
    """The network that a search wrote beside its scores."""
    path = folder / _folder.NETWORK
    if not path.is_file():
        raise MixbitError(
            f"There is no {path}, so the costs of the layers are not known. Give the --run folder of a finished "
            "search, or write the network beside the scores: mixbit inspect MODEL --json network.json."
        )
    try:
        found = Network.from_json(_io.read_text(path))
        check_network(found)
    except MixbitError as cause:
        raise MixbitError(f"{path}: {cause}") from cause
    return found


def subject_of(folder: Path) -> Subject | None:
    """Model, weights and data as the folder names them, if it does."""
    if not (folder / _folder.CONFIG).exists():
        return None
    return Subject.from_json(_folder.read(folder)["subject"])
