"""The machinery of `make mutants`: which mistakes it makes, which it leaves out, what it remembers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mirror import ROOT
from tests.mutants import choice
from tests.mutants.__main__ import main, report
from tests.mutants.choice import area_of, changed_lines, lines_of_diff, named_files, shares
from tests.mutants.ledger import Ledger, as_toml, judged, listed, stamp
from tests.mutants.mutant import Mutant, between, is_legal, scopes
from tests.mutants.server import OWN_ERROR
from tests.mutants.sites import apply, mutant_at, sites
from tests.mutants.survey import RedBaseline, Survey, Trial
from tests.mutants.workshop import Outcome, Workshop
from tests.needs import needs

SOURCE = '''"""A toy. 1 + 1."""
from __future__ import annotations
from dataclasses import dataclass

__all__ = ["Clip", "far"]
LIMIT: int | None = 5

@dataclass(frozen=True)
class Clip:
    low: int = 0

    def cut(self, x: int, high: int | None = None) -> int:
        if x < self.low:
            raise ValueError(f"{x} is {self.low - x} too low")
        return min(max(x, self.low), LIMIT)

    def __repr__(self) -> str:
        return "Clip" + str(self.low + 1)

def far(x: int) -> int:
    return Clip(low=2).cut(x) + 1
'''
TESTS = "from toy import far\n\n\ndef test_far():\n    assert far(9) == 6\n"
OK, FAILED = Outcome(0, 1.0, 1.0, "1 passed"), Outcome(1, 1.0, 1.0, "FAILED tests/test_toy.py::test_far")


# ------------------------------------------------------------------------------------------------------- mutants


@needs("cosmic-ray")
def test_a_key_survives_a_move() -> None:
    moved = SOURCE.replace("LIMIT: int", "# one more line\n\nLIMIT: int")
    keys = [
        {mutant.key for site in sites(text) if (mutant := mutant_at("toy.py", text, site)) is not None}
        for text in (SOURCE, moved)
    ]
    assert keys[0] == keys[1] and len(keys[0]) > 15


@needs("cosmic-ray")
def test_what_is_made_is_what_is_applied() -> None:
    for site in sites(SOURCE):
        mutant = mutant_at("toy.py", SOURCE, site)
        assert mutant is not None and apply(mutant, SOURCE) == site.make()
    assert apply(Mutant("toy.py", "far", "drop", "return 3", "return 4"), SOURCE) is None


@needs("cosmic-ray")
def test_places_that_cannot_matter_are_left_out() -> None:
    found = [mutant_at("toy.py", SOURCE, site) for site in sites(SOURCE)]
    lines = {(mutant.old, mutant.new) for mutant in found if mutant is not None}
    texts = {old for old, _ in lines}
    assert texts == {
        "LIMIT: int | None = 5",
        "low: int = 0",
        "if x < self.low:",
        "return min(max(x, self.low), LIMIT)",
        "return Clip(low=2).cut(x) + 1",
    }
    assert ("return Clip(low=2).cut(x) + 1", "return Clip().cut(x) + 1") in lines
    assert ("return min(max(x, self.low), LIMIT)", "return max(max(x, self.low), LIMIT)") in lines
    assert ("if x < self.low:", "if False:") in lines


@needs("cosmic-ray")
def test_two_equal_lines_are_told_apart() -> None:
    source = "def f(x):\n    x += 1\n    x += 1\n    return x\n"
    found = [mutant for site in sites(source) if (mutant := mutant_at("f.py", source, site)) and mutant.new == "pass"]
    assert [mutant.count for mutant in found] == [0, 1] and len({mutant.key for mutant in found}) == 2
    assert apply(found[1], source) == "def f(x):\n    x += 1\n    pass\n    return x\n"


def test_scopes_and_differences() -> None:
    where = scopes(SOURCE)
    assert where[12] == "Clip.cut" and where[5] == "" and where[-3] == "far"
    assert between("a\nb\nc\nd\n", "a\nX\nc\nY\n") == (1, "b\nc\nd", "X\nc\nY")
    assert is_legal("x = 1\n") and not is_legal("x = = 1\n") and not is_legal("return 1\n")


# -------------------------------------------------------------------------------------------------------- choice


@needs("cosmic-ray")
def test_a_sample_is_seeded_and_a_larger_one_holds_a_smaller() -> None:
    few, again, more = (choice.drawn("toy.py", SOURCE, count, 0) for count in (4, 4, 9))
    assert few == again == more[:4] and len(more) == 9
    assert len({mutant.old for mutant in few}) == 4  # one a line, until the lines are used up
    assert choice.drawn("toy.py", SOURCE, 9, 1) != more
    assert {mutant.old for mutant in choice.drawn("toy.py", SOURCE, 99, 0, {15})} == {
        "return min(max(x, self.low), LIMIT)"
    }


def test_shares_are_by_the_root_and_never_more_than_there_are() -> None:
    assert shares({"a": 100, "b": 25, "c": 1}, 16) == {"a": 10, "b": 5, "c": 1}


def test_areas_cover_what_matters() -> None:
    files = named_files()
    assert {area_of(file) for file in files} == set(choice.AREAS)
    assert area_of("src/mixbit/integer/_grids.py") == "lowering" and area_of("src/mixbit/cli/_app.py") == "others"
    assert not [file for file in files if file.endswith("__init__.py")]


def test_added_lines_of_a_diff() -> None:
    hunks = ["--- a/x.py", "+++ b/x.py", "@@ -3,0 +4,2 @@ def f", "+a", "+b", "@@ -9 +11 @@", "-c", "+d"]
    gone = ["@@ -20,2 +21,0 @@", "-e", "--- a/y.py", "+++ /dev/null", "@@ -1 +0,0 @@", "-z"]
    text = "\n".join([*hunks, *gone])
    assert lines_of_diff(text) == {"x.py": {4, 5, 11}}


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BASE=no-such-branch: .*Legal: a branch, a tag or a commit"):
        changed_lines("no-such-branch")


# -------------------------------------------------------------------------------------------------------- ledger


def test_a_result_holds_until_its_files_change(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("x = 1\n")
    before = stamp([source])
    ledger = Ledger(tmp_path / "state.json")
    ledger.put("mutants", "key", before, FAILED)
    assert Ledger(ledger.path).get("mutants", "key", before) == FAILED
    source.write_text("x = 2\n")
    assert Ledger(ledger.path).get("mutants", "key", stamp([source])) is None
    assert [path.name for path in tmp_path.glob("state*")] == ["state.json"]  # written whole


def test_verdicts_on_survivors(tmp_path: Path) -> None:
    mutant = Mutant("src/mixbit/a.py", "f", "AddNot", 'if "x":\n    y', "if not x:", 1)
    path = tmp_path / "survivors.toml"
    path.write_text(as_toml(mutant))
    with pytest.raises(ValueError, match="no reason"):
        judged(path)
    path.write_text(as_toml(mutant).replace('reason = ""', 'reason = "both are the same"'))
    assert judged(path) == {mutant.key: "both are the same"}
    path.write_text(path.read_text() * 2)
    with pytest.raises(ValueError, match="twice"):
        judged(path)


def test_the_verdicts_and_the_list_of_c_can_be_read() -> None:
    assert all(judged().values())
    assert [key for key in judged() if not (ROOT / key.split(" | ")[0]).is_file()] == []
    assert len({mutant.where for mutant in listed()}) == len(listed())


def test_a_row_of_c_that_is_not_there_once_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("x; x;")
    (tmp_path / "c.toml").write_text('[[mutant]]\nid = "one"\nfile = "a.c"\nold = "x;"\nnew = "y;"\n')
    with pytest.raises(ValueError, match=r"one: 'x;' is 2 times in a\.c"):
        listed(tmp_path / "c.toml", tmp_path)


def test_the_report_counts_by_file_and_names_what_nobody_judged() -> None:
    known, new = Mutant("src/mixbit/a.py", "f", "op", "1", "2"), Mutant("src/mixbit/a.py", "g", "op", "1", "2")
    trials = [Trial(known, OK), Trial(new, OK), Trial(Mutant("src/mixbit/b.py", "", "op", "1", "2"), FAILED)]
    text, open_ones = report(trials, {known.key: "harmless"})
    assert [trial.mutant for trial in open_ones] == [new]
    assert "0 of   2  src/mixbit/a.py" in text and "1 of 3 noticed (33.3 %): 1 by test." in text
    assert "1 survivors are judged harmless, 1 are not judged" in text and text.endswith(new.key)


def test_a_file_that_is_no_source_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"README.md is no source. Legal: .py and .c files under src/mixbit"):
        main(["README.md"])


@needs("cosmic-ray")
def test_changed_lines_are_of_any_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = (ROOT / "src/mixbit/cli/_words.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if 'rpartition("=")' in text)
    monkeypatch.setattr("tests.mutants.__main__.changed_lines", lambda base: {"src/mixbit/cli/_words.py": {line}})
    assert main(["--list"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told and all('rpartition("=")' in text for text in told)
    monkeypatch.setattr("tests.mutants.__main__.changed_lines", lambda base: {})
    assert main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("Nothing to try")


# --------------------------------------------------------------------------------------------- a toy, from end to end


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, text in {"src/toy.py": SOURCE, "tests/test_toy.py": TESTS}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def survey(toy: Path, told: list[str] | None = None) -> Survey:
    return Survey(
        toy.parent / "state",
        workers=1,
        root=toy,
        mirror=lambda _: [toy / "tests" / "test_toy.py"],
        heavy=(),
        tell=[].append if told is None else told.append,
    )


NOTICED = Mutant("src/toy.py", "far", "drop_keyword", "return Clip(low=2).cut(x) + 1", "return Clip().cut(x) + 2")
SURVIVED = Mutant("src/toy.py", "far", "drop_keyword", "return Clip(low=2).cut(x) + 1", "return Clip().cut(x) + 1")
ENDLESS = Mutant("src/toy.py", "far", "op", "return Clip(low=2).cut(x) + 1", "while x: pass")
NOT_IMPORTED = Mutant("src/toy.py", "", "op", "LIMIT: int | None = 5", "LIMIT: int | None = 5 / 0")


def test_one_is_noticed_one_survives_and_nothing_is_tried_twice(toy: Path) -> None:
    told: list[str] = []
    trials = survey(toy, told).run([NOTICED, SURVIVED, NOT_IMPORTED])
    assert [(trial.outcome.verdict, trial.outcome.how) for trial in trials] == [
        ("noticed", "test"),
        ("survived", "0"),
        ("noticed", "import"),
    ]
    assert "test_far" in trials[0].outcome.tail
    assert (toy / "src/toy.py").read_text() == SOURCE and not list((toy.parent / "state").glob("copy*"))
    told.clear()
    assert survey(toy, told).run([NOTICED, SURVIVED, NOT_IMPORTED]) == trials
    assert told == ["3 mutants, 3 known from before."]


def test_a_red_baseline_ends_the_survey(toy: Path) -> None:
    (toy / "tests/test_toy.py").write_text(TESTS.replace("== 6", "== 7"))
    with pytest.raises(RedBaseline, match=r"Mend them first:\n  tests/test_toy\.py: 1, FAILED"):
        survey(toy).run([NOTICED])


def test_a_run_that_never_ends_is_cut_off(toy: Path) -> None:
    shop = Workshop(toy.parent / "copy", toy, heavy=())
    try:
        endless = SOURCE.replace(ENDLESS.old, ENDLESS.new)
        by_cpu = shop.try_out("src/toy.py", endless, ["tests/test_toy.py"], cpu=1, wall=60)
        asleep = endless.replace("pass", "__import__('time').sleep(1)")
        by_wall = shop.try_out("src/toy.py", asleep, ["tests/test_toy.py"], cpu=9, wall=1)
        after = shop.test(["tests/test_toy.py"], cpu=9, wall=60)
    finally:
        shop.close()
    assert (by_cpu.verdict, by_cpu.how) == ("noticed", "time limit") and by_wall.status == "wall"
    assert after.status == 0  # the source is mended again
    assert Outcome(OWN_ERROR, 0, 0, "").status not in range(6)  # never taken for an exit code of pytest
