"""Attacks on runs: which networks, which images, what is kept, and what cannot be attacked."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixbit import attacks, runs
from mixbit.attacks import Attack, Norm, Target
from mixbit.attacks._entries import ATTACKS
from mixbit.attacks._streams import Streams
from mixbit.errors import MixbitError, StaleRun
from mixbit.inference import TorchPredictor
from mixbit.runs import Attacked, AttackSettings, Subject, _folder, _variants
from mixbit.runs._attack_pieces import Pieces
from mixbit.runs._trained import TrainedRun, open_run
from mixbit.runs._variants import HeldRun
from mixbit.runs.exporting import predictor_of
from mixbit.testing.options import OptionCases, OptionRow, fields_of, unlike
from tests.cli import tiny

FORK = multiprocessing.get_context("fork")
WEAK = "pgd?steps=2&restarts=1&eps=0.05"


@pytest.fixture(autouse=True, scope="module")
def noise() -> Iterator[None]:
    """An attack that asks for labels alone: eight random points."""

    @attacks.register("test-noise", "eight random points", source="ours", access="labels")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Noise(Attack):
        eps: float = 0.3

        @property
        def norm(self) -> Norm:
            return "Linf"

        @property
        def radius(self) -> float | None:
            return self.eps

        def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
            found, active = x.clone(), target.all_rows
            for _ in range(8):
                active = active[target.can_ask(active)]
                if len(active):
                    moved = x[active] + streams.uniform(active, tuple(x.shape[1:]), -self.eps, self.eps)
                    found[active] = target.clip(moved)
                    active = active[~target.is_wrong(found[active], active)]
            return found

    yield
    ATTACKS.leave("test-noise")


@pytest.fixture(autouse=True, scope="module")
def opened_once() -> Iterator[None]:
    """Runs of the same content are opened once: following a network is most of the time of a small attack."""
    known: dict[tuple[object, ...], TrainedRun] = {}

    def once(run: Path, *, data: str | None = None) -> TrainedRun:
        key = (*((run / name).read_bytes() for name in ("config.json", "model.safetensors")), data)
        if key not in known:
            known[key] = open_run(run, data=data)
        return known[key]

    with mock.patch.object(_variants, "open_run", once):
        yield


def copied(run: Path, folder: Path) -> Path:
    """A run of its own, of the same weights."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("attack"))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copied(tiny.fitted_runs()[0], tmp_path / "fitted")


def few(**settings: Any) -> AttackSettings:
    """The float network alone, twelve images, one short attack."""
    return AttackSettings(**{"attacks": (WEAK,), "images": 12, "on": ("float",), **settings})


def attacked(**settings: Any) -> Attacked:
    """In a folder that nobody has used."""
    return runs.attack([copied(tiny.fitted_runs()[0], tiny.place() / f"run-{time.monotonic_ns()}")], few(**settings))


def mixed_alone(**settings: Any) -> Attacked:
    """The run under a policy, likewise."""
    return runs.attack([copied(tiny.fitted_runs()[1], tiny.place() / f"run-{time.monotonic_ns()}")], few(**settings))


