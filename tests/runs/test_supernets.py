"""A supernet in a run folder: trained, opened, asked for policies, and searched from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from mixbit import runs
from mixbit.cost import LayerBits, costs
from mixbit.errors import BudgetError, InfeasibleBudget, MixbitError, PolicyError, StaleRun
from mixbit.evaluation import evaluate
from mixbit.export.c import COptions, footprint
from mixbit.integer import lower_at
from mixbit.metric import top_k
from mixbit.models import write_weights
from mixbit.policy import Front, Policy
from mixbit.runs import Subject
from mixbit.supernet import SubnetJudge, SupernetTraining, Uniform, training
from tests.cli import tiny
from tests.support import random_latency

SETTINGS: dict[str, Any] = {"bits": [4, 2], "epochs": 1, "fraction": 0.1, "passes": 2, "batch_size": 32,
                            "statistics_images": 64, "calibration_images": 32}  # fmt: skip
SMALL = {"population": 3, "generations": 1}


@pytest.fixture(scope="module")
def float_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "float.safetensors"
    write_weights(file, tiny.task().model.state_dict())
    return file


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, float_weights: Path) -> Path:
    """A trained supernet of the tiny network."""
    folder = tmp_path_factory.mktemp("supernets") / "net"
    runs.train_supernet(replace(tiny.subject(), weights=float_weights), SETTINGS, folder, quiet=True)
    return folder


def test_what_a_training_leaves_and_says(net: Path, float_weights: Path) -> None:
    subject, file = replace(tiny.subject(), weights=float_weights), net / "supernet.safetensors"
    before = file.read_bytes()
    found = runs.train_supernet(subject, SETTINGS, net, quiet=True)  # finished: it is only read
    assert file.read_bytes() == before, "fronts know it by its digest"
    last = json.loads((net / "metrics.jsonl").read_text().splitlines()[-1])["subnets"]
    assert [one.name for one in found.subnets] == ["W2A2", "W4A4"] and all(path.is_file() for path in found.files)
    for one in found.subnets:
        assert one.held_out.to_json() == last[one.name] and one.test is None
        bits = int(one.name[1])
        assert one.layers["left"] == LayerBits(bits, bits) and one.layers["stem"] == LayerBits(8, 8)
        assert one.costs == costs(found.network, one.layers)
    config = json.loads((net / "config.json").read_text())
    assert (config["command"], config["settings"]) == ("supernet train", SETTINGS)
    with pytest.raises(StaleRun, match=r"begun with settings.bits=\[4, 2\], now settings.bits=\[4, 3\]"):
        runs.train_supernet(subject, {**SETTINGS, "bits": [4, 3]}, net, quiet=True)


def test_the_seed_is_the_subjects_and_kurtosis_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Enough(Exception):
        pass

    def stop(task: Any, settings: Any, **named: Any) -> None:
        given.append((task.penalty, settings.seed, named["tell"]))
        raise Enough

    monkeypatch.setattr("mixbit.runs.supernets.fit", stop)
    settings = {**SETTINGS, "kurtosis": 0.5}
    with pytest.raises(Enough):
        runs.train_supernet(replace(tiny.subject(), seed=3), settings, tmp_path / "a", task=tiny.task(), tell=print)
    ((penalty, seed, tell),) = given
    assert penalty.config.weight == 0.5 and seed == 3 and tell is print
    assert json.loads((tmp_path / "a" / "config.json").read_text())["settings"] == settings, "both begin a folder anew"


def test_the_loss_is_tried_out_as_it_will_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    def refused(*_: Any, label_smoothing: float) -> None:
        tried.append(label_smoothing)
        raise MixbitError("the loss knows no smoothing")

    monkeypatch.setattr("mixbit.runs.supernets.try_out", refused)
    with pytest.raises(MixbitError, match="knows no smoothing"):
        runs.train_supernet(tiny.subject(), {**SETTINGS, "label_smoothing": 0.25}, tmp_path / "a", quiet=True)
    assert tried == [0.25] and not (tmp_path / "a").exists()


def test_three_sub_networks_are_told_with_the_metric_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of metrics, which the training leaves."""
    task = replace(tiny.task(), metric=top_k(3))
    names, measured = ("W2A2", "W4A4", "W8A8"), {task.info.name: 0.5, "samples": 144}

    def fit(_task: Any, _settings: Any, *, run: Path, **_: Any) -> None:
        lines = [
            {"subnets": {name: {**measured, "loss": at + epoch} for at, name in enumerate(names)}} for epoch in (0, 7)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr("mixbit.runs.supernets.fit", fit)
    found = runs.train_supernet(tiny.subject(), {**SETTINGS, "bits": [8, 4, 2]}, tmp_path / "a", task=task, quiet=True)
    assert [(one.name, one.held_out.loss) for one in found.subnets] == [*zip(names, (7, 8, 9), strict=True)]
    assert all(one.held_out.info == task.info for one in found.subnets)


def test_an_opened_one_is_what_was_trained_without_the_float_weights(net: Path, float_weights: Path) -> None:
    with mock.patch.object(training, "train", side_effect=AssertionError("trained")):
        opened = runs.open_supernet(net)
    assert opened.subject == replace(tiny.subject(), weights=float_weights) and opened.run == net
    assert opened.network == tiny.task().network
    last = json.loads((net / "metrics.jsonl").read_text().splitlines()[-1])["subnets"]
    assert opened.supernet.judge(Uniform(2)).to_json() == last["W2A2"]


def test_policies_and_uniform_bits_are_measured_on_both_splits(net: Path, tmp_path: Path) -> None:
    opened = runs.open_supernet(net)
    policy = Policy.uniform(opened.network, 4, 2)
    policy = replace(policy, layers={**policy.layers, "right": LayerBits(2, 2)})
    policy.save(tmp_path / "mine.json")
    first, second = runs.evaluate_supernet(net, [tmp_path / "mine.json"], [LayerBits(4, 2)])
    assert (first.name, second.name) == ("mine.json", "W4A2") and second.layers["right"] == LayerBits(4, 2)
    for one in (first, second):
        assert one.held_out == opened.supernet.judge(one.layers) and one.held_out.samples == 144
        assert one.test == evaluate(opened.supernet.model, opened.supernet.task.test, batch_size=64)
        assert one.costs == costs(opened.network, one.layers)
    (third,) = runs.evaluate_supernet(net, [], [LayerBits(4, 2)], test=False)
    assert third == replace(second, test=None)


def test_a_comparison_is_judged_by_what_was_trained_alone(net: Path, float_weights: Path, tmp_path: Path) -> None:
    subject = replace(tiny.subject(), weights=float_weights)
    found = runs.compare(subject, ["uniform"], ["bitops=4x4"], tmp_path / "c", judge=net, baselines=False, quiet=True)
    (row,), (alone,) = found.rows, runs.evaluate_supernet(net, [], [LayerBits(4, 4)], test=False)
    assert row.judged is not None and row.judged.loss == pytest.approx(alone.held_out.loss, rel=1e-6)
    assert found.judge is not None and found.judge.on == "144 training images that trained nothing (seed 0)"


def test_what_cannot_be_evaluated(net: Path, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="nothing to evaluate. Give --policy FILE, or --bits 4x4"):
        runs.evaluate_supernet(net)
    with pytest.raises(PolicyError, match="'left' is asked for weights of 3 bits, .* Legal: 4, 2"):
        runs.evaluate_supernet(net, [], [LayerBits(2, 2), LayerBits(3, 2)])
    policy = Policy.uniform(runs.open_supernet(net).network, 4, 4)
    replace(policy, fingerprint="sha256:" + 16 * "0").save(tmp_path / "other.json")
    with pytest.raises(PolicyError, match="made for another model"):
        runs.evaluate_supernet(net, [tmp_path / "other.json"])


def test_folders_that_cannot_be_opened(net: Path, tmp_path: Path) -> None:
    runs.train(tiny.subject(), None, {"epochs": 1, "fraction": 0.05, "batch_size": 32}, tmp_path / "r", quiet=True)
    with pytest.raises(MixbitError, match="holds no trained supernet"):
        runs.open_supernet(tmp_path / "r")
    shutil.copytree(net, tmp_path / "moved")
    with pytest.raises(StaleRun, match="was trained on other data.*Give the data that it was trained on"):
        runs.open_supernet(tmp_path / "moved", data="digits?seed=3")
    config = tmp_path / "moved" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "content": {"data": "blake2b:other"}}))
    with pytest.raises(StaleRun, match=r"other data: 'digits', content blake2b:other; here are 'digits', content"):
        runs.open_supernet(tmp_path / "moved")
    config.write_text(before)
    settings = json.loads((tmp_path / "moved" / "supernet.json").read_text())
    (tmp_path / "moved" / "supernet.json").write_text(json.dumps({**settings, "fingerprint": "sha256:other"}))
    with pytest.raises(PolicyError, match="is a supernet of another model"):
        runs.open_supernet(tmp_path / "moved")


