"""A file of pieces: what is in it after kills, torn lines, other settings and several writers."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import stat
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit import _distributed, _io
from mixbit.errors import FileError, MixbitError, StaleRun
from mixbit.ledger import Ledger, check_settings, content_of

SETTINGS: dict[str, Any] = {"images": 8, "bits": (2, 4), "data": {"seed": 0, "name": "digits"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "pieces.jsonl"


def opened(path: Path | None, **changed: Any) -> Ledger:
    return Ledger(path, "pieces", {**SETTINGS, **changed})


FORK = multiprocessing.get_context("fork")
"""The libraries are imported already."""


# --------------------------------------------------------------------------------------------- what goes in comes out

VALUES: list[Any] = [
    0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, 2**70, True, None, "", "ü\n\u2028\ud800",
    [], {}, [[1.5, [None]], {"a": {"b": math.inf}}],
]  # fmt: skip


def test_values_come_back_exactly(path: Path) -> None:
    ledger = opened(path)
    for number, value in enumerate(VALUES):
        assert ledger.put(str(number), value) == value
    again = opened(path)
    assert [*again] == [str(number) for number in range(len(VALUES))] and len(again) == len(VALUES)
    for number, value in enumerate(VALUES):
        assert again[str(number)] == value and type(again[str(number)]) is type(value)
    assert math.copysign(1, again["4"]) == -1


def test_nan_comes_back_and_the_file_is_strict_json(path: Path) -> None:
    opened(path).put("a", {"loss": [math.nan, math.inf], "deep": ({"x": -math.inf},)})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["format", "of", "settings", "version"], ["key", "value"]]
    found = opened(path)["a"]
    assert math.isnan(found["loss"][0]) and found["loss"][1] == math.inf and found["deep"] == [{"x": -math.inf}]


def test_the_run_that_puts_a_value_in_sees_it_as_a_later_one_does(path: Path) -> None:
    """Else a killed run would end otherwise than one that was not."""
    ledger = opened(path)
    assert ledger.put("a", {"shape": (1, 2), 3: "x"}) == {"shape": [1, 2], "3": "x"} == ledger["a"] == opened(path)["a"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_caller_that_changes_what_it_got_changes_nothing_here(path: Path, on_disk: bool) -> None:
    """Neither what is known now nor what a file that is written anew gets of it."""
    mine: dict[str, Any] = {"loss": [0.5, [math.inf]], "of": {"images": 8}}
    as_it_was = json.loads(json.dumps(mine))
    ledger = opened(path if on_disk else None)
    got = [ledger.put("a", mine), ledger["a"], ledger.get("a"), *ledger.values(), dict(ledger.items())["a"]]
    for one in (mine, *got):
        one["loss"][1].append(0)
        one["loss"].append(1)
        one["of"]["images"] = 9
        assert ledger["a"] == as_it_was
    assert "a" in ledger and "b" not in ledger and 1 not in ledger
    if on_disk:
        path.unlink()
        ledger.put("b", 1)
        assert dict(opened(path)) == {"a": as_it_was, "b": 1}


@pytest.mark.parametrize("key", ["", "ключ/層", "a\nb", '"quoted"', "\udcff", "$float"])
def test_any_text_is_a_key(path: Path, key: str) -> None:
    opened(path).put(key, 1)
    assert dict(opened(path)) == {key: 1}


def test_the_last_value_of_a_key_counts_and_an_equal_one_writes_nothing(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", [1, math.nan])
    size = path.stat().st_size
    ledger.put("a", (1, math.nan))
    opened(path).put("a", [1, math.nan])
    assert path.stat().st_size == size
    ledger.put("a", 2)
    ledger.put("b", 3)
    assert dict(opened(path)) == {"a": 2, "b": 3} and path.read_bytes().count(b"\n") == 4


def test_a_piece_that_is_forgotten_is_measured_again(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", 1)
    ledger.put("b", 2)
    ledger.forget("a")
    ledger.forget("c")
    assert dict(ledger) == dict(opened(path)) == {"b": 2}
    ledger.put("a", 1)
    assert dict(ledger) == dict(opened(path)) == {"b": 2, "a": 1}
    path.unlink()
    ledger.forget("b")  # what is written anew has it no more
    assert dict(opened(path)) == {"a": 1}


def test_without_a_file_it_holds_what_was_put_in() -> None:
    ledger = opened(None)
    ledger.put("a", (1,))
    ledger.put("b", 1)
    ledger.forget("b")
    ledger.finish()
    assert dict(ledger) == {"a": [1]}


def test_no_file_before_the_first_piece_and_none_when_it_is_finished(path: Path) -> None:
    ledger = opened(path)
    assert not path.parent.exists()
    ledger.put("a", 1)
    assert opened(path)["a"] == 1
    ledger.finish()
    ledger.finish()
    assert not path.exists() and ledger["a"] == 1


def test_a_ledger_that_was_removed_is_written_anew_with_all_that_is_known(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", math.nan)
    path.unlink()
    ledger.put("b", 2)
    assert list(opened(path)) == ["a", "b"]


def test_a_record_is_read_by_its_annotations(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", {"x": [1.5]})
    assert ledger.read("a", dict[str, list[float]]) == {"x": [1.5]}
    with pytest.raises(MixbitError, match=r"pieces.jsonl, key 'a', is not what mixbit wrote: 'x'.* Remove that line"):
        ledger.read("a", dict[str, int])
    with pytest.raises(KeyError):
        ledger.read("b", int)


def circular() -> list[Any]:
    found: list[Any] = [math.nan]
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("a", object(), "value of 'a' has no JSON form: Object of type object .* Legal: numbers, text"),
        ("a", {(1, 2): 3}, "value of 'a' has no JSON form: keys must be str"),
        ("a", circular(), "value of 'a' has no JSON form"),
        ("a", {1: 2, "1": 3}, "has the key '1' twice"),
        ("a", {"$float": "nan"}, "as a key, which stands for NaN and infinities"),
        pytest.param("a", 10**5000, "value of 'a' has no JSON form", id="many digits"),
        (5, 1, "key 5 is a int. Legal: text"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(path: Path, key: Any, value: Any, message: str) -> None:
    ledger = opened(path)
    ledger.put("a", 1)
    before = path.read_bytes()
    with pytest.raises(MixbitError, match=message):
        ledger.put(key, value)
    assert path.read_bytes() == before and dict(ledger) == {"a": 1}


def test_many_entries_are_read_in_one_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(path).put("0", 0.5)
    with path.open("ab") as file:
        file.writelines(b'{"key": "%d", "value": %d.5}\n' % (number, number) for number in range(1, 20_000))
    calls, parse = [], _io.parse_json
    monkeypatch.setattr(_io, "parse_json", lambda text, **named: calls.append(len(text)) or parse(text, **named))  # type: ignore[func-returns-value]
    found = opened(path)
    assert [found[str(number)] for number in range(20_000)] == [number + 0.5 for number in range(20_000)]
    assert len(calls) == 2  # the settings, and all lines


# ------------------------------------------------------------------------------------------------- other settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 9}, "was begun with images=8, now images=9. Give the old value .* or remove the file"),
        ({"bits": (2, 8)}, r"was begun with bits=\[2, 4\], now bits=\[2, 8\]"),
        ({"data": {"seed": 1, "name": "digits"}}, r"was begun with data\.seed=0, now data\.seed=1"),
        ({"data": {"seed": 0}}, r"was begun with data\.name='digits', now data\.name=None"),
        ({"data": {}}, r"was begun with data={'seed': 0, 'name': 'digits'}, now data={}"),
        ({"data": None}, r"was begun with data={'seed': 0, 'name': 'digits'}, now data=None"),
        ({"more": 1}, "was begun with more=None, now more=1"),
    ],
)
def test_other_settings_are_refused_by_the_key_that_differs(path: Path, changed: Any, message: str) -> None:
    opened(path).put("a", 1)
    before = path.read_bytes()
    with pytest.raises(StaleRun, match=message):
        opened(path, **changed)
    assert path.read_bytes() == before


def test_settings_are_compared_as_they_come_back(path: Path) -> None:
    """In any order, tuples as lists, NaN as itself."""
    Ledger(path, "pieces", {"a": (1, 2), "b": math.nan, "c": [math.nan]}).put("x", 1)
    again = Ledger(path, "pieces", {"c": (math.nan,), "b": math.nan, "a": [1, 2]})
    again.put("y", 2)
    assert list(Ledger(path, "pieces", {"a": (1, 2), "b": math.nan, "c": [math.nan]})) == ["x", "y"]


def test_one_that_was_begun_meanwhile_with_other_settings_is_refused(path: Path) -> None:
    ledger = opened(path)
    opened(path, images=9).put("a", 1)
    with pytest.raises(StaleRun, match="images=9, now images=8"):
        ledger.put("b", 2)
    assert dict(opened(path, images=9)) == {"a": 1} and not ledger


def test_a_key_that_one_side_lacks_is_other_settings() -> None:
    with pytest.raises(
        StaleRun, match="a was begun with y=1, now y=None. Give the old value to go on with it, or wait"
    ):
        check_settings("a", {"x": 0, "y": 1}, {"x": 0}, "wait")
    check_settings("a", {"x": {"y": 1}}, {"x": {"y": 1}}, "wait")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "holds no pieces of this mixbit: its first line is '{}'. Remove it to begin anew"),
        (b'{\n  "facts": {}\n}\n', "its first line is '{'"),
        (b"\x00\xff\n", "its first line is"),
        (b"\0" * 50, "its first line is"),
        (b'{"format": "mixbit-ledger", "version": 2, "of": "pieces", "settings": {}}\n', "'version' is 2, legal is 1"),
        (b'{"format": "mixbit-ledger", "version": 1, "of": "rows", "settings": {}}\n', "'of' is 'rows', legal"),
        (b'{"format": "mixbit-ledger", "version": 1, "of": "pieces", "settings": 3}\n', "its first line is"),
    ],
)
def test_files_of_others_are_refused_and_stay(path: Path, content: bytes, message: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StaleRun, match=message):
        opened(path)
    assert path.read_bytes() == content


def test_a_file_of_others_that_came_meanwhile_stays(path: Path) -> None:
    ledger = opened(path)
    path.parent.mkdir()
    path.write_bytes(b"no ledger")
    with pytest.raises(StaleRun, match="holds no pieces"):
        ledger.put("a", 1)
    assert path.read_bytes() == b"no ledger"


def test_the_file_of_an_older_version_is_refused(path: Path) -> None:
    old = path.with_name("pieces.json")
    path.parent.mkdir()
    old.write_text("{}")
    with pytest.raises(StaleRun, match=r"pieces\.json holds pieces as an older mixbit kept them. Remove it"):
        Ledger(path, "pieces", {}, before=[path.with_name("older.json"), old])
    old.unlink()
    Ledger(path, "pieces", {}, before=[path.with_name("older.json"), old]).put("a", 1)


@pytest.mark.parametrize(
    "line", [b"[]", b"3", b'{"key": 1, "value": 2}', b'{"key": "a", "values": 1}', b"{", b"", b"\xff", b"1,2"]
)
def test_a_line_in_the_middle_that_nobody_wrote_is_named(path: Path, line: bytes) -> None:
    opened(path).put("a", 1)
    with path.open("ab") as file:
        file.write(line + b'\n{"key": "b", "value": 2}\n')
    with pytest.raises(MixbitError, match=r"pieces.jsonl, line 3, is .* Remove that line, and it is measured"):
        opened(path)


# --------------------------------------------------------------------------------------------------- torn lines


def test_a_last_line_torn_at_any_byte_is_left_out_told_and_written_anew(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", 1)
    begun = path.stat().st_size
    ledger.put("b", {"x": [0.1, math.nan], "y": "é"})
    whole = path.read_bytes()
    for cut in range(begun + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match=r"pieces\.jsonl: the last line was cut off .* left out, and written anew"):
            torn = opened(path)
        assert dict(torn) == {"a": 1}
        torn.put("b", {"x": [0.1, math.nan], "y": "é"})
        assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(opened(path)) == ["a", "b"]


def test_a_first_line_that_was_torn_is_a_file_that_was_not_begun(path: Path) -> None:
    opened(path).put("a", 1)
    whole = path.read_bytes()
    for cut in range(0, whole.index(b"\n") + 1, 9):
        path.write_bytes(whole[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ledger = opened(path)
        assert not ledger
        ledger.put("a", 1)
        assert path.read_bytes() == whole


def test_a_line_that_another_writer_left_torn_meanwhile_is_taken_away(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", 1)
    with path.open("ab") as file:
        file.write(b'{"key": "b", "value": "longer than what is written in its place')
    ledger.put("c", 3)
    assert dict(opened(path)) == {"a": 1, "c": 3}
    assert path.read_bytes().endswith(b'{"key": "c", "value": 3}\n')


def test_a_full_disk_leaves_file_and_ledger_as_they_were(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(path)
    ledger.put("a", 1)
    before = path.read_bytes()

    def half(file: Any, content: bytes) -> None:
        file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mixbit.ledger._write", half)
        with pytest.raises(FileError, match="No space left on device. Free some space"):
            ledger.put("b", 2)
    assert path.read_bytes() == before and dict(ledger) == {"a": 1}
    ledger.put("b", 2)
    assert dict(opened(path)) == {"a": 1, "b": 2}


def test_a_short_write_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take a part of a line, as signals and network folders make it."""
    real = _io.locked

    class Few:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, content: Any) -> int:
            return int(self.file.write(content[:7]))

    class Locked:
        def __init__(self, path: Path) -> None:
            self.context = real(path)

        def __enter__(self) -> Few:
            return Few(self.context.__enter__())

        def __exit__(self, *error: Any) -> None:
            self.context.__exit__(*error)

    monkeypatch.setattr(_io, "locked", Locked)
    opened(path).put("a", list(range(50)))
    assert opened(path)["a"] == list(range(50))