class TestAttackSettingsOptions(OptionCases):
    owner = AttackSettings
    options = fields_of(AttackSettings)
    rows = (
        OptionRow("attacks", ((WEAK,), ("test-noise", "deepfool")),
                  lambda v: [r.attack for r in attacked(attacks=v).results],
                  lambda a, b: (a, b) == ([WEAK], ["test-noise", "deepfool"])),
        OptionRow("eps", (None, (0.01, 0.02)),
                  lambda v: [(r.attack, r.radius) for r in attacked(attacks=("test-noise",), eps=v).results],
                  lambda a, b: (a, b) == ([("test-noise", 0.3)],
                                          [("test-noise at 0.01", 0.01), ("test-noise at 0.02", 0.02)])),
        OptionRow("images", (9, 5000), lambda v: attacked(images=v, attacks=("test-noise?eps=0.01",)).images,
                  lambda a, b: (a, b) == (9, 360)),
        OptionRow("queries", (None, 2), lambda v: attacked(queries=v).results[0].measures.queries.largest,
                  lambda a, b: (a, b) == (3, 2)),
        OptionRow("seed", (0, 1), lambda v: attacked(seed=v, attacks=("test-noise",)).results[0].measures.distances,
                  unlike),
        OptionRow("on", (("float",), ("executor", "float")),
                  lambda v: attacked(on=v, variants=("W8A8",), attacks=("test-noise",)).networks,
                  lambda a, b: (a, b) == (("float",), ("float", "W8A8 executor"))),
        OptionRow("variants", ((), ("W4A16",)), lambda v: attacked(on=("fake-quantized", "float"), variants=v).networks,
                  lambda a, b: (a, b) == (("float",), ("float", "W4A16 fake-quantized"))),
        OptionRow("twins", (False, True),
                  lambda v: [one.source for one in mixed_alone(on=("float", "executor"), twins=v).results],
                  lambda a, b: (a, b) == (["float", "float"], ["float", "executor"])),
    )  # fmt: skip


def points_of(folder: Path, on: str) -> Tensor:
    """All points that were made on a network of a run, from the files beside the ledger."""
    lines = [json.loads(line) for line in (folder / "attack" / "attacks.jsonl").read_text().splitlines()]
    made = [one["value"] for one in lines if re.match(rf"pgd .* on {on}, images", one.get("key", ""))]
    return torch.cat([load_file(folder / "attack" / one["points"])["points"] for one in made])


def first_images(run: Path, count: int) -> tuple[Tensor, Tensor]:
    """In the order in which a shuffled pass with the seed 0 gives them, as pixels."""
    task = _variants.open_run(run).task
    z, y = next(iter(task.test.batches(count, seed=0, shuffle=True)))
    return (z * 0.376 + 0.305).mul(255).round() / 255, y


@pytest.fixture(scope="module")
def both(noise: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Attacked, list[Path]]:
    """A float run in two variants and a run under a policy, on 40 images: more than one piece."""
    folder = tmp_path_factory.mktemp("both")
    given = [copied(one, folder / one.name) for one in tiny.fitted_runs()]
    settings = AttackSettings(attacks=(WEAK, "test-noise"), images=40, variants=("W8A8",))
    return runs.attack(given, settings, out=folder), given


def test_numbers_are_those_of_the_points_in_the_files(both: tuple[Attacked, list[Path]]) -> None:
    """Made anew by PyTorch from what lies in the folder."""
    found, (fitted, _) = both
    x, y = first_images(fitted, 40)
    opened = _variants.open_run(fitted)
    points = points_of(fitted, "float")
    with torch.no_grad():
        before, after = (opened.task.model.eval()((one - 0.305) / 0.376).argmax(1) for one in (x, points))
    right = before == y
    fooled = right & (after != y)
    assert 0 < fooled.sum() < right.sum() < 40
    row = found.results[0]
    assert (row.source, row.norm, row.radius, row.attack) == ("fitted float", "Linf", 0.05, WEAK)
    assert (row.measures.right, row.measures.fooled) == (int(right.sum()), int(fooled.sum()))
    assert found.clean["fitted float"].value == pytest.approx(float(right.float().mean()))
    assert row.measures.distances["Linf"].largest == pytest.approx(float((points - x)[fooled].abs().max()), abs=1e-6)
    assert row.measures.boundary is None
    assert row.measures.snapped == {} and row.measures.queries is not None and row.measures.queries.largest == 3


