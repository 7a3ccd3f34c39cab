"""Methods side by side: shared work, reasons instead of aborts, and going on after a kill."""

from __future__ import annotations

import copy
import json
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mixbit import runs
from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError, StaleRun
from mixbit.evaluation import evaluate
from mixbit.methods import Qfa, RandomSearch, registry
from mixbit.metric import average
from mixbit.models import write_weights
from mixbit.policy import Front, LayerScores, Policy, Scores
from mixbit.quantization import QuantizeConfig
from mixbit.runs import Comparison, Effort, Entry, Judged, Row, Subject, compare, comparing, read_comparison
from mixbit.runs._lock import Busy, hold
from mixbit.supernet import SubnetJudge
from mixbit.task import Task
from tests.runs.conftest import squared_error
from tests.support import counted

NET = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12), nn.ReLU(),
        nn.Linear(12, 10),
    )
"""
SETTINGS = {"epochs": 1, "batch_size": 64, "fraction": 0.1, "bn_samples": 0}
LOW, HIGH = "bitops=3x3", "bitops=6x6"


class Calls(Counter[str]):
    """What was done how often, and what is to go wrong."""

    error: BaseException | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Methods `test-a`, `test-b` (the same bits as a) and `test-error`, and a count of searches and trainings."""
    counted = Calls()
    monkeypatch.setattr(registry, "_METHODS", registry._METHODS.copy())

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Fixed:
        step: float = 1.0
        seed: int = 0

        def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
            counted["search"] += 1
            x, _ = next(task.train.batches(8))
            task.model(x)
            curve = {bits: self.step / bits for bits in (8, 4, 2)}
            return Scores(
                fingerprint=task.network.fingerprint,
                method="test",
                seed=self.seed,
                layers={layer.name: LayerScores(weight=curve, activation=curve) for layer in task.network.layers},
            )

    class Wrong(Fixed):
        def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
            counted["wrong"] += 1
            if counted.error is not None:
                raise counted.error
            return Fixed(step=2.0).search(task)

    for name, method, cost in (
        ("test-a", Fixed, "none"),
        ("test-b", Fixed, "forward"),
        ("test-error", Wrong, "training"),
    ):
        registry.register(name, name, source="ours", cost=cost)(method)  # type: ignore[arg-type]

    def train(*arguments: Any, **named: Any) -> runs.Trained:
        counted["train"] += 1
        return runs.train(*arguments, **named)

    monkeypatch.setattr(comparing, "train", train)
    return counted


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    file = tmp_path_factory.mktemp("net") / "net.py"
    file.write_text(NET)
    return Subject(model=f"{file}:build", data="digits")


@pytest.fixture(scope="module")
def task(subject: Subject) -> Task:
    return subject.task()[0]


@pytest.fixture
def arena(subject: Subject, task: Task, tmp_path: Path) -> Any:
    def call(entries: list[str], budgets: list[str] | None = None, **named: Any) -> Comparison:
        values = {"settings": SETTINGS, "task": task, "quiet": True, "baselines": False, **named}
        return compare(subject, entries, budgets or [LOW], tmp_path / "arena", **values)

    return call


def test_every_method_budget_and_seed_has_a_row(calls: Calls, arena: Any, tmp_path: Path) -> None:
    told: list[Row] = []
    found = arena(["test-b", "test-a?step=3"], [LOW, HIGH], seeds=(0, 1), tell=told.append)
    assert found.budgets == (LOW, HIGH) and len(found.rows) == 8
    assert [row.name for row in told[:2]] == ["test-a?step=3"] * 2  # the cheaper search first
    for one in found.results(LOW):
        assert set(one.tuned) == set(one.calibrated) == {0, 1}
        assert one.accuracy == pytest.approx(sum(one.tuned.values()) / 2)
        assert one.spread == pytest.approx(abs(one.tuned[0] - one.tuned[1]) / 2**0.5)
        assert one.costs is not None and one.slack["bitops"] >= 0 and not one.reason
    effort = found.efforts["test-b"]
    assert (effort.images, effort.forward_images, effort.backward_images) == (8, 8, 0)
    assert all(path.is_file() for path in found.files)
    assert (tmp_path / "arena" / "compare.csv").read_text().count("\n") == 9


