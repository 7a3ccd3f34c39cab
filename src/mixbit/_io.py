"""Files are written whole or not at all, and read with errors that name the file.

This is the one boundary to the file system: what the system refuses becomes a `FileError`, and what a file holds is
read by the schema that wrote it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mixbit.errors import FileError, MixbitError, shown

__all__ = [
    "as_record",
    "digest",
    "digest_all",
    "file_error",
    "filesystem",
    "locked",
    "make_folder",
    "new_file",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_record",
    "read_text",
    "sync",
    "write_bytes",
    "write_json",
    "write_text",
]

Record = TypeVar("Record")

_READ_WHOLE = 2**30
_PATH = 1000
"""Characters of a path in a message."""

_REMEDIES = {
    "Free some space, or write elsewhere.": ("ENOSPC", "EDQUOT", "EFBIG"),
    "Give a place that you may read and write.": ("EACCES", "EPERM", "EROFS"),
    "A folder has that name: give the name of a file.": ("EISDIR",),
    "A part of the path is a file: give a folder.": ("ENOTDIR", "EEXIST"),
    "Give a shorter name.": ("ENAMETOOLONG",),
    "Links point at each other there: give another path.": ("ELOOP",),
    "Check the path.": ("ENOENT",),
    "Close some files, or allow more of them (ulimit -n).": ("EMFILE", "ENFILE"),
}


def file_error(cause: OSError, path: str | os.PathLike[str] | None = None) -> FileError:
    """What the system refused, as an error that names the path and what to do.

    >>> file_error(FileNotFoundError(2, "No such file or directory", "runs/a.json"))
    FileError("'runs/a.json': No such file or directory. Check the path.")
    """
    names = {getattr(errno, name, None): remedy for remedy, codes in _REMEDIES.items() for name in codes}
    where = _named(path) if path is not None else shown(cause.filename or "a file", _PATH)
    remedy = names.get(cause.errno, "Give another path, or mend what the system says.")
    return FileError(f"{where}: {cause.strerror or cause}. {remedy}")


@contextmanager
def filesystem(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Turn what the system refuses within the block into a `FileError` of `path`, or of the path that it names."""
    try:
        yield
    except OSError as cause:
        raise file_error(cause, path) from cause
    except RecursionError as cause:  # of pathlib, which makes one folder in each call
        raise file_error(OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), path) from cause


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and its parents, if they are not there.

    Raises:
        FileError: a file is in the way, or the system refuses it.
    """
    with filesystem(path):
        Path(path).mkdir(parents=True, exist_ok=True)


@contextmanager
def locked(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[BinaryIO]:
    """Open a file, unbuffered, to read and change it, made if it is not there; keep it to this process for the block.

    The lock is between those who ask for it. The system lets go of it when the process dies. Where it has no locks
    (Windows, some network folders) nothing is kept, and one process at a time is right.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        FileError: the system refuses the file.
    """
    while True:
        with filesystem(path):
            file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115
        with file:
            _lock(file, wait)
            if not _is_at(file, path):  # it was removed while this process waited
                continue
            yield file
            return


def _lock(file: BinaryIO, wait: bool) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        if cause.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _is_at(file: BinaryIO, path: str | os.PathLike[str]) -> bool:
    """Whether `path` still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it becomes `path` in one step.

    For writers that want a file name (safetensors, torch). Missing parent folders are made. If the block raises,
    the temporary file is removed and an older `path` stays as it was.

    Raises:
        FileError: the system refuses it: a full disk, a folder that must not be written, a name too long; or a pipe or
            a device is there, which would be replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with new_file(Path(folder) / "run" / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "run" / "a.txt").read_text()
    'whole'
    """
    target = Path(path)
    with filesystem(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if target.exists() and not target.is_file():  # a rename would put a file in the place of /dev/null
            raise FileError(f"Cannot write {_named(path)}: it is a pipe or a device. Give the name of a regular file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A short name: that of the target may be as long as the system allows already.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:32]}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            # mkstemp gives 0600; a result file should be as readable as any other file of the user.
            temporary.chmod(_file_mode(target))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync(target.parent)


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


def _named(path: str | os.PathLike[str]) -> str:
    """A path for a message: its end, the name, must be seen."""
    return shown(os.fspath(path), _PATH)


def read_bytes(path: str | os.PathLike[str], *, error: type[MixbitError] = MixbitError) -> bytes:
    """Read a whole file.

    Raises:
        MixbitError: (or the given subclass) the file is missing or unreadable, or no regular one: a pipe or a device
            could be read for ever.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise error(f"Cannot read {_named(path)}: it is a folder. Give a file.")
        if not stat.S_ISREG(mode):
            raise error(f"Cannot read {_named(path)}: it is a pipe or a device. Give a regular file.")
        return Path(path).read_bytes()
    except FileNotFoundError as cause:
        raise error(f"No file at {_named(path)}.") from cause
    except OSError as cause:
        raise error(f"Cannot read {file_error(cause, path)}") from cause
    except ValueError as cause:  # a zero byte
        raise error(f"{_named(path)} is no path: {cause}.") from cause


def read_text(path: str | os.PathLike[str], *, error: type[MixbitError] = MixbitError) -> str:
    """Read a whole UTF-8 file.

    Raises:
        MixbitError: (or the given subclass) as `read_bytes`, or it is of another encoding.
    """
    try:
        return read_bytes(path, error=error).decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error(f"{_named(path)} is not UTF-8 text; expected a JSON file.") from cause