def test_white_box_points_of_integers_are_those_of_their_own_network_in_pytorch(
    both: tuple[Attacked, list[Path]],
) -> None:
    found, (fitted, mixed) = both
    assert found.networks == (
        "fitted float", "fitted W8A8 fake-quantized", "fitted W8A8 executor",
        "mixed float", "mixed fake-quantized", "mixed executor",
    )  # fmt: skip
    sources = {one.target: one.source for one in found.results if one.attack == WEAK}
    assert sources["fitted W8A8 executor"] == "fitted W8A8 fake-quantized"
    assert sources["mixed executor"] == "mixed fake-quantized"
    assert {name for name in found.networks if sources[name] == name} == set(found.networks[:2] + found.networks[3:5])
    row = next(one for one in found.results if one.target == "mixed executor" and one.attack == WEAK)
    assert row.measures.queries is None and row.measures.boundary is None
    x, y = first_images(mixed, 40)
    shipped = predictor_of(_variants.open_run(mixed), mixed, "executor")
    before, after = (shipped.logits(one).argmax(1) == y for one in (x, points_of(mixed, "fake-quantized")))
    assert bool((before & after).any() and (~before & ~after).any())
    assert (row.measures.right, row.measures.fooled) == (int(before.sum()), int((before & ~after).sum()))
    matrix = found.transfers[WEAK]
    assert matrix.sources == found.networks[:2] + found.networks[3:5] and matrix.targets == found.networks
    for row in (one for one in found.results if one.attack == WEAK):
        share = matrix.share(row.source, row.target)
        if row.source == row.target:
            assert share == row.measures.success
    # one cell, by PyTorch: the float network's points on the other run's fake-quantized network
    x, y = first_images(fitted, 40)
    one, other = _variants.open_run(fitted).task, _variants.open_run(mixed).task
    plain, moved = TorchPredictor(one.model, one.space), TorchPredictor(other.model, other.space)
    points = points_of(fitted, "float")
    shared = (plain.logits(x).argmax(1) == y) & (moved.logits(x).argmax(1) == y)
    cell = matrix.share("fitted float", "mixed fake-quantized")
    assert shared.any() and cell is not None
    assert cell.value == pytest.approx(float((moved.logits(points).argmax(1) != y)[shared].float().mean()))


def test_what_integers_see_of_a_perturbation_lies_on_their_own_grid(both: tuple[Attacked, list[Path]]) -> None:
    """The run under a policy reads 8-bit inputs at the stem: distances are whole steps of that grid."""
    found, (_, mixed) = both
    row = next(one for one in found.results if one.target == "mixed fake-quantized" and one.measures.fooled)
    step = (
        float(_variants.open_run(mixed).task.model.get_submodule("stem").input_quantizer.steps.detach().flatten()[0])
        * 0.376
    )
    whole = row.measures.snapped["Linf"].largest / step
    assert whole == pytest.approx(round(whole), abs=1e-3) and whole >= 1


def test_results_are_written_for_scripts(both: tuple[Attacked, list[Path]]) -> None:
    found, (fitted, mixed) = both
    (path,) = found.files
    content = json.loads(path.read_text())
    assert path == fitted.parent / "attack.json" and content["format"] == "mixbit-attack"
    assert content["runs"] == [str(fitted), str(mixed)] and content["images"] == 40
    assert content["results"][0]["measures"]["success"]["value"] == found.results[0].measures.success.value
    assert len(content["transfers"][WEAK]["shares"]) == 4 and "W8A8: the float network quantized" in content["notes"][0]
    assert (fitted / "attack" / "config.json").is_file() and (mixed / "attack" / "attacks.jsonl").is_file()


def test_pictures_are_points_that_fooled_their_own_network(both: tuple[Attacked, list[Path]]) -> None:
    found, (fitted, _) = both
    assert found.pictures and len({one.target for one in found.pictures}) > 1
    task = _variants.open_run(fitted).task
    for one in found.pictures:
        assert one.called != one.label and not torch.equal(one.image, one.point)
        if one.target == "fitted float":
            logits = TorchPredictor(task.model, task.space).logits(torch.stack([one.image, one.point]))
            assert logits.argmax(1).tolist() == [one.label, one.called]


