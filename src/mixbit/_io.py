"""Files are written whole or not at all, and read with errors that name the file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixbit.errors import MixbitError

__all__ = ["new_file", "read_json", "write_bytes", "write_json", "write_text"]


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it becomes `path` in one step.

    For writers that want a file name (safetensors, torch). Missing parent folders are made. If the block raises,
    the temporary file is removed and an older `path` stays as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with new_file(Path(folder) / "run" / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "run" / "a.txt").read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp gives 0600; a result file should be as readable as any other file of the user.
        temporary.chmod(_file_mode(target))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(target.parent)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the new one, never half of it."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8 with the line ends that it has."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` to `path` atomically as indented JSON with a final newline.

    Keys keep their order. NaN and infinity have no JSON form and raise `ValueError`; nothing is written then.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(f"{folder}/a.json", {"bits": 3})
    ...     read_json(f"{folder}/a.json")
    {'bits': 3}
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], *, error: type[MixbitError] = MixbitError) -> Any:
    """Read a JSON file.

    Raises:
        MixbitError: (or the given subclass) the file is missing, unreadable, not UTF-8 or not JSON; the message names
            the file and, for malformed JSON, line and column. A key that occurs twice is malformed as well.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError as cause:
        raise error(f"No file at {str(path)!r}.") from cause
    except OSError as cause:
        raise error(f"Cannot read {str(path)!r}: {cause.strerror}.") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{str(path)!r} is not UTF-8 text; expected a JSON file.") from cause
    except json.JSONDecodeError as cause:
        raise error(f"{str(path)!r} is not JSON: {cause.msg} at line {cause.lineno}, column {cause.colno}.") from cause
    except _DuplicateKey as cause:
        raise error(f"{str(path)!r} has the key {cause.args[0]!r} twice in one object; keep one.") from cause


class _DuplicateKey(Exception):
    """JSON's grammar allows a key twice, but then one of the two is lost without a word."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _DuplicateKey(key)
        content[key] = value
    return content


def _file_mode(target: Path) -> int:
    """Mode of the file that is replaced, else what the process's umask gives."""
    if target.exists():
        return target.stat().st_mode & 0o777
    # The umask can only be read by setting it.
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _sync(path: Path) -> None:
    """Flush a file (or a folder's entry, where the system allows it) to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
