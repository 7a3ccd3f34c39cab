"""Rows of result files: made once, reused by their key alone, each with its own maker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


def results(folder: Path, **changes: Any) -> records.Results:
    return records.Results("speed", folder=folder, **{"libraries": ("numpy",), "settings": {"rounds": 3}, **changes})


def quiet(_: str) -> None:
    pass


def made(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    return records.maker(records.read("speed", folder=folder), row)


def count(calls: list[int]) -> dict[str, Any]:
    calls.append(1)
    return {"ms": len(calls)}


# ------------------------------------------------------------------------------------------------ reuse by the key


@pytest.mark.parametrize("change", ["settings", "inputs", "libraries", "fresh", "name"])
def test_a_row_is_reused_only_where_its_key_is_the_same(folder: Path, tmp_path: Path, change: str) -> None:
    weights, calls = tmp_path / "weights", list[int]()
    weights.write_bytes(b"one")
    results(folder, inputs={"weights": weights}).row({"case": "a"}, lambda: count(calls), tell=quiet)
    again = results(folder, inputs={"weights": weights}).row({"case": "a"}, lambda: count(calls), tell=quiet)
    assert (again["ms"], len(calls)) == (1, 1)
    if change == "inputs":
        weights.write_bytes(b"two")
    other = {"settings": {"rounds": 4}} if change == "settings" else {}
    other |= {"libraries": ("numpy", "scipy")} if change == "libraries" else {}
    other |= {"fresh": True} if change == "fresh" else {}
    of = {"case": "b" if change == "name" else "a"}
    row = results(folder, inputs={"weights": weights}, **other).row(of, lambda: count(calls), tell=quiet)
    assert (row["ms"], len(calls)) == (2, 2)
    assert len(records.read("speed", folder=folder)["rows"]) == (1 if change == "fresh" else 2)


def test_fresh_rows_are_made_once_in_a_process(folder: Path) -> None:
    calls, fresh = list[int](), results(folder, fresh=True)
    for _ in range(3):
        fresh.row({"case": "a"}, lambda: count(calls), tell=quiet)
    assert len(calls) == 1


def test_a_deleted_row_alone_is_made_and_the_others_keep_their_maker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "commit", lambda: {"commit": "first", "uncommitted": False})
    for case in "abc":
        results(folder).row({"case": case}, lambda: {"ms": 1}, tell=quiet)
    found = records.read("speed", folder=folder)
    found["rows"] = [row for row in found["rows"] if row["case"] != "b"]
    records._write("speed", found, folder=folder)
    monkeypatch.setattr(records, "commit", lambda: {"commit": "second", "uncommitted": True})
    said: list[str] = []
    names = [{"case": case} for case in "abc"]
    assert results(folder).plan(names, tell=said.append) == [{"case": "b"}]
    assert said == ["speed.json: 2 rows are reused, 1 are made.", "  to make: case=b"]
    rows = [results(folder).row(of, lambda: {"ms": 2}, tell=said.append) for of in names]
    assert [made(folder, row)["commit"] for row in rows] == ["first", "second", "first"]
    assert [made(folder, row)["uncommitted"] for row in rows] == [False, True, False]
    assert [row["ms"] for row in rows] == [1, 2, 1]
    assert [line.partition(":")[0] for line in said[2:]] == ["reused", "made", "reused"]
    assert "of first" in said[2]


def test_a_row_killed_in_the_middle_leaves_the_file_as_it_was(folder: Path) -> None:
    results(folder).row({"case": "a"}, lambda: {"ms": 1}, tell=quiet)
    before = (folder / "speed.json").read_bytes()

    def killed() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results(folder).row({"case": "b"}, killed, tell=quiet)
    assert (folder / "speed.json").read_bytes() == before
    assert results(folder).plan([{"case": case} for case in "ab"], tell=quiet) == [{"case": "b"}]
    assert results(folder).row({"case": "b"}, lambda: {"ms": 2}, tell=quiet)["ms"] == 2
    assert [row["ms"] for row in records.read("speed", folder=folder)["rows"]] == [1, 2]


def test_a_process_killed_in_mid_row_leaves_the_file_and_the_next_makes_the_row(folder: Path) -> None:
    """By a signal that nothing can catch, between the first row and the end of the second."""
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import records; from pathlib import Path\n"
        "own = records.Results('speed', folder=Path(sys.argv[2]), libraries=('numpy',), settings={'rounds': 3})\n"
        "own.row({'case': 'a'}, lambda: {'ms': 1}, tell=len)\n"
        "own.row({'case': 'b'}, lambda: os.kill(os.getpid(), signal.SIGKILL), tell=len)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ROOT / "benchmarks"), str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["case"] for row in records.read("speed", folder=folder)["rows"]] == ["a"]
    said: list[str] = []
    for case in "ab":
        results(folder).row({"case": case}, lambda: {"ms": 2}, tell=said.append)
    assert [line.partition(":")[0] for line in said] == ["reused", "made"]


def test_two_rows_of_one_key_that_differ_are_told_before_anything_is_made(folder: Path) -> None:
    for case in "ab":
        results(folder).row({"case": case}, lambda: {"ms": 1}, tell=quiet)
    found = records.read("speed", folder=folder)
    records._write("speed", {**found, "rows": [*found["rows"], {**found["rows"][0], "ms": 5}]}, folder=folder)
    said: list[str] = []
    assert results(folder).plan([{"case": "a"}, {"case": "b"}], tell=said.append) == []
    (line,) = (line for line in said if "differ" in line)
    assert "case=a, ms=1" in line
    assert results(folder).row({"case": "a"}, lambda: {"ms": 9}, tell=quiet)["ms"] == 1
    assert [row["ms"] for row in records.read("speed", folder=folder)["rows"]] == [1, 1, 5], "both are kept"


def test_two_processes_share_the_rows(folder: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import records; from pathlib import Path\n"
        "own = records.Results('speed', folder=Path(sys.argv[2]), libraries=())\n"
        "for n in range(20): own.row({'case': f'{sys.argv[3]}{n}'}, lambda: {'ms': n}, tell=len)\n"
    )
    words = [sys.executable, "-c", script, str(ROOT / "benchmarks"), str(folder)]
    both = [subprocess.Popen([*words, name]) for name in "xy"]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(records.read("speed", folder=folder)["rows"]) == 40


# ------------------------------------------------------------------------------------------------------ the maker


def test_a_maker_says_all_that_is_asked_of_it(folder: Path) -> None:
    row = results(folder, libraries=("torch", "numpy")).row({"case": "a", "seed": 3}, lambda: {"ms": 1}, tell=quiet)
    found = made(folder, row)
    assert row["seed"] == 3 and found["settings"] == {"rounds": 3}
    assert set(found["versions"]) == {"torch", "numpy"} and "+" not in found["versions"]["torch"]
    assert {"cpu", "flags", "cores", "python", "load"} <= set(found["machine"])
    assert isinstance(found["uncommitted"], bool) and found["command"].startswith("python ")


def test_changes_of_the_code_mark_a_result_and_results_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *words], cwd=tmp_path, check=True)

    (tmp_path / "src").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "src" / "a.py").write_text("1")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        git(*words)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    (tmp_path / "benchmarks" / "results" / "speed.json").write_text("{}")
    assert records.commit()["uncommitted"] is False
    (tmp_path / "src" / "a.py").write_text("2")
    assert records.commit()["uncommitted"] is True
    monkeypatch.setattr(records, "ROOT", tmp_path / "src")
    (tmp_path / ".git").rename(tmp_path / "gone")
    assert records.commit() == {"commit": "unknown", "uncommitted": True}


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
    assert records.digest(tmp_path / "a") == records.digest(tmp_path / "b")
    (tmp_path / "b" / "x").write_text("2")
    assert records.digest(tmp_path / "a") != records.digest(tmp_path / "b")
    (tmp_path / "b" / "x").write_text("1")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    assert records.digest(tmp_path / "a") != records.digest(tmp_path / "b")


# -------------------------------------------------------------------------------------------- older files, merging


def test_a_file_of_the_older_form_is_read_with_its_header_as_maker(folder: Path) -> None:
    folder.mkdir()
    old = {
        "command": "python x",
        "commit": "abc+",
        "seed": 0,
        "machine": {"cpu": "z"},
        "rows": [{"case": "a", "ms": 1}],
    }
    (folder / "speed.json").write_text(json.dumps(old))
    found = records.read("speed", folder=folder)
    assert records.maker(found, found["rows"][0]) == {
        "command": "python x", "commit": "abc", "uncommitted": True, "seed": 0, "machine": {"cpu": "z"}, "by": "file",
    }  # fmt: skip
    calls: list[int] = []
    results(folder).row({"case": "a"}, lambda: count(calls), tell=quiet)
    assert calls == [1], "a row without a key was reused"
    assert [made(folder, row).get("by") for row in records.read("speed", folder=folder)["rows"]] == ["file", None]


def test_merging_keeps_every_rows_maker_and_tells_rows_that_differ(folder: Path) -> None:
    here, there = folder / "here", folder / "there"
    for place, cases in ((here, "ab"), (there, "bc")):
        for case in cases:
            results(place).row({"case": case}, lambda place=place: {"ms": place.name}, tell=quiet)
    both = records.merged(records.read("speed", folder=here), records.read("speed", folder=there))
    assert [(row["case"], row["ms"]) for row in both["rows"]] == [
        ("a", "here"),
        ("b", "here"),
        ("b", "there"),
        ("c", "there"),
    ]
    ((one, other),) = records.conflicts(both)
    assert (one["ms"], other["ms"]) == ("here", "there")
    assert {row["made"] for row in both["rows"]} <= set(range(len(both["made"])))
    assert records.merged(both, both)["rows"] == both["rows"]


def test_makers_without_rows_are_dropped(folder: Path) -> None:
    results(folder).row({"case": "a"}, lambda: {"ms": 1}, tell=quiet)
    results(folder, fresh=True).row({"case": "a"}, lambda: {"ms": 2}, tell=quiet)
    found = records.read("speed", folder=folder)
    assert len(found["made"]) == 1 and found["rows"][0]["made"] == 0


# ----------------------------------------------------------------------------------------- parts that are no rows


def test_parts_keep_their_makers_until_they_change(folder: Path) -> None:
    def maker_of(path: str) -> int:
        found = records.read("kure", folder=folder)
        return int(records.maker(found, path)["seed"])

    one, two = {"a": {"x": 1}, "b": {"x": 2}}, {"a": {"x": 1}, "b": {"x": 3}}
    records.save("kure", {"networks": one, "cost": 5, "rows": [{"n": 1}]}, seed=0, folder=folder)
    records.save("kure", {"networks": two, "cost": 5, "rows": [{"n": 1}, {"n": 2}]}, seed=1, folder=folder)
    assert [maker_of(path) for path in ("networks.a", "networks.b", "cost")] == [0, 1, 0]
    found = records.read("kure", folder=folder)
    assert [records.maker(found, row)["seed"] for row in found["rows"]] == [0, 1]
    records.save("kure", {"search": 7}, others=True, seed=2, folder=folder)
    assert [maker_of(path) for path in ("networks.a", "networks.b", "cost", "search")] == [0, 1, 0, 2]
    records.save("kure", {"search": 7}, seed=3, folder=folder)
    assert set(records.read("kure", folder=folder)) - {*records.HEAD} == {"search"}
    assert maker_of("search") == 2


def test_parts_of_an_older_file_are_made_by_its_header(folder: Path) -> None:
    folder.mkdir()
    old = {"command": "python x", "commit": "abc", "seed": 0, "machine": {}, "networks": {"a": {"x": 1}}, "cost": 5}
    (folder / "kure.json").write_text(json.dumps(old))
    records.save("kure", {"networks": {"a": {"x": 1}, "b": {"x": 2}}, "cost": 6}, seed=1, folder=folder)
    found = records.read("kure", folder=folder)
    assert records.maker(found, "networks.a")["by"] == "file"
    assert [records.maker(found, path).get("by") for path in ("networks.b", "cost")] == [None, None]


def test_merging_parts(folder: Path) -> None:
    for name, parts in (("one", {"a": 1, "b": 1}), ("other", {"b": 2})):
        records.save(name, parts, seed=name, folder=folder)
    both = records.merged(*(records.read(name, folder=folder) for name in ("one", "other")))
    assert (both["a"], both["b"]) == (1, 2)
    assert [records.maker(both, path)["seed"] for path in "ab"] == ["one", "other"]


def test_smoke_is_written_elsewhere_and_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "SMOKE", tmp_path / "smoke")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    own = records.Results("speed", libraries=(), smoke=True)
    row = own.row({"case": "a"}, lambda: {"ms": 1}, tell=quiet)
    own.facts(total=3)
    found = records.read("speed", folder=tmp_path / "smoke")
    assert records.maker(found, row)["smoke"] is True and records.maker(found, "total")["smoke"] is True
    assert not (tmp_path / "results").exists()


def test_a_part_is_one_measurement_with_a_key_and_a_maker(folder: Path) -> None:
    """Variants that took turns are replaced together or not at all."""
    calls: list[int] = []

    def both() -> dict[str, Any]:
        calls.append(1)
        return {"float": {"ms": 390}, "W4A4": {"ms": 390 + len(calls)}}

    for settings, wanted in (({"rounds": 3}, 391), ({"rounds": 3}, 391), ({"rounds": 4}, 392)):
        found = results(folder, settings=settings).part("eager", both, tell=quiet)
        assert found["W4A4"]["ms"] == wanted
    content = records.read("speed", folder=folder)
    assert content["eager"]["W4A4"]["ms"] == 392 and len(content["made"]) == 1
    for path in ("eager.float", "eager.W4A4"):
        assert records.maker(content, path)["settings"] == {"rounds": 4}
    fresh = results(folder, settings={"rounds": 4}, fresh=True)
    assert [fresh.part("eager", both, tell=quiet)["W4A4"]["ms"] for _ in range(2)] == [393, 393]


def test_a_part_that_is_a_list_of_rows_is_one_measurement_too(folder: Path) -> None:
    here, there = folder / "here", folder / "there"
    for place, values in ((here, (1, 2)), (there, (3,))):
        own = results(place, settings={"of": place.name})
        for _ in range(2):
            found = own.part("profile", lambda values=values: [{"ms": ms} for ms in values], tell=quiet)
        assert [row["ms"] for row in found] == [*values]
    both = records.merged(records.read("speed", folder=here), records.read("speed", folder=there))
    assert [row["ms"] for row in both["profile"]] == [3] and len(both["made"]) == 1
    assert records.maker(both, both["profile"][0])["settings"] == {"of": "there"}


def test_rows_stand_in_the_order_of_the_plan(folder: Path) -> None:
    names = [{"case": case} for case in ("c", "a", "d", "b")]
    for chosen in ([names[2]], [names[0], names[3]], names):
        own = results(folder, fresh=len(chosen) == 1)
        own.plan(names, tell=quiet)
        for of in chosen:
            own.row(of, lambda: {"ms": 1}, tell=quiet)
        own.row({"case": "z"}, lambda: {"ms": 1}, tell=quiet)
    alone = results(folder, settings={"rounds": 4})
    alone.plan(names[1:2], tell=quiet)
    alone.row(names[1], lambda: {"ms": 2}, tell=quiet)
    rows = records.read("speed", folder=folder)["rows"]
    assert [(row["case"], row["ms"]) for row in rows] == [("c", 1), ("a", 1), ("a", 2), ("d", 1), ("b", 1), ("z", 1)]


def test_tables_see_the_row_that_was_made_last(folder: Path) -> None:
    for rounds, ms in ((3, 1), (4, 2)):
        own = results(folder, settings={"rounds": rounds})
        own.row({"case": "a", "seed": 0}, lambda ms=ms: {"ms": ms}, tell=quiet)
        own.row({"case": "b", "bits": [rounds]}, lambda ms=ms: {"ms": ms}, tell=quiet)
    found = records.read("speed", folder=folder)
    assert found["names"] == {"rows": ["case", "seed", "bits"]} and len(found["rows"]) == 4
    rows = records.current(found)["rows"]
    assert [(row["case"], row["ms"]) for row in rows] == [("a", 2), ("b", 1), ("b", 2)]
    assert records.current(records.merged(found, found)) == records.current(found)


def test_a_group_is_replaced_as_a_whole(folder: Path) -> None:
    """Solvers that took turns: where one of them is missing, or was made apart, all are measured again."""
    calls: list[int] = []
    names = [{"case": "a", "solver": solver} for solver in ("ours", "theirs")]

    def both() -> list[dict[str, Any]]:
        calls.append(1)
        return [{"ms": len(calls)}, {"ms": len(calls)}]

    assert [row["ms"] for row in results(folder).group(names, both, tell=quiet)] == [1, 1]
    assert [row["ms"] for row in results(folder).group(names, both, tell=quiet)] == [1, 1]
    content = json.loads((folder / "speed.json").read_text())
    content["rows"] = content["rows"][:1]
    (folder / "speed.json").write_text(json.dumps(content))
    assert [row["ms"] for row in results(folder).group(names, both, tell=quiet)] == [2, 2]
    content = json.loads((folder / "speed.json").read_text())
    content["made"].append({**content["made"][0], "commit": "another"})
    content["rows"][0]["made"] = 1
    (folder / "speed.json").write_text(json.dumps(content))
    assert [row["ms"] for row in results(folder).group(names, both, tell=quiet)] == [3, 3]
    assert len(records.read("speed", folder=folder)["rows"]) == 2
    fresh = results(folder, fresh=True)
    assert [row["ms"] for row in fresh.group(names, both, tell=quiet)] == [4, 4]
    assert [row["ms"] for row in fresh.group(names, both, tell=quiet)] == [4, 4]


def test_parts_of_a_dict_have_keys_of_their_own(folder: Path) -> None:
    calls, said = list[int](), list[str]()
    own = results(folder)
    for name in ("net-0.25", "b", "b"):
        own.part(f"networks.{name}", lambda: count(calls), tell=quiet)
    assert records.read("speed", folder=folder)["networks"] == {"net-0.25": {"ms": 1}, "b": {"ms": 2}}
    assert own.plan(["networks.b", "networks.c"], tell=said.append) == ["networks.c"]
    records.save("speed", {"networks": {"b": {"ms": 9}}}, others=True, folder=folder)
    assert own.find("networks.b") is None, "a part that another command changed was reused"
    both = records.merged(records.read("speed", folder=folder), records.read("none", folder=folder))
    assert both["networks"] == {"b": {"ms": 9}} and set(both.get("keys", {})) <= {"networks.b"}


def test_merged_parts_keep_the_keys_of_what_won(folder: Path) -> None:
    here, there = folder / "here", folder / "there"
    for place, rounds in ((here, 3), (there, 4)):
        results(place, settings={"rounds": rounds}).part(f"nets.{place.name}", lambda: {"ms": 1}, tell=quiet)
        for path in ("a", place.name):
            results(place, settings={"rounds": rounds}).part(path, lambda rounds=rounds: rounds, tell=quiet)
    both = records.merged(records.read("speed", folder=here), records.read("speed", folder=there))
    wanted = {"a": 4, "here": 3, "there": 4}
    assert {path: both[path] for path in wanted} == wanted
    assert both["nets"] == {"here": {"ms": 1}, "there": {"ms": 1}}
    assert [records.maker(both, f"nets.{name}")["settings"]["rounds"] for name in both["nets"]] == [3, 4]
    wanted |= {"nets.here": 3, "nets.there": 4}
    keys = {path: results(folder, settings={"rounds": rounds}).key(path) for path, rounds in wanted.items()}
    assert both["keys"] == keys