def test_points_of_one_run_are_tried_on_another_once(both: tuple[Attacked, list[Path]]) -> None:
    found, given = both
    settings = AttackSettings(attacks=(WEAK, "test-noise"), images=40, variants=("W8A8",))
    with (
        mock.patch.object(Attack, "run", side_effect=AssertionError("made again")),
        mock.patch("mixbit.runs.attacking.classes_of", side_effect=AssertionError("asked again")),
    ):
        assert runs.attack(given, settings, out=given[0].parent).to_json() == found.to_json()


def test_classes_are_those_of_the_points_that_are_there(tmp_path: Path) -> None:
    pieces, points = Pieces(tmp_path, {}), torch.zeros(2, 3)
    assert pieces.classes("a", points, lambda: torch.tensor([4, 5])).tolist() == [4, 5]
    assert pieces.classes("a", points, lambda: torch.tensor([6, 7])).tolist() == [4, 5]
    assert pieces.classes("a", points + 1, lambda: torch.tensor([6, 7])).tolist() == [6, 7]


def test_nothing_is_made_twice(run: Path) -> None:
    settings = few(attacks=(WEAK, "test-noise"))
    first = runs.attack([run], settings)
    with (
        mock.patch.object(Attack, "run", side_effect=AssertionError("made again")),
        mock.patch("mixbit.runs.attacking.classes_of", side_effect=AssertionError("asked again")),
    ):
        assert runs.attack([run], settings).to_json() == first.to_json()
    # points that are gone, or are not those of the line, are made again, and are the same
    for broken in (lambda file: file.unlink(), lambda file: save_file({"points": torch.zeros(1)}, file)):
        file = next((run / "attack" / "points").glob("pgd-*.safetensors"))
        broken(file)
        assert runs.attack([run], settings).to_json() == first.to_json() and file.is_file()


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    """kill -9 in the middle: the pieces that were whole are kept."""
    settings = few(attacks=("test-noise", "pgd?restarts=1&steps=4&eps=0.05"), images=80)
    whole, broken = (copied(tiny.fitted_runs()[0], tmp_path / name / "fitted") for name in ("whole", "broken"))
    first = runs.attack([whole], settings)
    process = FORK.Process(target=_slowly, args=(broken, settings))
    process.start()
    points = broken / "attack" / "points"
    while not (points.is_dir() and len(list(points.glob("*.safetensors"))) >= 4):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = {file.name: file.stat().st_mtime_ns for file in points.glob("*.safetensors")}
    assert 4 <= len(kept) < 6
    again = runs.attack([broken], settings)
    assert again.to_json()["results"] == first.to_json()["results"]
    assert again.to_json()["transfers"] == first.to_json()["transfers"]
    made = {file.name: file.stat().st_mtime_ns for file in points.glob("*.safetensors")}
    assert len(made) == 6 and sum(made[name] == kept[name] for name in kept) >= len(kept) - 1


def _slowly(folder: Path, settings: AttackSettings) -> None:
    """An attack that takes its time for each piece after the fourth."""
    made, run = [], Attack.run

    def one(*given: Any, **named: Any) -> Any:
        made.append(1)
        if len(made) > 4:
            time.sleep(60)
        return run(*given, **named)

    with mock.patch.object(Attack, "run", one):
        runs.attack([folder], settings)


def test_a_folder_of_other_weights_images_or_seed_is_refused(run: Path) -> None:
    runs.attack([run], few())
    for changed, said in (({"images": 13}, "images=12, now images=13"), ({"seed": 1}, "seed=0, now seed=1")):
        with pytest.raises(StaleRun, match=f"{said}.* or delete that folder"):  # another --out would not help
            runs.attack([run], few(**changed))
    with (
        mock.patch("mixbit.runs.subject.data_sets.digest", return_value="blake2b:other"),
        pytest.raises(StaleRun, match="data=.*now data='blake2b:other'"),
    ):
        runs.attack([run], few())
    weights = load_file(run / "model.safetensors")
    save_file({**weights, "head.bias": weights["head.bias"] + 1}, run / "model.safetensors")
    with pytest.raises(StaleRun, match="weights="):
        runs.attack([run], few())


