"""Files are written whole or not at all."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit import _io
from mixbit.errors import MixbitError, PolicyError

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


def test_json_is_made_for_people(tmp_path: Path) -> None:
    _io.write_json(tmp_path / "a.json", {"b": "ü", "a": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == json.dumps({"b": "ü", "a": [1]}, indent=2, ensure_ascii=False) + "\n"