def write_without_end(path: Path, told: Any) -> None:
    ledger = opened(path)
    for number in range(len(ledger), 10**6):
        ledger.put(str(number), [number / 3] * 200)
        told.send(number)


def test_killed_while_it_writes_and_begun_again(path: Path) -> None:
    """kill -9 at any moment: all that `put` returned from is there, in order and whole."""
    known = 0
    for wait in (0.0, 0.02, 0.05):
        listen, told = FORK.Pipe(duplex=False)
        process = FORK.Process(target=write_without_end, args=(path, told))
        process.start()
        told.close()
        last = listen.recv()
        assert last == known  # it goes on where the one before was killed
        time.sleep(wait)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while listen.poll():
            try:
                last = listen.recv()
            except EOFError:
                break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = opened(path)
        known = len(found)
        assert known > last
        assert dict(found) == {str(number): [number / 3] * 200 for number in range(known)}


# -------------------------------------------------------------------------------------------------- several writers


def write_own(path: Path, name: str, begin: Any) -> None:
    ledger = opened(path)
    begin.wait()
    for number in range(200):
        ledger.put(f"{name}{number}", [name * 100, number])


def test_two_processes_fill_one_file(path: Path) -> None:
    begin = FORK.Barrier(2)
    processes = [FORK.Process(target=write_own, args=(path, name, begin)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert dict(opened(path)) == {f"{name}{number}": [name * 100, number] for name in "ab" for number in range(200)}
    assert path.read_bytes().count(b"\n") == 401


def remove_and_hold(path: Path, begin: Any) -> None:
    with _io.locked(path):
        begin.wait()
        time.sleep(0.1)
        path.unlink()


def test_a_writer_that_waited_for_a_file_that_is_gone_makes_it_anew(path: Path) -> None:
    ledger = opened(path)
    ledger.put("a", 1)
    begin = FORK.Barrier(2)
    process = FORK.Process(target=remove_and_hold, args=(path, begin))
    process.start()
    begin.wait()
    ledger.put("b", 2)
    process.join()
    assert dict(opened(path)) == {"a": 1, "b": 2}


def test_a_reader_waits_for_a_line_that_is_being_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(path).put("a", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    real = _io.locked

    def ends_the_line(where: Path) -> Any:
        path.write_bytes(whole)
        return real(where)

    monkeypatch.setattr(_io, "locked", ends_the_line)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dict(opened(path)) == {"a": 1}


def test_only_the_first_process_of_a_run_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(_distributed, "rank", lambda: 1)
        ledger = opened(path)
        assert ledger.put("a", (1,)) == [1] and dict(ledger) == {"a": [1]}
        assert not path.exists()
    ledger = opened(path)
    ledger.put("a", 1)
    with monkeypatch.context() as patched:
        patched.setattr(_distributed, "rank", lambda: 1)
        ledger.forget("a")
        ledger.finish()
    assert "a" not in ledger and list(opened(path)) == ["a"]


def test_all_processes_of_a_run_see_the_file_of_the_first(two_processes: dict[str, Any]) -> None:
    for rank in ("0", "1"):
        found = two_processes[rank]["kept"]
        assert found["before"] == {} and found["after"] == {"a": [0, 0.1]}
        assert "kept.jsonl was begun with images=8, now images=9" in found["refused"]
    assert not (two_processes["folder"] / "1" / "kept.jsonl").exists()


def test_a_ledger_is_as_readable_as_other_files(path: Path) -> None:
    old = os.umask(0o027)
    try:
        opened(path).put("a", 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_lies_at_the_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(StaleRun, match="it is a folder. Give a file"):
        opened(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "a")
    with pytest.raises(StaleRun, match="No file at"):
        opened(tmp_path / "link")


def test_pieces_reach_the_disk_at_once_or_within_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    synced: list[int] = []
    monkeypatch.setattr("mixbit.ledger.time.monotonic", lambda: now[0])
    monkeypatch.setattr("mixbit.ledger.os.fsync", synced.append)
    ledger = opened(path)
    counts = []
    for moment in (0.0, 0.4, 0.9, 1.0, 1.5, 5.0):
        now[0] = moment
        ledger.put(str(moment), 1)
        counts.append(len(synced))
    assert [after - before for before, after in zip([counts[0], *counts], counts, strict=False)] == [0, 0, 0, 1, 0, 1]
    assert counts[0] >= 1


# ---------------------------------------------------------------------------------------------------------- content


def test_content_is_types_shapes_and_values_wherever_they_lie() -> None:
    values = torch.arange(6, dtype=torch.float32)
    one = content_of([values])
    assert one == content_of([values.clone()]) == content_of([torch.stack([values, values], dim=1)[:, 0]])
    others = [
        [values + 1], [values.view(2, 3)], [values.double()], [values, values], [], [values[:3], values[3:]],
        [values.view(torch.int32)], [torch.tensor(0.0)], [torch.zeros(0, dtype=torch.bool)], [values.bfloat16()],
    ]  # fmt: skip
    assert len({one, *map(content_of, others)}) == len(others) + 1