def test_other_settings_of_an_attack_are_added(run: Path) -> None:
    runs.attack([run], few())
    assert runs.attack([run], few(attacks=("pgd?steps=1&restarts=1",), queries=1)).results[0].radius == 8 / 255
    lines = (run / "attack" / "attacks.jsonl").read_text().splitlines()
    assert sum('"points"' in line for line in lines) == 2


def test_a_budget_of_queries_ends_in_the_middle() -> None:
    found = attacked(attacks=("test-noise?eps=0.001",), queries=3).results[0].measures
    assert found.queries is not None and found.queries.largest == 3 and found.fooled < found.right


def test_black_box_attacks_are_made_on_the_integers_themselves(both: tuple[Attacked, list[Path]]) -> None:
    rows = [one for one in both[0].results if one.attack == "test-noise"]
    assert [one.target for one in rows] == list(both[0].networks) == [one.source for one in rows]
    for one in rows:
        assert one.measures.queries is not None and 1 <= one.measures.queries.mean <= 8
    assert sum(one.measures.fooled for one in rows if "executor" in one.target) > 0
    assert both[0].transfers["test-noise"].sources == both[0].networks


def test_a_network_that_is_wrong_on_all_images_says_so(run: Path) -> None:
    y = first_images(run, 12)[1]
    weights = load_file(run / "model.safetensors")
    never = next(one for one in range(10) if one not in y.tolist())
    bias = torch.zeros(10)
    bias[never] = 1e6
    save_file({**weights, "head.bias": bias}, run / "model.safetensors")
    found = runs.attack([run], few(attacks=(WEAK, "deepfool")))
    assert [one.measures.success for one in found.results] == [None, None] and found.pictures == ()
    assert found.transfers[WEAK].shares == ((None,),)
    assert "float has all 12 images wrong, so there was nothing to attack." in found.notes


def test_logits_that_are_not_finite_are_told(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    large = {"stem.weight": 100 * weights["stem.weight"], "head.weight": torch.full((10, 4), 3e38)}
    save_file({**weights, **large}, run / "model.safetensors")
    with pytest.raises(MixbitError, match="float gives logits with NaN or infinity. Check the network"):
        runs.attack([run], few())


MINE = """
import mixbit, torch
from torch import nn
from mixbit.data import InputSpace


def made(targets, outputs=2, space=InputSpace(bounds=(-9.0, 9.0)), **more):
    x = torch.linspace(-1, 1, 80).view(20, 4)
    data = torch.utils.data.TensorDataset(x, targets)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs))
    return mixbit.Task(model=model, train=data, test=data, space=space, **more)


def unbounded():
    return made(torch.arange(20) % 2, space=InputSpace())


def outside():
    return made(torch.arange(20) % 2, space=InputSpace(bounds=(0.0, 0.5)))


def single():
    return made(torch.zeros(20, dtype=torch.int64), outputs=1)


def regression():
    return made(torch.randn(20, 2), loss=nn.functional.mse_loss)


def good():
    return made(torch.arange(20) % 2)
"""


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("unbounded", "the space of float has no bounds"),
        ("outside", "legal is 0 to 0.5, the bounds of float"),
        ("single", "Legal: .N, C. with two classes or more"),
        ("regression", "Legal: a whole number an image"),
    ],
)
def test_tasks_that_cannot_be_attacked(task: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match=said):
        runs.attack([own_run(task, tmp_path)], few(attacks=("test-noise",)))


def test_an_attack_that_is_made_of_several_says_which_broke_how_many(run: Path) -> None:
    found = runs.attack([run], few(attacks=("auto-attack?steps=3&queries=3&eps=0.2",), on=("float", "executor")))
    whole, shown = found.results[0], found.results[1]
    assert (whole.target, shown.source) == ("float", "float") and shown.target != "float"
    assert sum(whole.by.values()) == whole.measures.fooled > 0 and shown.by == {}
    assert set(whole.by) <= {"apgd", "apgd-t", "fab", "square"}
    assert found.to_json()["results"][0]["by"] == whole.by