def test_a_folder_of_a_search_that_trained_opens_too(tmp_path: Path) -> None:
    settings = {**SETTINGS, **SMALL}
    found = runs.search(replace(tiny.subject(), seed=2), "qfa", settings, tmp_path / "s", quiet=True)
    opened = runs.open_supernet(tmp_path / "s")
    assert isinstance(found.result, Front) and opened.supernet.settings.seed == 2
    for point in found.result.points:
        assert opened.supernet.judge(point.layers).loss == pytest.approx(point.quality["loss"], rel=1e-6)


# ------------------------------------------------------------------------------------------------------ searching


def test_a_search_weighs_and_limits_times_and_what_c_takes(net: Path, tmp_path: Path) -> None:
    """By a table of times, and of policies that were laid out as C."""
    task, table, options = tiny.task(), tmp_path / "times.json", COptions(kernels="plain")
    times = random_latency(task.network, (2, 4, 8), seed=1)
    times.save(table)
    settings = {**SMALL, "generations": 2, "starts": ["map-size"], "costs": ["latency", "ram_bytes"],
                "limits": ["ram=4x2", "flash=4x4"]}  # fmt: skip

    def searched(**more: Any) -> Any:
        how = {"latency": table, "c_options": options, "rounding": "double", **more}
        return runs.search(Subject(model=str(net)), "qfa", settings, tmp_path / "s", quiet=True, **how).result

    front = searched()
    lower = lower_at(task.model, task.network, task.example(), rounding="double", apart=True)
    at_limit = runs.supernets.uniform_layers(task.network, LayerBits(4, 2), SupernetTraining())
    most = footprint(lower(at_limit), options=options)
    for point in front.points:
        laid = footprint(lower(point.layers), options=options)
        assert (point.costs["ram_bytes"], point.costs["flash_bytes"]) == (laid.ram_bytes, laid.flash_bytes)
        assert point.costs["latency_ns"] == times.cost(point.layers) and laid.ram_bytes <= most.ram_bytes
    assert searched() == front == Front.load(tmp_path / "s" / "front.json")
    with pytest.raises(StaleRun, match="rounding"):
        searched(rounding="single")
    with pytest.raises(BudgetError, match="costs='latency' needs a latency table"):
        runs.search(Subject(model=str(net)), "qfa", {**SMALL, "costs": ["latency"]}, tmp_path / "q", quiet=True)
    assert not (tmp_path / "q").exists()