def test_same_bits_share_one_training_and_say_so(calls: Calls, arena: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = arena(["test-a", "test-b"], quiet=False)
    assert f"compare: part 2 of 2: test-b, {LOW}, seed 0\n" in capsys.readouterr().err
    one, two = found.results(LOW)
    assert (calls["search"], calls["train"]) == (2, 1)
    assert one.tuned == two.tuned and (one.twins, two.twins) == (("test-b",), ("test-a",))


def test_a_second_call_does_nothing_again(calls: Calls, arena: Any) -> None:
    first = arena(["test-a", "test-b"], [LOW, HIGH])
    done = dict(calls)
    told: list[Row] = []
    assert arena(["test-a", "test-b"], [LOW, HIGH], tell=told.append) == first
    assert dict(calls) == done and told == []


def test_a_killed_comparison_goes_on(calls: Calls, arena: Any, tmp_path: Path) -> None:
    calls.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        arena(["test-error", "test-a"], [LOW, HIGH])
    partial = read_comparison(tmp_path / "arena")
    assert [(row.name, row.budget) for row in partial.rows] == [("test-a", LOW), ("test-a", HIGH)]
    assert (tmp_path / "arena" / "compare.json").is_file()
    calls.error, trained = None, calls["train"]
    found = arena(["test-error", "test-a"], [LOW, HIGH])
    assert len(found.rows) == 4 and all(not row.reason for row in found.rows)
    assert calls["search"] == 2 and calls["train"] == trained  # the new policies have the bits of the old ones
    assert found.interrupted == ()  # it left nothing to go on from, so its effort is whole


def test_more_methods_budgets_and_seeds_may_come_later(calls: Calls, arena: Any) -> None:
    arena(["test-a"])
    found = arena(["test-b"], [HIGH], seeds=(4,))
    assert {(row.name, row.budget, row.seed) for row in found.rows} == {("test-a", LOW, 0), ("test-b", HIGH, 4)}
    assert calls["search"] == 2


def test_a_budget_is_resolved_once_beside_the_allocation_and_a_row_costed_once(
    calls: Calls, arena: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, costed = counted(monkeypatch)
    found = arena(["test-a"], [HIGH], seeds=(0, 1, 2), fine_tune=False)
    bits = {name: LayerBits(*one) for name, one in found.rows[0].bits.items()}
    assert len(found.rows) == 3 and len(resolved) == 2 and costed.count(bits) == 1 + 3


def test_a_method_that_fails_is_a_row_with_the_reason(calls: Calls, arena: Any, tmp_path: Path) -> None:
    calls.error = ValueError("no such thing")
    found = arena(["test-error", "test-a"], [LOW, HIGH], seeds=(0, 1))
    good, bad = found.results(LOW)
    assert (good.name, good.reason, bad.name) == ("test-a", "", "test-error")
    assert bad.accuracy is None and bad.reason.startswith("ValueError: no such thing (traceback in errors/test-error")
    assert "in search" in (tmp_path / "arena" / "errors" / "test-error.txt").read_text()
    assert calls["wrong"] == 1  # not once a budget and seed
    calls.error = None
    assert not any(row.reason for row in arena(["test-error"], [LOW, HIGH], seeds=(0, 1)).rows)


def test_a_budget_that_nothing_meets_is_a_row_with_the_reason(calls: Calls, arena: Any) -> None:
    found = arena(["test-a"], [LOW, "bitops=10"])
    assert "cannot be met" in found.results("bitops=10")[0].reason
    assert not found.results(LOW)[0].reason and calls["search"] == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Two bits look better than four, so that the default repair leaves eight and four."""

    seed: int = 0

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        curve = LayerScores(weight={8: 0.0, 4: 1.0, 2: 0.5}, activation={8: 0.0, 4: 1.0, 2: 0.5})
        layers = dict.fromkeys((layer.name for layer in task.network.layers), curve)
        return Scores(fingerprint=task.network.fingerprint, method="noise", layers=layers)


def test_a_uniform_network_is_left_where_the_repair_leaves_nothing(calls: Calls, arena: Any, tmp_path: Path) -> None:
    registry.register("test-noise", "test-noise", source="ours", cost="none")(Noise)  # type: ignore[arg-type]
    (row,) = arena(["test-noise"], ["bitops=2x2"], fine_tune=False).rows
    assert not row.reason and [2, 2] in row.bits.values()
    saved = Policy.load(next((tmp_path / "arena").glob("**/policies/*.json")))
    assert "the uniform W2A2 is taken instead" in saved.notes[-1]
    with pytest.raises(StaleRun, match="repair"):
        arena(["test-noise"], ["bitops=2x2"], fine_tune=False, repair="isotonic")


def test_calibration_alone(calls: Calls, arena: Any) -> None:
    (one,) = arena(["test-a"], fine_tune=False).results(LOW)
    assert one.tuned == {} and one.accuracy == one.calibrated[0] and one.spread is None
    assert calls["train"] == 0


def test_a_row_is_calibrated_and_trained_with_its_seed(
    calls: Calls, arena: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[str, list[int]] = {"calibrated": [], "trained": []}
    put, train = comparing.put_policy_on, comparing.train

    def calibrated(*given: Any, seed: int, **named: Any) -> None:
        put(*given, seed=seed, **named)
        seeds["calibrated"].append(seed)

    def trained(subject: Subject, *given: Any, **named: Any) -> runs.Trained:
        seeds["trained"].append(subject.seed)
        return train(subject, *given, **named)

    monkeypatch.setattr(comparing, "put_policy_on", calibrated)
    monkeypatch.setattr(comparing, "train", trained)
    arena(["test-a"], seeds=(3, 5))
    assert seeds == {"calibrated": [3, 5], "trained": [3, 5]}


@pytest.mark.parametrize("fine_tune", [True, False])
def test_what_is_calibrated_is_quantized_as_it_is_trained(
    fine_tune: bool, calls: Calls, arena: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the setting `quantize`, which counts without fine-tuning, too."""
    asked: list[QuantizeConfig | None] = []
    put = comparing.put_policy_on

    def calibrated(*given: Any, config: QuantizeConfig | None = None, **named: Any) -> None:
        asked.append(config)
        put(*given, config=config, **named)

    monkeypatch.setattr(comparing, "put_policy_on", calibrated)
    own = {**SETTINGS, "quantize": {"per_channel": False}}
    (row,) = arena(["test-a"], settings=own, fine_tune=fine_tune).rows
    assert asked == [QuantizeConfig(per_channel=False)] and (row.tuned is not None) == fine_tune and not row.reason
    with pytest.raises(StaleRun, match="quantize="):
        arena(["test-a"], fine_tune=fine_tune)


def test_a_method_has_its_own_settings_and_the_subjects_seed(
    calls: Calls, subject: Subject, task: Task, tmp_path: Path
) -> None:
    given = {"settings": SETTINGS, "fine_tune": False, "task": task, "baselines": False, "quiet": True}
    seeded = replace(subject, seed=6)
    found = compare(seeded, ["test-a?step=3", "test-b?seed=2"], [LOW], tmp_path, **given)  # type: ignore[arg-type]
    scores = {one.seed: one.layers for one in map(Scores.load, found.folder.glob("search/*/scores.json"))}
    assert {seed: layers["0"].weight[2] for seed, layers in scores.items()} == {6: 1.5, 2: 0.5}


def test_a_repair_is_that_which_was_asked_for(calls: Calls, arena: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    choose = comparing.allocate

    def allocated(*given: Any, **named: Any) -> Any:
        asked.append(given[3].repair)
        return choose(*given, **named)

    monkeypatch.setattr(comparing, "allocate", allocated)
    arena(["test-a"], fine_tune=False, repair="isotonic")
    assert asked == ["isotonic"]


def test_what_an_earlier_search_left_is_told_with_its_effort(calls: Calls, arena: Any, tmp_path: Path) -> None:
    left = tmp_path / "arena" / "search" / "test-a" / "checkpoint.pt"
    left.parent.mkdir(parents=True)
    left.touch()
    assert arena(["test-a", "test-b"], fine_tune=False).interrupted == ("test-a",)


def test_rows_are_in_the_metric_of_the_task(calls: Calls, regression: Subject, tmp_path: Path) -> None:
    settings = {"epochs": 1, "batch_size": 12, "lr": 0.01}
    found = compare(
        regression, ["test-a"], [HIGH], tmp_path, settings=settings, seeds=(2,), baselines=False, quiet=True
    )
    (row,) = found.rows
    task = regression.task()[0]
    assert found.float32.accuracy == pytest.approx(squared_error(task.model), rel=1e-4)
    comparing.put_policy_on(task.model, Policy.load(next(tmp_path.glob("search/*/policies/*.json"))), task, seed=2)
    assert row.calibrated == pytest.approx(squared_error(task.model), rel=1e-4)
    assert found.metric == row.metric == task.info and row.tuned is not None and row.tuned != row.calibrated


def test_several_limits_in_one_budget(calls: Calls, arena: Any) -> None:
    (one,) = arena(["test-a"], ["bitops=6x6,weight-bytes=9x"], fine_tune=False).results("bitops=6x6,weight-bytes=9x")
    assert set(one.slack) == {"bitops", "weight-bytes"} and min(one.slack.values()) >= 0


def test_policies_from_elsewhere(calls: Calls, arena: Any, task: Task, tmp_path: Path) -> None:
    """One names its budget, one names none and exceeds the lower."""
    wide = Policy.uniform(task.network, 6, 6)
    wide.save(tmp_path / "wide.json")
    narrow = replace(Policy.uniform(task.network, 2, 2), budget={"bitops": "3x3"})
    narrow = replace(narrow, layers=narrow.layers | {"2": LayerBits(3, 2)}).check(task.network)
    narrow.save(tmp_path / "narrow.json")
    files = {"wide": tmp_path / "wide.json", "narrow": tmp_path / "narrow.json", "gone": tmp_path / "gone.json"}
    found = arena(["test-a"], [LOW, HIGH], policies=files, efforts={"wide": Effort(cpu_seconds=7.0)})
    low = {one.name: one for one in found.results(LOW)}
    high = {one.name: one for one in found.results(HIGH)}
    assert set(low) == {"test-a", "wide", "narrow", "gone"} and set(high) == {"test-a", "wide", "gone"}
    assert "too much" in low["wide"].reason and not high["wide"].reason and not low["narrow"].reason
    assert "No file" in low["gone"].reason
    assert high["wide"].outside and high["wide"].effort == Effort(cpu_seconds=7.0) and not high["test-a"].outside


def test_baselines_take_part_unless_asked_not_to(calls: Calls, arena: Any) -> None:
    found = arena(["test-a", "random?seed=3"], fine_tune=False, baselines=True)
    assert {row.name for row in found.rows} == {"test-a", "random?seed=3", "uniform"}


def test_a_typo_claims_no_folder(calls: Calls, arena: Any, task: Task, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="Did you mean 'test-a'"):
        arena(["test-aa"])
    with pytest.raises(MixbitError, match="no setting 'stepp'"):
        arena(["test-a?stepp=1"])
    with pytest.raises(MixbitError, match="Did you mean 'epochs'"):
        arena(["test-a"], settings={"epoch": 1})
    with pytest.raises(MixbitError, match="two rows of one name"):
        arena(["test-a", "test-a"])
    with pytest.raises(MixbitError, match="seeds="):
        arena(["test-a"], settings={"seed": 1})
    with pytest.raises(MixbitError, match="nothing to compare"):
        arena(["test-a"], seeds=())
    with pytest.raises(MixbitError, match="latency=1ms needs a latency table"):
        arena(["test-a"], ["latency=1ms"])
    unknown = replace(task, metric=lambda outputs, _targets: outputs.mean())
    with pytest.raises(MixbitError, match="not known whether larger ones are better.*larger_is_better="):
        arena(["test-a"], task=unknown)
    with pytest.raises(MixbitError, match="metric 'nan' is nan"):
        arena(
            ["test-a"], task=replace(task, metric=average(lambda *_: float("nan"), larger_is_better=True, name="nan"))
        )
    assert not (tmp_path / "arena").exists()


def test_other_settings_are_refused_by_name(calls: Calls, arena: Any) -> None:
    arena(["test-a"])
    with pytest.raises(StaleRun, match="settings.fraction=0.1, now settings.fraction=0.2"):
        arena(["test-a"], settings=SETTINGS | {"fraction": 0.2})


def test_a_folder_of_another_command(float_run: runs.Trained) -> None:
    assert float_run.trained.weights is not None
    with pytest.raises(MixbitError, match="holds no comparison"):
        read_comparison(float_run.trained.weights.parent)


def test_what_another_process_holds_is_left_to_it(calls: Calls, arena: Any, tmp_path: Path) -> None:
    """The rest is done first; then it is waited for."""
    free, told = threading.Event(), list[str]()

    def tell(row: Row) -> None:
        told.append(row.name)
        free.set()

    with pytest.raises(Busy), hold(tmp_path / "x", wait=True), hold(tmp_path / "x", wait=False):
        pass

    def other() -> None:
        with hold(tmp_path / "arena" / "search" / "test-a", wait=True):
            held.set()
            free.wait(60)

    held = threading.Event()
    process = threading.Thread(target=other)
    process.start()
    held.wait(60)
    arena(["test-a", "test-error"], tell=tell)
    process.join()
    assert told == ["test-error", "test-a"]


def test_entries_are_read_from_text() -> None:
    entry = Entry.parse("limpq?bits=[4,2]&precision=bf16&epochs=1")
    assert entry.method == "limpq" and entry.name == "limpq?bits=[4,2]&precision=bf16&epochs=1"
    assert entry.settings == {"bits": [4, 2], "precision": "bf16", "epochs": 1}
    for text in ("fit?seed", "fit?=1", "fit?seed=1&seed=2"):
        with pytest.raises(MixbitError, match="cannot read .* METHOD.key=value&other=value"):
            Entry.parse(text)


def test_rows_survive_their_file(calls: Calls, arena: Any) -> None:
    for row in arena(["test-a"], [LOW, "bitops=10"]).rows:
        assert Row.from_json(row.to_json()) == row


def test_files_that_nobody_wrote_are_errors_with_the_remedy(calls: Calls, arena: Any) -> None:
    found = arena(["test-a"], [LOW], fine_tune=False)
    path = found.folder / "measured.jsonl"
    written = path.read_text().splitlines(keepends=True)
    places = {json.loads(line)["key"].partition("/")[0]: at for at, line in enumerate(written[1:], start=1)}
    assert sorted(places) == ["effort", "float32", "row", "train"]
    for key in ("effort", "float32", "row"):
        at = places[key]
        for value in ("[]", "null", "3", "{}", "NaN", "[" * 100_000, "1" * 5000, '{"name": 5}'):
            line = f'{{"key": {json.dumps(json.loads(written[at])["key"])}, "value": {value}}}\n'
            path.write_text("".join([*written[:at], line, *written[at + 1 :]]))
            with pytest.raises(MixbitError, match=r"measured.jsonl, (line|key) .* (is not|is nested|holds) "):
                read_comparison(found.folder)
    path.write_text("".join(written))
    assert read_comparison(found.folder).rows == found.rows


def test_a_folder_of_an_older_version_is_refused(calls: Calls, arena: Any, tmp_path: Path) -> None:
    found = arena(["test-a"], [LOW], fine_tune=False)
    (found.folder / "measured.jsonl").rename(found.folder / "float.json")
    with pytest.raises(StaleRun, match=r"float\.json holds measurements of a comparison as an older mixbit kept them"):
        arena(["test-a"], [LOW], fine_tune=False)


def test_measurements_of_another_comparison_are_refused(calls: Calls, arena: Any) -> None:
    """A file that was carried over from elsewhere."""
    found = arena(["test-a"], [LOW], fine_tune=False)
    path = found.folder / "measured.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(StaleRun, match="was begun with subject.seed=1, now subject.seed=0"):
        read_comparison(found.folder)


# ------------------------------------------------------------------------------------------- policies and fronts

SMALL = "images=16&calibration_images=8"


def test_methods_of_all_kinds_take_part_alike(calls: Calls, arena: Any, task: Task, tmp_path: Path) -> None:
    entries = ["test-a", f"random-search?trials=2&{SMALL}", f"uniform-front?bits=[6,3]&{SMALL}"]
    found = arena(entries, [LOW, HIGH], fine_tune=False)
    assert len(found.rows) == 6 and not any(row.reason for row in found.rows)
    for row in found.rows:
        assert row.slack["bitops"] >= 0 and row.calibrated is not None
    front = Front.load(next((tmp_path / "arena").glob("search/uniform-front*/front.json")))
    picked = {row.budget: row.bits["2"] for row in found.rows if row.name == entries[2]}
    wanted = [front.pick(Budget.parse([budget]), task.network).layers["2"] for budget in (LOW, HIGH)]
    assert [LayerBits(*picked[budget]) for budget in (LOW, HIGH)] == wanted
    searched = {row.budget: row.bits for row in found.rows if row.name == entries[1]}
    for budget, bits in searched.items():
        saved = Policy.load(found.search_folder(entries[1], budget) / "policy.json")
        assert {name: LayerBits(*pair) for name, pair in bits.items()} == saved.layers
        assert saved.budget == Budget.parse([budget]).texts
    # one search of the front, and one of the policy a budget: 24 images each, in passes of layers over all
    assert found.efforts[entries[2]].images == 24 and set(found.budget_efforts) == {entries[1]}
    assert [found.effort(entries[1], budget).images for budget in (LOW, HIGH)] == [24, 24]
    told: list[Row] = []
    assert arena(entries, [LOW, HIGH], fine_tune=False, tell=told.append) == found and told == []


def test_a_search_under_a_budget_that_fails_is_not_tried_for_every_seed(
    calls: Calls, arena: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fails(self: RandomSearch, task: Task, budget: Budget, **more: Any) -> Policy:
        tried.append(budget.texts["bitops"])
        raise ValueError("no luck") if budget.texts["bitops"] == "3x3" else KeyError("other")

    monkeypatch.setattr(RandomSearch, "search", fails)
    found = arena(["random-search", "test-a"], [LOW, HIGH], seeds=(0, 1), fine_tune=False)
    assert sorted(tried) == ["3x3", "6x6"]
    reasons = {row.budget: row.reason for row in found.rows if row.name == "random-search"}
    assert reasons[LOW].startswith("ValueError: no luck") and reasons[HIGH].startswith("KeyError")
    assert found.results(LOW)[0].name == "test-a"


def test_a_budget_that_no_policy_of_a_front_meets_is_a_row_with_the_reason(calls: Calls, arena: Any) -> None:
    found = arena([f"uniform-front?bits=[6,3]&{SMALL}", f"random-search?{SMALL}"], ["bitops=10"], fine_tune=False)
    reasons = sorted(row.reason for row in found.rows)
    assert reasons[0].startswith("None of the front's 2 policies meets") and "cannot be met" in reasons[1]


# ---------------------------------------------------------------------------------------------------- a judge

SUPERNET = {"bits": [8, 4, 2], "epochs": 1, "fraction": 0.1, "passes": 2, "batch_size": 64, "population": 9,
            "generations": 1, "statistics_images": 64, "calibration_images": 32}  # fmt: skip


@pytest.fixture(scope="module")
def supernet(subject: Subject, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `mixbit search qfa` on the small network."""
    folder = tmp_path_factory.mktemp("runs") / "supernet"
    runs.search(subject, "qfa", SUPERNET, folder, task=task, quiet=True)
    return folder


@pytest.fixture
def judged(arena: Any, supernet: Path) -> Any:
    def call(entries: list[str], budgets: list[str] | None = None, **named: Any) -> Comparison:
        return arena(entries, budgets, **{"judge": supernet, "settings": None, **named})

    return call


def unread(split: Any) -> Any:
    """A test split of which a few inputs are an example of what the network is given, and nothing more is read."""

    def batches(size: int, *given: Any, **named: Any) -> Any:
        assert size <= 16, "test images were read"
        return split.batches(size, *given, **named)

    found = copy.copy(split)
    found.batches = batches
    return found


def test_a_supernet_ranks_all_policies_on_images_that_trained_nothing(
    calls: Calls, judged: Any, task: Task, supernet: Path, tmp_path: Path
) -> None:
    uniform = {"wide": Policy.uniform(task.network, 4, 4), "narrow": Policy.uniform(task.network, 2, 2)}
    for name, policy in uniform.items():
        policy.save(tmp_path / f"{name}.json")
    files = {name: tmp_path / f"{name}.json" for name in uniform}
    found = judged(["test-a"], [HIGH], policies=files, task=replace(task, test=unread(task.test)))
    assert calls["train"] == 0 and all(row.calibrated is row.tuned is None and not row.reason for row in found.rows)
    # the search in the supernet measured the uniform ones by the same weights and images
    front = Front.load(supernet / "front.json")
    known = [json.loads(line) for line in (supernet / "sub-networks.jsonl").read_text().splitlines()[1:]]
    measured = {one["key"]: one["value"] for one in known}
    for row in found.rows:
        bits = " ".join(str(LayerBits(*pair)) for pair in row.bits.values())
        if bits in measured:
            assert row.judged is not None and row.judged.loss == pytest.approx(measured[bits]["loss"], rel=1e-5)
            assert row.judged.value == pytest.approx(measured[bits]["accuracy"], abs=1e-6)
    results = found.results(HIGH)
    losses = [one.judged.loss for one in results if one.judged]
    assert losses == sorted(losses) and len(losses) == 3 and [one.rank for one in results] == [1, 2, 3]
    assert found.judge is not None and found.judge.on == front.measured.on
    held = Qfa(**{**SUPERNET, "bits": (8, 4, 2)}).parts(task)[1]  # type: ignore[arg-type]
    of_float = evaluate(task.model, held, loss=task.objective)
    assert found.judge.float32 == Judged(loss=pytest.approx(of_float.loss), value=pytest.approx(of_float.value))
    assert found.float32.accuracy == found.judge.float32.value


def test_what_a_supernet_said_is_kept_and_shared_by_equal_bits(calls: Calls, judged: Any, subject: Subject) -> None:
    with mock.patch.object(SubnetJudge, "__call__", autospec=True, side_effect=SubnetJudge.__call__) as asked:
        first = judged(["test-a", "test-b"], [LOW, HIGH])
        assert asked.call_count == 2
        low = first.results(LOW)
        assert [one.rank for one in low] == [1, 1] and low[0].judged == low[1].judged
        told: list[Row] = []
        assert judged(["test-a", "test-b"], [LOW, HIGH], tell=told.append) == first and told == []
        assert asked.call_count == 2
    assert Row.from_json(first.rows[0].to_json()) == first.rows[0]


def test_a_policy_of_other_bits_than_the_supernets_is_a_row_with_the_reason(
    calls: Calls, judged: Any, task: Task, tmp_path: Path
) -> None:
    in_float = Policy.uniform(task.network, 4, 4)
    in_float = replace(in_float, layers=in_float.layers | {"2": LayerBits(4, None)})
    replace(in_float, costs={}).save(tmp_path / "float.json")
    Policy.uniform(task.network, 3, 4).save(tmp_path / "three.json")
    files = {"float": tmp_path / "float.json", "three": tmp_path / "three.json"}
    found = judged(["test-a"], ["weight-bytes=6x6"], policies=files)
    reasons = {row.name: row.reason for row in found.rows}
    assert reasons["test-a"] == "" and "'2' is asked for weights of 3 bits" in reasons["three"]
    assert "'2' is asked for activations in float" in reasons["float"] and "METHOD?bits=[2, 4, 8]" in reasons["float"]


def test_methods_leave_out_bits_that_the_supernet_has_not(
    calls: Calls, judged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    search = comparing.search

    def spy(subject: Subject, method: str, settings: Any, *given: Any, **named: Any) -> Any:
        asked[method] = settings.get("bits")
        return search(subject, method, settings, *given, **named)

    monkeypatch.setattr(comparing, "search", spy)
    judged(["random", "uniform?bits=[6,3]", "test-a", "map-size", "limpq-init"])
    assert asked == {
        "random": [8, 4, 2],
        "uniform": [6, 3],
        "test-a": None,
        "map-size": [8, 4, 2],
        "limpq-init": [4, 2],
    }


def test_a_judgement_stands_beside_a_fine_tuning_that_is_asked_for(calls: Calls, judged: Any) -> None:
    (one,) = judged(["test-a"], settings=SETTINGS, fine_tune=True).results(LOW)
    assert one.tuned and one.calibrated and one.judged is not None and one.rank == 1
    assert one.accuracy == one.tuned[0] and calls["train"] == 1


def test_a_judge_of_another_model_or_of_other_data_claims_no_folder(
    calls: Calls, judged: Any, arena: Any, supernet: Path, subject: Subject, task: Task, tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text(NET.replace("12)", "14)").replace("12,", "14,"))
    elsewhere = Subject(model=f"{other}:build", data="digits")
    named = {"settings": None, "judge": supernet, "quiet": True}
    with pytest.raises(MixbitError, match="is a supernet of another model"):
        compare(elsewhere, ["test-a"], [LOW], tmp_path / "arena", **named)  # type: ignore[arg-type]
    reseeded = replace(subject, data="digits?seed=3")
    with pytest.raises(MixbitError, match="is a supernet of other data: 'digits'"):
        compare(reseeded, ["test-a"], [LOW], tmp_path / "arena", **named)  # type: ignore[arg-type]
    write_weights(tmp_path / "w.safetensors", task.model.state_dict())
    loaded = replace(subject, weights=tmp_path / "w.safetensors")
    with pytest.raises(MixbitError, match="is a supernet of other weights: 'None'"):
        compare(loaded, ["test-a"], [LOW], tmp_path / "arena", task=task, **named)  # type: ignore[arg-type]
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(MixbitError, match="no run folder"):
            judged(["test-a"], judge=folder)
    with pytest.raises(MixbitError, match="epochs, .*seeds: no effect on a supernet's judgement.*Leave them out"):
        judged(["test-a"], settings=SETTINGS, seeds=(0, 1))
    assert not (tmp_path / "arena").exists()
    arena(["test-a"], fine_tune=False)
    with pytest.raises(MixbitError, match="holds no trained supernet"):
        judged(["test-a"], judge=tmp_path / "arena" / "search" / "test-a")
    with pytest.raises(StaleRun, match="judge"):
        judged(["test-a"])


def test_a_supernet_whose_weights_were_changed_judges_nothing(
    calls: Calls, judged: Any, supernet: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(supernet, tmp_path / "changed")
    with (changed / "supernet.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(MixbitError, match="measured with other weights"):
        judged(["test-a"], judge=changed)