def test_an_attack_for_which_classes_are_too_few_is_told_before_any_other_begins(tmp_path: Path) -> None:
    run = own_run("good", tmp_path)
    with pytest.raises(MixbitError, match=r"attack 'apgd-t' needs 4 classes or more, and float has 2"):
        runs.attack([run], few(attacks=("test-noise", "apgd-t")))
    assert not (run / "attack").exists()


def test_settings_of_an_attack_may_be_fractions() -> None:
    settings = few(attacks=("pgd?eps=8/255&steps=3",))
    assert settings.chosen()["pgd?eps=8/255&steps=3"].radius == 8 / 255


def own_run(task: str, folder: Path) -> Path:
    """The folder that a float training of a task in a file leaves behind."""
    (folder / "mine.py").write_text(MINE)
    subject = Subject(model=f"{folder / 'mine.py'}:{task}")
    made = subject.task()[0]
    _folder.begin(folder / "run", {"command": "train", **subject.facts(), "settings": {}, "bits": None})
    runs.training._write(folder / "run", made.model, made, None)
    return folder / "run"


def test_inputs_that_are_no_images_are_attacked_and_not_drawn(tmp_path: Path) -> None:
    found = runs.attack([own_run("good", tmp_path)], few(attacks=("pgd?eps=3&restarts=1", "deepfool"), images=20))
    assert found.results[0].measures.fooled and found.pictures == () and found.images == 20
    nearest = found.results[1].measures
    assert nearest.boundary is not None and nearest.boundary.value == pytest.approx(nearest.distances["L2"].mean)