def test_a_search_in_a_trained_supernet_trains_nothing_and_its_front_is_taken(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "front"
    with mock.patch.object(training, "train", side_effect=AssertionError("trained")):
        done = runs.search(Subject(model=str(net), seed=5), "qfa", SMALL, out, quiet=True)
    front = done.result
    assert isinstance(front, Front) and front == Front.load(out / "front.json") and front.seed == 5
    assert front.weights is not None and front.weights.check(out).resolve() == (net / "supernet.safetensors").resolve()
    opened = runs.open_supernet(net)
    for point in front.points:
        assert opened.supernet.judge(point.layers).loss == pytest.approx(point.quality["loss"], rel=1e-6)
    with mock.patch.object(SubnetJudge, "__call__", side_effect=AssertionError("measured")):
        assert runs.search(Subject(model=str(net), seed=5), "qfa", SMALL, out, quiet=True).result == front
    with pytest.raises(StaleRun, match="begun with settings.population=3, now settings.population=4"):
        runs.search(Subject(model=str(net), seed=5), "qfa", {**SMALL, "population": 4}, out, quiet=True)

    with pytest.raises(PolicyError, match="holds a trained supernet, and no front yet: mixbit search qfa"):
        runs.pick(net)
    again = runs.open_supernet(out)  # the search's folder leads to the supernet
    assert runs.is_supernet(out) and runs.is_supernet(net) and not runs.is_supernet(tiny.net())
    assert again.run.resolve() == net.resolve() and again.supernet.settings == opened.supernet.settings
    picked = runs.pick(out, ["bitops=4x4"], by="loss")
    assert picked.policy is not None
    runs.take(picked, tmp_path / "taken")
    assert picked.subject is not None
    gone = replace(picked, subject=replace(picked.subject, weights=tmp_path / "gone.safetensors"))
    runs.take(gone, tmp_path / "bare")  # the float weights are the supernet's start, and not its network
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("taken", "bare"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (same,) = [one for one in front.points if one.layers == picked.policy.layers]
    wanted, taken = (
        opened.supernet.judge(same.layers, opened.supernet.task.test),
        runs.evaluate(str(tmp_path / "taken")),
    )
    assert taken.metrics.loss == pytest.approx(wanted.loss, rel=1e-5) and taken.outcome.costs == picked.costs
    exported = runs.export(tmp_path / "taken", images=40, compare_float=False)
    assert exported.verification is not None and exported.verification.right
    still = {"epochs": 1, "fraction": 0.05, "lr": 1e-12, "weight_decay": 0.0, "bn_samples": 0, "batch_size": 32}
    tuned = runs.train(Subject(model=str(tmp_path / "taken")), None, still, tmp_path / "tuned", quiet=True)
    assert tuned.metrics.loss == pytest.approx(taken.metrics.loss, rel=1e-4), "the supernet's weights are its start"
    with pytest.raises(MixbitError, match="network of many bit-widths, and no bits that were chosen. Take a sub-netw"):
        runs.evaluate(str(net))


def test_a_killed_search_in_a_supernet_goes_on_to_the_same_front(net: Path, tmp_path: Path) -> None:
    settings, call, done = {"population": 4, "generations": 3}, SubnetJudge.__call__, list[str]()
    whole = runs.search(Subject(model=str(net)), "qfa", settings, tmp_path / "a", quiet=True).result

    def killed(self: SubnetJudge, layers: Any, on: Any = None) -> Any:
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(str(layers))
        return call(self, layers, on)

    def watched(self: SubnetJudge, layers: Any, on: Any = None) -> Any:
        assert str(layers) not in done, "measured twice"
        return call(self, layers, on)

    with mock.patch.object(SubnetJudge, "__call__", killed), pytest.raises(KeyboardInterrupt):
        runs.search(Subject(model=str(net)), "qfa", settings, tmp_path / "b", quiet=True)
    assert not (tmp_path / "b" / "front.json").exists()
    with mock.patch.object(SubnetJudge, "__call__", watched):
        found = runs.search(Subject(model=str(net)), "qfa", settings, tmp_path / "b", quiet=True).result
    assert isinstance(found, Front) and isinstance(whole, Front) and found.points == whole.points


@pytest.mark.parametrize(
    ("method", "more", "settings", "told"),
    [
        ("fit", {}, {}, "fit takes a model, and .* is the run folder of a supernet, whose sub-networks qfa searches"),
        ("qfa", {"weights": Path("w.pth")}, {}, "brings its own weights: leave --weights out"),
        (
            "qfa",
            {},
            {"epochs": 3},
            "epochs=3 has no effect: .* is trained already. Legal here: costs, limits, by, starts, pop",
        ),
        ("qfa", {}, {"limits": ["bitop=3"]}, "Did you mean"),
        ("qfa", {"data": "digits?seed=1"}, {}, "was trained on other data"),
    ],
)
def test_what_cannot_be_searched(
    net: Path, tmp_path: Path, method: str, more: dict[str, Any], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(MixbitError, match=told):
        runs.search(Subject(model=str(net), **more), method, settings, tmp_path / "o", quiet=True)
    assert not (tmp_path / "o").exists()


def test_limits_below_the_smallest_sub_network_are_refused_before_anything_is_trained(
    net: Path, tmp_path: Path
) -> None:
    """With what is feasible and what blocks it, and no folder is claimed."""
    least = runs.evaluate_supernet(net, [], [LayerBits(2, 2)], test=False)[0].costs.bitops
    smallest = f"{-(-least // 10) / 100:.2f}k"
    told = rf"bitops=1 cannot be met: the smallest is {smallest} .*layers that block it: stem .*Raise the limit"
    for subject, settings in ((Subject(model=str(net)), {}), (tiny.subject(), SETTINGS)):
        with (
            pytest.raises(InfeasibleBudget, match=told),
            mock.patch.object(training, "train", side_effect=AssertionError("trained")),
        ):
            runs.search(subject, "qfa", {**settings, "limits": ["bitops=1"]}, tmp_path / "o", quiet=True)
    assert not (tmp_path / "o").exists()


def test_a_batch_quant_supernet_is_judged_by_batches_of_its_trainings_size(tmp_path: Path) -> None:
    """Others are warned of, one sample is refused, and the taken network keeps the size for what comes after."""
    settings = {**SETTINGS, "activations": "batchquant", "batch_size": 16}
    runs.train_supernet(tiny.subject(), settings, tmp_path / "net", quiet=True)
    opened = runs.open_supernet(tmp_path / "net")
    supernet, images = opened.supernet, next(opened.supernet.task.train.batches(256))[0]
    for size, told in (
        (128, "batches of 128 samples of a network that was trained on batches of 16"),
        (4, "of 4 samp"),
    ):
        judge = SubnetJudge(supernet.model, [images[:size]], supernet.held_out, supernet.task.objective)
        with pytest.warns(UserWarning, match=told):
            judge(Uniform(4))
    with pytest.raises(MixbitError, match="calibration by batches of one sample.*16 samples"):
        SubnetJudge(supernet.model, [images[:1]], supernet.held_out, supernet.task.objective)(Uniform(4))
    runs.search(Subject(model=str(tmp_path / "net")), "qfa", SMALL, tmp_path / "front", quiet=True)
    runs.take(runs.pick(tmp_path / "front", ["bitops=8x8"], by="loss"), tmp_path / "taken")
    assert json.loads((tmp_path / "taken" / "config.json").read_text())["settings"]["batch_size"] == 16
    exported = runs.export(tmp_path / "taken", images=40, compare_float=False)  # recalibrates: a warning is an error
    assert exported.verification is not None and exported.verification.right


def test_one_image_of_calibration_and_channels_that_never_change(tmp_path: Path) -> None:
    """First steps from one image; a layer whose inputs are 0 throughout gives numbers, and no NaN."""
    task = tiny.subject().task()[0]
    stem: Any = task.model.get_submodule("stem")
    with torch.no_grad():
        stem.weight.zero_()
        stem.bias.fill_(-1.0)
    for kind, images in (("lsq", 1), ("batchquant", 16)):
        settings = {**SETTINGS, "activations": kind, "calibration_images": images, "statistics_images": 1}
        folder = tmp_path / kind
        runs.train_supernet(tiny.subject(), settings, folder, task=task, quiet=True)
        found = runs.open_supernet(folder).supernet
        for bits in (2, 4):
            assert found.judge(Uniform(bits)).loss < 1e3
        assert all(torch.isfinite(one).all() for one in found.model.state_dict().values())
        bank: Any = found.model.get_submodule("left.input_quantizer")
        if kind == "batchquant":
            assert (float(bank.steps[bank.index]), float(bank.zero_points[bank.index])) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"activations": "batchquant", "calibration_images": 1}, "calibration_images=1 with activations='batchquant'"),
        ({"activations": "batchquant", "batch_size": 1}, "batch_size=1 with activations='batchquant', whose range is"),
        ({"batch_size": 1300, "fraction": 1.0}, r"batch_size=1300 is larger .*\(1293 samples; 144 are held out\)"),
        ({"batch_size": 140}, r"batch_size=140 is larger .*\(1293 samples, fraction 0.1 of them; 144 are held out\)"),
        ({"bits": [4]}, "Legal: at least two bit-widths, none twice"),
        ({"population": 4}, "has no setting 'population'"),
    ],
)
def test_what_cannot_be_trained_claims_no_folder(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match=told):
        runs.train_supernet(tiny.subject(), {**SETTINGS, **settings}, tmp_path / "o", quiet=True)
    assert not (tmp_path / "o").exists()