def read_json(path: str | os.PathLike[str], *, error: type[MixbitError] = MixbitError) -> Any:
    """Read a JSON file.

    Raises:
        MixbitError: (or the given subclass) as `read_bytes`, or the file is not UTF-8 or not JSON; the message names
            the file and, for malformed JSON, line and column. A key that occurs twice is malformed as well, and so are
            numbers that are not finite or have thousands of digits.
    """
    return parse_json(read_text(path, error=error), where=_named(path), error=error)


def parse_json(text: str, *, where: str = "The text", error: type[MixbitError] = MixbitError) -> Any:
    """Read JSON; `where` begins the messages, which are those of `read_json`.

    >>> parse_json("[1e999]")
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: The text holds the number inf; all numbers must be finite.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as cause:
        raise error(f"{where} is not JSON: {cause.msg} at line {cause.lineno}, column {cause.colno}.") from cause
    except _Malformed as cause:
        raise error(f"{where} {cause}") from None
    except RecursionError:
        raise error(f"{where} is nested too deeply. Legal: what mixbit wrote.") from None
    except ValueError as cause:  # Python's own limit on the digits of an integer
        raise error(f"{where} holds a whole number of thousands of digits. Legal: 64 bits.") from cause


def read_record(
    path: str | os.PathLike[str], kind: type[Record], *, remedy: str, error: type[MixbitError] = MixbitError
) -> Record:
    """Read a JSON file as the dataclass (or other type) that it was written from; see `as_record`."""
    return as_record(read_json(path, error=error), kind, where=_named(path), remedy=remedy, error=error)


def as_record(
    content: object, kind: type[Record], *, where: str, remedy: str, error: type[MixbitError] = MixbitError
) -> Record:
    """JSON values as a dataclass (or another annotated type), checked by its annotations: nothing is converted.

    Raises:
        MixbitError: (or the given subclass) a missing or unknown key, or a value of another type; the message names the
            place, what was found, what was expected, and the remedy.

    >>> from mixbit.cost import Costs
    >>> as_record({"bitops": 1}, Costs, where="'float.json'", remedy="Delete it to measure again.")
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: 'float.json' is not what mixbit wrote: 'weight_bits': Field required. Delete it to ...
    """
    from pydantic import ValidationError

    try:
        record: Record = _adapter(kind).validate_json(json.dumps(content), strict=True)  # type: ignore[arg-type]
        return record
    except MixbitError as cause:  # the type's own checks
        raise error(f"{where}: {cause} {remedy}") from None
    except RecursionError:
        raise error(f"{where} is nested too deeply. {remedy}") from None
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        place = " > ".join(repr(str(part)[:80]) for part in first["loc"]) or "the top level"
        found = "" if first["type"] == "missing" else f", found {shown(first['input'])}"
        raise error(f"{where} is not what mixbit wrote: {place}: {first['msg']}{found}. {remedy}") from None


def digest(path: str | os.PathLike[str]) -> str:
    """Digest of a file's content, to tell whether it is still the same.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(f"{folder}/a", "x")
    ...     digest(f"{folder}/a")
    'blake2b:4adf4367f96e584f'
    """
    with filesystem(path), open(path, "rb") as file:
        return f"blake2b:{hashlib.file_digest(file, _blake2b).hexdigest()}"


def digest_all(root: Path, files: Sequence[Path]) -> str | None:
    """Digest of the names below `root` and the contents of some files; None for no file.

    Beyond 1 GiB names and sizes stand for the contents, so that a folder of a million images takes seconds.

    Raises:
        FileError: a file is gone.
    """
    with filesystem(root):
        listing = []
        for file in files:
            found = file.stat()
            listing.append((os.path.relpath(file, root), found.st_size, found.st_mtime_ns))
        return _digest_listing(root, tuple(sorted(listing))) if listing else None


@lru_cache(maxsize=32)
def _digest_listing(root: Path, listing: tuple[tuple[str, int, int], ...]) -> str:
    """The times of change are part of the key of the cache and of nothing else."""
    whole = sum(size for _, size, _ in listing) <= _READ_WHOLE
    found = _blake2b()
    for name, size, _ in listing:
        found.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if whole:
            with (root / name).open("rb") as file:
                while block := file.read(2**20):
                    found.update(block)
    return f"{'blake2b' if whole else 'names-and-sizes'}:{found.hexdigest()}"


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=8)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


class _Malformed(Exception):
    """What JSON's grammar or Python's reader allows, and a file must not hold; the text continues its name."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):  # of the two values, one would be lost without a word
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise _Malformed(f"has the key {shown(twice)} twice in one object; keep one.")
    return content


def _refuse(text: str) -> float:
    """JSON has no NaN or infinity, but Python reads `NaN`, `Infinity` and `1e999` without a word."""
    raise _Malformed(f"holds the number {float(text)}; all numbers must be finite.")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
"""Made once: files of many lines are read line by line."""


def _file_mode(target: Path) -> int:
    """Mode of the file that is replaced, else what the process's umask gives."""
    if target.exists():
        return target.stat().st_mode & 0o777
    # The umask can only be read by setting it.
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def sync(path: Path) -> None:
    """Flush a file (or a folder's entry, where the system allows it) to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