def test_what_cannot_be_begun_leaves_nothing_behind(run: Path, tmp_path: Path) -> None:
    other = own_run("good", tmp_path)
    for given, settings, said in (
        (
            [run],
            few(on=("executor",), variants=("W8A8",)),
            r"'pgd' needs gradients, and W8A8 executor has none.*Legal: .*test-noise",
        ),
        ([run], few(on=("executor",), variants=()), "leave no network"),
        (
            [run],
            few(eps=(1.5,), attacks=("test-noise",)),
            "a radius of 1.5 in Linf is illegal. Legal: above 0, at most 1",
        ),
        ([run, other], few(attacks=("test-noise",)), "has other test images than"),
        ([], few(), "Give one run or more"),
    ):
        with pytest.raises(MixbitError, match=said):
            runs.attack(given, settings)
    assert not (run / "attack").exists() and not (other / "attack").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attacks": ()}, "attacks=.. is illegal. Legal: one or more"),
        ({"attacks": ("pdg",)}, "Did you mean 'pgd'"),
        ({"attacks": ("pgd?step_s=2",)}, "has no setting 'step_s'"),
        ({"attacks": ("pgd?eps=0",)}, "eps=0 is illegal. Legal: a number above 0"),
        ({"attacks": ("pgd", "pgd?steps=20")}, "is asked for twice"),
        ({"attacks": ("pgd?eps=0.1",), "eps": (0.1,)}, "has its own eps"),
        (
            {"attacks": ("deepfool",), "eps": (0.1,)},
            "there is none among deepfool. Legal with eps: apgd,.*pgd",
        ),
        ({"eps": (0.0,)}, "each a number above 0"),
        ({"eps": ()}, "one radius or more"),
        ({"on": ()}, "on=.. is illegal"),
        ({"on": ("onxx",)}, "Did you mean 'onnx'"),
        ({"variants": ("int8",)}, "Write W8A8"),
        ({"variants": ("W8A32",)}, "no bits of an integer network"),
        ({"variants": ("W9A8",)}, "Legal: whole numbers 1 to 8"),
        ({"images": 0}, "from 1"),
        ({"queries": 0}, "from 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(MixbitError, match=said):
        AttackSettings(**settings)


def test_radii_that_are_nearly_equal_are_two_attacks() -> None:
    names = list(AttackSettings(attacks=("pgd",), eps=(0.1, 0.10001, 8 / 255)).chosen())
    assert names == ["pgd at 0.1", "pgd at 0.10001", "pgd at 0.03137"]


def test_an_attack_that_may_not_ask_for_its_first_step_says_so() -> None:
    found = attacked(attacks=("zoo", WEAK), queries=5)
    assert [one for one in found.notes if "asked for nothing" in one] == [
        "zoo on float asked for nothing: its first step takes more than queries=5, so its success says nothing. "
        "Give more queries."
    ]


def test_bits_of_both_ends_are_8_or_more(run: Path) -> None:
    """int16 x int8 has 16 bits at the first layer too; W4A4 has its first and last layer at 8, as elsewhere."""
    held = HeldRun(run, None, "")
    held.opened = replace(held.opened, subject=replace(held.opened.subject, seed=5))
    for text, ends, within in (("W8A16", "W8A16", "W8A16"), ("W4A4", "W8A8", "W4A4")):
        with mock.patch.object(_variants, "ptq", return_value=SimpleNamespace(model=held.opened.task.model)) as made:
            layers = held._made(text).policy.layers
        assert made.call_args.args[2].seed == 5
        assert {name: str(bits) for name, bits in layers.items()} == {
            "stem": ends, "left": within, "right": within, "head": ends
        }  # fmt: skip


def test_a_run_under_a_policy_keeps_its_bits_and_says_so(tmp_path: Path) -> None:
    mixed = copied(tiny.fitted_runs()[1], tmp_path / "mixed")
    found = runs.attack([mixed], few(variants=("W2A2",), on=("float", "fake-quantized")))
    assert found.networks == ("float", "fake-quantized")
    assert found.notes == ("mixed: trained under a policy, with bits of its own; variants are of float runs alone.",)
    x, y = first_images(mixed, 12)
    for name, run in (("fake-quantized", mixed), ("float", tiny.fitted_runs()[0])):  # of the same weights
        task = _variants.open_run(run).task
        right = TorchPredictor(task.model, task.space).logits(x).argmax(1) == y
        assert found.clean[name].value == pytest.approx(float(right.float().mean()))
    assert found.clean["float"] != found.clean["fake-quantized"]


def test_without_a_twin_in_pytorch_the_points_are_those_of_the_float_network(tmp_path: Path) -> None:
    """Who is right is asked of the integers themselves."""
    mixed = copied(tiny.fitted_runs()[1], tmp_path / "mixed")
    found = runs.attack([mixed], few(on=("float", "executor"), images=32))
    first, row = found.results
    assert (row.target, row.source) == ("executor", "float") and row.measures.right != first.measures.right
    assert row.measures.right == round(32 * found.clean["executor"].value)
    assert row.measures.clean_accuracy == found.clean["executor"]


def test_twins_are_judged_by_the_integers() -> None:
    """Logits of the one, gradients of the other: what counts is what the integers say of the points."""
    found = mixed_alone(attacks=("pgd?restarts=1&eps=0.3",), on=("executor",), twins=True, images=32)
    (row,) = found.results
    assert row.measures.fooled > 0 and row.measures.queries is not None
    assert found.transfers[row.attack].share("executor", "executor") == row.measures.success
    assert "judged by the integers" in found.notes[0]
    plain = mixed_alone(attacks=("pgd?restarts=1&eps=0.3",), on=("fake-quantized", "executor"), images=32).results[1]
    assert plain.measures.right == row.measures.right and plain.measures.fooled <= row.measures.fooled


def test_a_network_is_lowered_once_for_each_rounding(run: Path) -> None:
    held = HeldRun(run, None, "")
    quantized = SimpleNamespace(model=held.opened.task.model)
    with (
        mock.patch.object(_variants, "ptq", return_value=quantized),
        mock.patch.object(_variants, "integer_network", side_effect=lambda *_: object()) as lower,
    ):
        made = [held._graph(bits, how) for bits in ("W8A8", "W4A4") for how in ("float32", "single", "float32")]
    assert lower.call_count == 4 == len(set(map(id, made))) and made[0] is made[2] is not made[3]
