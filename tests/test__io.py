"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit import _io
from mixbit.errors import FileError, MixbitError, PolicyError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    file = tmp_path_factory.mktemp("json") / "a.json"
    _io.write_json(file, content)
    assert _io.read_json(file) == content


def test_missing_folders_are_made_and_no_temporary_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "c.bin"
    _io.write_bytes(file, b"\x00\r\n")
    assert file.read_bytes() == b"\x00\r\n"
    assert [entry.name for entry in file.parent.iterdir()] == ["c.bin"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    _io.write_text(file, "old")

    def break_off() -> None:
        with _io.new_file(file) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        break_off()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    _io.write_text(file, "old")
    with _io.new_file(file) as temporary:
        temporary.write_text("ne")
        assert file.read_text() == "old"
        temporary.write_text("new")
    assert file.read_text() == "new"


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _io.write_json(tmp_path / "a.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_mode_of_an_old_file_is_kept_and_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("")
    _io.write_text(ours, "")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    ours.chmod(0o640)
    _io.write_text(ours, "again")
    assert stat.S_IMODE(ours.stat().st_mode) == 0o640


def test_text_is_utf8_with_the_line_ends_given(tmp_path: Path) -> None:
    _io.write_text(tmp_path / "a", "é\r\nb\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\nb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,}', "line 1, column"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": 1, "a": 2}', "key 'a' twice"),
    ],
)
def test_unreadable_json_names_file_and_fault(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "policy.json"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=message) as caught:
        _io.read_json(file, error=PolicyError)
    assert "policy.json" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="No file at"):
        _io.read_json(tmp_path / "none.json")
    with pytest.raises(MixbitError, match="Cannot read"):
        _io.read_json(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 50_000, "nested too deeply"),
        ("1" * 5000, "thousands of digits"),
        ("[NaN]", "the number nan; all numbers must be finite"),
        ("[1e999]", "the number inf"),
        ("[-Infinity]", "the number -inf"),
    ],
)
def test_json_that_python_reads_and_a_file_must_not_hold(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PolicyError, match=f"a.json' .*{message}"):
        _io.read_json(tmp_path / "a.json", error=PolicyError)


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """Nor is a device: whoever may write to its folder would lose it for everybody."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(FileError, match="pipe or a device. Give the name of a regular file"):
            _io.write_text(path, "x")
    assert stat.S_ISFIFO(pipe.lstat().st_mode) and link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """It would be read for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(MixbitError, match="pipe or a device. Give a regular file"):
            _io.read_json(path)
    with pytest.raises(MixbitError, match="is no path"):
        _io.read_json("a\0b")


@dataclass(frozen=True)
class Found:
    """What some file holds."""

    name: str
    counts: tuple[int, ...]
    share: float | None = None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the top level"),
        (None, "the top level"),
        (5, "the top level"),
        ({}, "'name': Field required"),
        ({"name": 5, "counts": []}, "'name': .*found 5"),
        ({"name": "a", "counts": [1, "2"]}, "'counts' > '1': .*found '2'"),
        ({"name": "a", "counts": [1.5]}, "'counts' > '0'"),
        ({"name": "a", "counts": [True]}, "'counts' > '0'"),
        ({"name": "a", "counts": [], "share": "x"}, "'share'"),
    ],
)
def test_a_record_is_what_its_annotations_say(tmp_path: Path, content: object, message: str) -> None:
    _io.write_json(tmp_path / "a.json", content)
    with pytest.raises(PolicyError, match=f"a.json' is not what mixbit wrote: {message}.* Measure again"):
        _io.read_record(tmp_path / "a.json", Found, remedy="Measure again.", error=PolicyError)


def test_records_survive_their_file(tmp_path: Path) -> None:
    _io.write_json(tmp_path / "a.json", {"name": "a", "counts": [1, 2], "share": 1})
    assert _io.read_record(tmp_path / "a.json", Found, remedy="") == Found("a", (1, 2), 1.0)


def test_what_the_system_refuses_is_an_error_with_path_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path, remedy in (
        (tmp_path / "file" / "a", "A part of the path is a file"),
        (tmp_path / "folder", "A folder has that name"),
        (tmp_path / ("x" * 300), "Give a shorter name"),
        (Path("/proc/mixbit/a"), "Check the path|read and write"),
        (tmp_path.joinpath(*["a"] * 3000), "Give a shorter name"),
    ):
        with pytest.raises(FileError, match=remedy):
            _io.write_text(path, "new")
    with pytest.raises(FileError, match="A part of the path is a file"):
        _io.make_folder(tmp_path / "file" / "a")
    before = sys.getrecursionlimit()  # libraries raise it, and then so deep a folder can be made
    sys.setrecursionlimit(1000)
    try:
        with pytest.raises(FileError, match="Give a shorter name"):
            _io.write_text(tmp_path.joinpath(*["a"] * 1500), "new")
    finally:
        sys.setrecursionlimit(before)
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    _io.write_text(file, "old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="a.txt': No space left on device. Free some space"):
        _io.write_text(file, "new")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    _io.write_text(tmp_path / ("x" * 255), "whole")
    assert (tmp_path / ("x" * 255)).read_text() == "whole"


def test_digests_are_of_content_and_names_below_the_root(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for name in ("1", "2"):
            _io.write_text(tmp_path / folder / name, name)
    found = {_io.digest_all(tmp_path / one, sorted((tmp_path / one).iterdir())) for one in ("a", "b")}
    assert len(found) == 1
    _io.write_text(tmp_path / "b" / "2", "3")
    assert _io.digest_all(tmp_path / "b", sorted((tmp_path / "b").iterdir())) not in found
    assert _io.digest_all(tmp_path, []) is None
    assert _io.digest(tmp_path / "a" / "1") == _io.digest(tmp_path / "b" / "1") != _io.digest(tmp_path / "a" / "2")


def test_json_is_made_for_people(tmp_path: Path) -> None:
    _io.write_json(tmp_path / "a.json", {"b": "ü", "a": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == json.dumps({"b": "ü", "a": [1]}, indent=2, ensure_ascii=False) + "\n"
