"""What is measured piece by piece, in a file that a killed run goes on from.

A file of JSON lines: the first one says what it is of and with which settings it was begun, every further one is a
piece, written as soon as it is known:

    {"format": "mixbit-ledger", "version": 1, "of": "draws of Hessian traces", "settings": {"images": 64, "seed": 0}}
    {"key": "0", "value": [0.5, -1.25]}
    {"key": "1", "value": [0.25, {"$float": "nan"}]}

The last line of a key counts; one without a value takes the piece out. A line that has no end was cut off when its
writer was killed, and is left out. Settings should name files, weights and images by a digest of their content, so that
a ledger follows what was measured and not where it lies.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from mixbit import _distributed, _io
from mixbit.errors import MixbitError, StaleRun, shown

__all__ = ["Ledger", "check_settings", "content_of"]

Record = TypeVar("Record")

_FORMAT, _VERSION = "mixbit-ledger", 1
_FLOAT = "$float"
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_ANEW = "Remove it to begin anew."
_AGAIN = "Remove that line, and it is measured again."
_SYNC_SECONDS = 1.0
"""Pieces that come faster are brought to the disk together: a killed process loses none, a power cut those."""


class Ledger(Mapping[str, Any]):
    """Key to value, in the order in which the keys came; what is put in is in the file when `put` returns.

    Values are what JSON has, and come back as JSON has them, also in the run that put them in: tuples are lists, and
    keys of objects are text. Numbers come back exactly, NaN and infinities too. Whoever gets a value gets a copy: to
    change it changes nothing here.

    Several processes may write to one file at a time; each sees what was there when it opened it, and what it put in
    itself. The processes of one distributed run open and fill a ledger together: the first one's file counts for all,
    and it alone writes.

    Args:
        path: the file, made with the first piece; None keeps everything in memory alone.
        of: what it holds, in a few words.
        settings: all that the values depend on.
        before: files in which an older mixbit kept the same; this one does not read them.

    Raises:
        StaleRun: the file was begun with other settings (the message has the key and both values), or is of something
            else, or none of this mixbit; or one of `before` is there.
        MixbitError: a line in the middle is malformed.
        FileError: the system refuses the file.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "losses.jsonl"
    >>> Ledger(path, "losses", {"images": 64}).put("conv1", (0.1, math.inf))
    [0.1, inf]
    >>> again = Ledger(path, "losses", {"images": 64})              # after a kill
    >>> dict(again), "conv2" in again
    ({'conv1': [0.1, inf]}, False)
    >>> Ledger(path, "losses", {"images": 32})
    Traceback (most recent call last):
        ...
    mixbit.errors.StaleRun: ...losses.jsonl was begun with images=64, now images=32. Give the old value to ...
    >>> folder.cleanup()
    """

    def __init__(self, path: Path | None, of: str, settings: Mapping[str, Any], *, before: Iterable[Path] = ()) -> None:
        self.path = path
        head = {"format": _FORMAT, "version": _VERSION, "of": of, "settings": dict(settings)}
        self._head = _encoded(head, f"settings of the {of}") + b"\n"
        self._of, self._settings = of, _decoded(self._head, "The settings")["settings"]
        self._known: dict[str, Any] = {}
        self._synced = -math.inf
        if path is not None:
            self._known = self._entries(_distributed.bytes_of_first(lambda: self._content(path, before)))

    def __getitem__(self, key: str) -> Any:
        return _copied(self._known[key])

    def __contains__(self, key: object) -> bool:
        return key in self._known  # the mapping's own would copy the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def read(self, key: str, kind: type[Record]) -> Record:
        """The value of a key as the dataclass (or other type) that it was made from.

        Raises:
            KeyError: there is no such key.
            MixbitError: it is of another form.
        """
        where = f"{self.path or 'The ledger'}, key {shown(key)},"
        return _io.as_record(self._known[key], kind, where=where, remedy=_AGAIN)

    def put(self, key: str, value: Any) -> Any:
        """Add a piece; a key that is there gets the new value, and where that is the old one nothing is written.

        Returns:
            The value as the file gives it back.

        Raises:
            MixbitError: the value has no JSON form, or the key is no text.
            StaleRun: meanwhile another process has begun the file with other settings.
            FileError: the system refuses to write, as on a full disk; the ledger is as before.
        """
        if not isinstance(key, str):
            raise MixbitError(f"The key {shown(key)} is a {type(key).__name__}. Legal: text.")
        line = _encoded({"key": key, "value": value}, f"value of {shown(key)}") + b"\n"
        value = _decoded(line, "The value")["value"]
        if line != self._line_of(key):
            if self.path is not None and _distributed.rank() == 0:
                self._append(self.path, line)
            self._known[key] = value
        return _copied(value)

    def forget(self, key: str) -> None:
        """Take a piece out, so that it is measured again; what is not there may be forgotten too."""
        if key in self._known:
            if self.path is not None and _distributed.rank() == 0:
                self._append(self.path, _encoded({"key": key}, "key") + b"\n")
            del self._known[key]

    def finish(self) -> None:
        """Remove the file: what was measured is kept elsewhere now. The values stay in memory."""
        if self.path is not None and _distributed.rank() == 0:
            with _io.filesystem(self.path):
                self.path.unlink(missing_ok=True)

    # -- reading

    def _content(self, path: Path, before: Iterable[Path]) -> bytes:
        """All whole lines of the file; nothing where there is none."""
        if not os.path.lexists(path):
            for old in before:
                if old.exists():
                    raise StaleRun(f"{old} holds {self._of} as an older mixbit kept them. {_ANEW}")
            return b""
        content = _io.read_bytes(path, error=StaleRun)
        if content and not content.endswith(b"\n"):  # another process may be at this line
            with _io.locked(path) as file:
                content = file.read()
        whole = self._checked(content)
        if whole < len(content):
            warnings.warn(
                f"{path}: the last line was cut off when its writer was stopped. It is left out, and written anew.",
                stacklevel=5,
            )
        return content[:whole]

    def _entries(self, content: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for at, entry in enumerate(self._lines(content.split(b"\n")[1:-1])):
            if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or {*entry} - {"key", "value"}:
                raise MixbitError(f"{self._place(at)} is no key with a value: {shown(entry)}. {_AGAIN}")
            if "value" in entry:
                found[entry["key"]] = entry["value"]
            else:
                found.pop(entry["key"], None)
        return found

    def _lines(self, lines: list[bytes]) -> list[Any]:
        try:  # all at once takes half the time
            found: list[Any] = _decoded(b"[" + b",".join(lines) + b"]", "The file")
        except MixbitError:
            found = []
        if len(found) == len(lines):
            return found
        return [_decoded(line, self._place(at)) for at, line in enumerate(lines)]

    def _place(self, at: int) -> str:
        return f"{self.path}, line {at + 2},"

    def _checked(self, content: bytes) -> int:
        """How much of a file is whole lines, if it is a ledger of these settings.

        Raises:
            StaleRun: it is not.
        """
        first, end, _ = content.partition(b"\n")
        if not end and _OPENING.startswith(content[: len(_OPENING)]):
            return 0  # stopped before the first line was whole: nothing was begun
        if first + end != self._head:
            self._check(first)
        return content.rfind(b"\n") + 1

    def _check(self, first: bytes) -> None:
        stale = f"{self.path} holds no {self._of} of this mixbit"
        try:
            head = _decoded(first, "It")
        except MixbitError:
            head = None
        if not isinstance(head, dict) or head.get("format") != _FORMAT or not isinstance(head.get("settings"), dict):
            raise StaleRun(f"{stale}: its first line is {shown(first.decode(errors='replace'))}. {_ANEW}")
        for name, legal in (("version", _VERSION), ("of", self._of)):
            if head.get(name) != legal:
                raise StaleRun(f"{stale}: its {name!r} is {shown(head.get(name))}, legal is {legal!r}. {_ANEW}")
        check_settings(str(self.path), head["settings"], self._settings, "remove the file to begin anew")

    # -- writing

    def _line_of(self, key: str) -> bytes | None:
        """The line that a known key has."""
        return _encoded({"key": key, "value": self._known[key]}, "value") + b"\n" if key in self._known else None

    def _append(self, path: Path, line: bytes) -> None:
        _io.make_folder(path.parent)
        with _io.locked(path) as file, _io.filesystem(path):
            end = self._end(file)
            if end == 0:  # it is new, or was removed since: what is known goes in again
                line = b"".join([self._head, *filter(None, map(self._line_of, self._known)), line])
            try:
                file.seek(end)
                file.truncate()  # a line that was cut off
                _write(file, line)
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise
            self._sync(file, path, new=end == 0)

    def _end(self, file: BinaryIO) -> int:
        """Where the next line goes."""
        size = os.fstat(file.fileno()).st_size
        if size and file.read(len(self._head)) == self._head:
            file.seek(size - 1)
            if file.read(1) == b"\n":
                return size
        file.seek(0)
        return self._checked(file.read())

    def _sync(self, file: BinaryIO, path: Path, *, new: bool) -> None:
        now = time.monotonic()
        if now - self._synced >= _SYNC_SECONDS:
            os.fsync(file.fileno())
            self._synced = now
        if new:
            _io.sync(path.parent)


_OPENING = b'{"format": "mixbit-ledger", '


def _write(file: BinaryIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def check_settings(where: str, old: Mapping[str, Any], new: Mapping[str, Any], otherwise: str) -> None:
    """Refuse to go on with other settings than the first; what differs inside an object is named by its place in it.

    What one side lacks is None there, except that an object of nothing is shown beside the whole other one.

    Args:
        where: what was begun, the first words of the message.
        old: its settings, as they come from JSON.
        new: those of now, likewise.
        otherwise: what to do beside giving the old value.

    Raises:
        StaleRun: a value differs.

    >>> check_settings("runs/a", {"data": {"seed": 0}}, {"data": {"seed": 1}}, "give another folder")
    Traceback (most recent call last):
        ...
    mixbit.errors.StaleRun: runs/a was begun with data.seed=0, now data.seed=1. Give the old value to go on ...
    """
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if was and now and isinstance(was, dict) and isinstance(now, dict):
            check_settings(
                where, {f"{key}.{k}": v for k, v in was.items()}, {f"{key}.{k}": v for k, v in now.items()}, otherwise
            )
        elif [was] != [now]:  # in a list NaN is itself
            raise StaleRun(
                f"{where} was begun with {key}={was!r}, now {key}={now!r}. "
                f"Give the old value to go on with it, or {otherwise}."
            )


def content_of(tensors: Iterable[Tensor]) -> str:
    """A digest of types, shapes and values, for settings: pieces of other weights or images must not be mixed.

    >>> content_of([torch.tensor([1.0, 2.0])]), content_of([torch.tensor([2.0, 1.0])])
    ('blake2b:e81c834e322e1498', 'blake2b:04444301c546a4c3')
    """
    found = blake2b(digest_size=8)
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"blake2b:{found.hexdigest()}"


# ---------------------------------------------------------------------------------------------------- JSON


def _encoded(content: object, what: str) -> bytes:
    """One line of JSON in ASCII, which holds any text, lone surrogates too, and no end of a line within."""
    try:
        try:
            text = json.dumps(content, allow_nan=False)
        except ValueError:  # not finite, or an object that holds itself
            return json.dumps(_spelled(content), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise MixbitError(f"The {what} has no JSON form: {cause}. Legal: numbers, text, lists and objects.") from None
    if f'"{_FLOAT}"' in text and repr(_numbers(content)) != repr(content):
        raise MixbitError(
            f"The {what} has {_FLOAT!r} as a key, which stands for NaN and infinities. Take another word."
        )
    return text.encode()


def _spelled(value: Any) -> Any:
    """NaN and infinities as `{"$float": "nan"}`: JSON has no numbers for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(float(value))}
    if isinstance(value, dict):
        return {key: _spelled(one) for key, one in value.items()}
    return [_spelled(one) for one in value] if isinstance(value, list | tuple) else value


def _decoded(line: bytes, where: str) -> Any:
    try:
        value = _io.parse_json(line.decode(), where=where)
    except UnicodeDecodeError as cause:
        raise MixbitError(f"{where} is not UTF-8 text: {cause.reason}. {_AGAIN}") from None
    except MixbitError as cause:
        raise MixbitError(f"{cause} {_AGAIN}") from None
    return _numbers(value) if _FLOAT.encode() in line else value


def _copied(value: Any) -> Any:
    """A value as JSON has it, with lists and objects of its own."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    """What `_spelled` was given."""
    if isinstance(value, dict):
        if value.keys() == {_FLOAT} and value[_FLOAT] in _NOT_FINITE:
            return _NOT_FINITE[value[_FLOAT]]
        return {key: _numbers(one) for key, one in value.items()}
    return type(value)(map(_numbers, value)) if isinstance(value, list | tuple) else value