def test_a_network_of_ends_alone_claims_no_folder_and_can_be_trained_with_them(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    subject, folder = replace(tiny.subject(), model=f"{tmp_path / 'ends.py'}:build"), tmp_path / "o"
    for begin in (
        lambda: runs.train_supernet(subject, SETTINGS, folder, quiet=True),
        lambda: runs.search(subject, "qfa", {**SETTINGS, **SMALL}, folder, quiet=True),
    ):
        with pytest.raises(MixbitError, match="no layer of the network has a choice of bits.*--set first_last=true"):
            begin()
        assert not folder.exists()
    too_many = {**SETTINGS, **SMALL, "first_last": True, "batch_size": 140}
    with pytest.raises(MixbitError, match="batch_size=140 is larger"):
        runs.search(subject, "qfa", too_many, folder, quiet=True)
    assert not folder.exists()
    done = runs.train_supernet(subject, {**SETTINGS, "first_last": True}, folder, quiet=True)
    assert [dict(one.layers) for one in done.subnets] == [{"1": LayerBits(2, 2)}, {"1": LayerBits(4, 4)}]


def test_a_search_after_a_killed_training_says_how_to_finish_it(net: Path, tmp_path: Path) -> None:
    killed = shutil.copytree(net, tmp_path / "killed")
    (killed / "supernet.safetensors").unlink()
    with pytest.raises(MixbitError, match="holds no trained supernet .*the same command on it finishes a killed one"):
        runs.search(Subject(model=str(killed)), "qfa", SMALL, tmp_path / "o", quiet=True)
    assert not (tmp_path / "o").exists()
