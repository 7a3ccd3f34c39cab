"""A training of a supernet by itself: what it holds out, what it leaves, and what goes on from that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from mixbit import Task, _distributed
from mixbit.cost import LayerBits
from mixbit.errors import DataError, MixbitError, PolicyError, StaleRun, WeightsError
from mixbit.evaluation import evaluate
from mixbit.quantization import quantizers
from mixbit.supernet import (
    SandwichStep,
    SubnetJudge,
    SupernetConfig,
    SupernetTraining,
    Uniform,
    load_supernet,
    supernet_settings,
    train_supernet,
    training,
)
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.training import StepContext, TrainConfig
from tests.supernet import nets
from tests.tasks import tiny_task

SHORT = {"bits": (8, 4, 2), "epochs": 2, "batch_size": 16, "passes": 3, "calibration_images": 16,
         "statistics_images": 32, "held_out": 0.25}  # fmt: skip


def short(**more: Any) -> SupernetTraining:
    return SupernetTraining(**{**SHORT, **more})


def numbers(supernet: training.Supernet) -> list[float]:
    return [supernet.judge(Uniform(bits)).loss for bits in (2, 4, 8)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[float]]:
    """A folder, what was told, and losses of three sub-networks."""
    folder, told = tmp_path_factory.mktemp("supernets") / "net", list[str]()
    found = train_supernet(tiny_task(), short(), run=folder, quiet=True, tell=told.append)
    return folder, told, numbers(found)


def test_the_folder_gives_the_supernet_back(trained: tuple[Path, list[str], list[float]]) -> None:
    folder, _, losses = trained
    task = tiny_task()
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.fill_(1.5)  # weights are the supernet's own, all of them
    found = load_supernet(task, folder)
    assert numbers(found) == losses and found.weights == folder / "supernet.safetensors"
    assert found.settings == short() == supernet_settings(folder)
    assert {path.name for path in folder.iterdir()} >= {"supernet.json", "supernet.safetensors", "metrics.jsonl"}


def test_a_line_is_told_after_every_epoch_and_kept(trained: tuple[Path, list[str], list[float]]) -> None:
    folder, told, losses = trained
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(told) == 2
    for line, text in zip(lines, told, strict=True):
        shares = [
            f"{name} accuracy {100 * line['subnets'][name]['accuracy']:.2f} %" for name in ("W2A2", "W4A4", "W8A8")
        ]
        assert text == f"epoch {line['epoch']}: {', '.join(shares)} on held-out samples"
    assert [lines[-1]["subnets"][name]["loss"] for name in ("W2A2", "W4A4", "W8A8")] == losses


@pytest.mark.parametrize("kind", ["lsq", "batchquant"])
def test_a_killed_training_goes_on_to_the_same_numbers(kind: str, tmp_path: Path) -> None:
    """In the middle of an epoch, with a checkpoint after every step."""
    settings, call, done = short(activations=kind, norms="bits"), SandwichStep.__call__, list[int]()
    whole = train_supernet(tiny_task(), settings, run=tmp_path / "a", quiet=True)

    def killed(self: SandwichStep, context: StepContext, x: Any, y: Any) -> Any:
        if context.number == 4:
            raise KeyboardInterrupt
        done.append(context.number)
        return call(self, context, x, y)

    always = replace(settings.training(), checkpoint_seconds=0.0)
    with mock.patch.object(SupernetTraining, "training", return_value=always):
        with mock.patch.object(SandwichStep, "__call__", killed), pytest.raises(KeyboardInterrupt):
            train_supernet(tiny_task(), settings, run=tmp_path / "b", quiet=True)
        assert not (tmp_path / "b" / "supernet.safetensors").exists() and done == [0, 1, 2, 3]
        found = train_supernet(tiny_task(), settings, run=tmp_path / "b", quiet=True)
    assert numbers(found) == numbers(whole)
    one, other = (load_file(tmp_path / name / "supernet.safetensors") for name in "ab")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_held_out_follows_its_own_seed_and_trains_nothing() -> None:
    task = tiny_task()

    def held(**more: Any) -> set[bytes]:
        part, out = short(**more).parts(task)
        first, second = ({x.numpy().tobytes() for x in split.batches(64).__next__()[0]} for split in (part.train, out))
        assert not first & second and len(first | second) == 64 and len(second) == 16
        return second

    assert held() == held(seed=3) != held(held_out_seed=3)


def test_statistics_are_of_batches_of_the_trainings_size_and_of_images_that_train() -> None:
    task, settings = tiny_task(), short()
    part, held = settings.parts(task)
    model = training.build_supernet(part, settings)
    judge = settings.judge(model, part, held)
    assert [len(x) for x in judge.batches] == [16, 16] and judge.held_out is held and judge.batch_size == 32
    ours = {x.numpy().tobytes() for x in part.train.batches(48).__next__()[0]}
    assert all(x.numpy().tobytes() in ours for batch in judge.batches for x in batch)


def test_statistics_are_of_the_very_batches_that_the_training_begins_with() -> None:
    """In its order, and moved and mirrored as it has them."""
    task, seen = tiny_task(), list[torch.Tensor]()
    moving: Any = task.train
    moving.pad, moving.flip = 2, True
    settings = short(seed=3, epochs=1, fraction=1.0)

    def watched(_self: SandwichStep, context: StepContext, x: Any, _y: Any) -> Any:
        seen.append(x.clone())
        if context.number == 1:
            raise KeyboardInterrupt
        return torch.tensor(0.0)

    with mock.patch.object(SandwichStep, "__call__", watched), pytest.raises(KeyboardInterrupt):
        train_supernet(task, settings, quiet=True)
    own = settings.judge(task.model, *settings.parts(task)).batches
    assert all(torch.equal(one, other) for one, other in zip(own, seen, strict=True))


def test_several_processes_of_a_training_are_judged_for_by_one_and_by_others() -> None:
    """In batches of the size that each of them saw, which are together the batches of one."""
    task, settings = tiny_task(), short()
    part, held = settings.parts(task)
    whole = settings.judge(task.model, part, held).batches
    four = settings.judge(task.model, part, held, processes=4).batches
    assert [len(x) for x in four] == [4] * 8 and len(whole) == 2
    assert all(torch.equal(torch.cat(list(four[at::2])), whole[at]) for at in (0, 1))
    for processes, world, shares in ((4, 2, ([0, 2], [1, 3])), (1, 2, ([0], [0])), (2, 2, ([0], [1]))):
        every = settings.judge(task.model, part, held, processes=processes).batches
        for rank, own in enumerate(shares):
            with (
                mock.patch.object(_distributed, "rank", return_value=rank),
                mock.patch.object(_distributed, "world_size", return_value=world),
            ):
                found = settings.judge(task.model, part, held, processes=processes).batches
            expected = [every[2 * share + at] for share in own for at in (0, 1)]
            assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_two_real_processes_train_one_supernet_of_which_one_process_has_the_numbers(
    two_processes: dict[str, Any],
) -> None:
    first, second = (two_processes[rank]["supernet"] for rank in ("0", "1"))
    assert first == second
    folder = two_processes["folder"] / "supernet"
    alone = [load_supernet(tiny_task(), folder).judge(Uniform(bits)).loss for bits in (2, 8)]
    assert alone == pytest.approx(first["losses"], rel=1e-4)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["subnets"]
    assert [last[name]["loss"] for name in ("W2A2", "W8A8")] == first["losses"]
    assert training.statistics_batch(folder) == 8


def test_the_folder_says_how_many_processes_trained(
    trained: tuple[Path, list[str], list[float]], tmp_path: Path
) -> None:
    assert training.statistics_batch(trained[0]) == 16
    by_two = changed(trained[0], tmp_path / "two", processes=2)
    assert training.statistics_batch(by_two) == 8
    assert [len(x) for x in load_supernet(tiny_task(), by_two).judge.batches] == [8] * 4
    train_supernet(tiny_task(), short(), run=by_two, quiet=True)  # finished: whoever reads it has no say
    assert training.statistics_batch(by_two) == 8
    (by_two / "supernet.safetensors").unlink()
    train_supernet(tiny_task(), short(), run=by_two, quiet=True)  # goes on, by one
    assert training.statistics_batch(by_two) == 16


def test_another_split_is_measured_with_the_same_statistics(trained: tuple[Path, list[str], list[float]]) -> None:
    found = load_supernet(tiny_task(), trained[0])
    reported = found.judge(Uniform(4), found.task.test)
    assert reported.samples == 64 and found.judge(Uniform(4)).samples == 16
    assert reported.loss == pytest.approx(evaluate(found.model, found.task.test).loss, rel=1e-5)


# ------------------------------------------------------------------------------------------------------ bad input


def test_other_settings_and_other_networks_in_a_folder(
    trained: tuple[Path, list[str], list[float]], tmp_path: Path
) -> None:
    folder = trained[0]
    with pytest.raises(StaleRun, match="begun with settings.passes=3, now settings.passes=4"):
        train_supernet(tiny_task(), short(passes=4), run=folder, quiet=True)
    with pytest.raises(PolicyError, match="is a supernet of another model: its fingerprint is .* train a supernet of"):
        load_supernet(nets.task(), folder)
    with pytest.raises(WeightsError, match="does not fit"):
        load_supernet(tiny_task(), changed(folder, tmp_path / "a", settings={**asdict(short()), "bits": [8, 4]}))
    with pytest.raises(MixbitError, match=r"processes=0"):
        load_supernet(tiny_task(), changed(folder, tmp_path / "b", processes=0))


def changed(folder: Path, to: Path, **facts: Any) -> Path:
    """A copy with other facts of its training."""
    shutil.copytree(folder, to)
    found = json.loads((to / "supernet.json").read_text())
    (to / "supernet.json").write_text(json.dumps({**found, **facts}))
    return to


def test_folders_that_hold_no_supernet(tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match=r"holds no trained supernet.*same command on it finishes a killed one"):
        load_supernet(tiny_task(), tmp_path)
    (tmp_path / "supernet.safetensors").write_bytes(b"")
    with pytest.raises(MixbitError, match=r"has no supernet.json of version 1. Give the --run folder"):
        load_supernet(tiny_task(), tmp_path)
    (tmp_path / "supernet.json").write_text('{"format": "mixbit-supernet", "version": 2}')
    with pytest.raises(MixbitError, match=r"has no supernet.json of version 1"):
        supernet_settings(tmp_path)


def test_bits_that_it_was_not_trained_at(trained: tuple[Path, list[str], list[float]]) -> None:
    found = load_supernet(tiny_task(), trained[0])
    layers = dict.fromkeys(("conv1", "conv2", "hidden"), LayerBits(4, 2))
    layers |= dict.fromkeys(("stem", "head"), LayerBits(8, 8))
    found.check(layers)
    for wrong, told in (
        ({"conv1": LayerBits(3, 4)}, "'conv1' is asked for weights of 3 bits, .*Legal: 8, 4, 2.*--bits"),
        ({"conv1": LayerBits(4, None)}, "'conv1' is asked for activations in float"),
        ({"stem": LayerBits(4, 8)}, "'stem' is asked for weights of 4 bits.*Legal: 8.*first_last=true"),
        ({"conv3": LayerBits(4, 4)}, "'conv3' is no layer of the supernet. Legal: stem, conv1"),
    ):
        with pytest.raises(PolicyError, match=told):
            found.check({**layers, **wrong})
    with pytest.raises(PolicyError, match="'stem' is missing"):
        found.check({name: bits for name, bits in layers.items() if name != "stem"})


@pytest.mark.parametrize("kind", ["lsq", "batchquant", "pact"])
def test_channels_that_never_change_give_numbers(kind: str) -> None:
    """A dead channel, a norm that is off, and behind them a layer that gives 0 for all images: bits cannot matter."""
    task = tiny_task()
    net: Any = task.model
    with torch.no_grad():
        net.stem.weight[0], net.bn0.bias[0], net.bn0.weight[1] = 0.0, -1.0, 0.0
        net.conv1.weight.zero_()
        net.bn1.bias.fill_(-1.0)
    found = train_supernet(task, short(activations=kind, norms="pair", epochs=1), quiet=True)
    losses = numbers(found)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3) and losses[0] < 3
    assert all(torch.isfinite(tensor).all() for tensor in found.model.state_dict().values())


def test_data_that_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="Cannot hold samples out"):
        train_supernet(nets.task(), short(), quiet=True)
    for more, told in (
        ({"batch_size": 60}, r"batch_size=60 is larger than what is left to train on \(48 samples; 16 are"),
        ({"fraction": 0.25}, r"batch_size=16 is larger .* \(48 samples, fraction 0.25 of them; 16 are"),
    ):
        with pytest.raises(MixbitError, match=told):
            train_supernet(tiny_task(), short(**more), quiet=True)
    for wrong, told in (({"held_out": 1.0}, "leaves nothing to train on"), ({"bits": (4,)}, "at least two bit-widths")):
        with pytest.raises(MixbitError, match=told):
            short(**wrong)


# -------------------------------------------------------------------------------------------------------- options


def of_training(name: str) -> Callable[[Any], Any]:
    return lambda value: getattr(short(**{name: value}).training(), name)


def taken(first: Any, second: Any) -> Callable[[Any, Any], bool]:
    return lambda one, other: (one, other) == (first, second)


def judge(**more: Any) -> SubnetJudge:
    settings, task = short(**more), tiny_task()
    part, held = settings.parts(task)
    return settings.judge(task.model, part, held)


LOOP = {"epochs": (1, 3), "batch_size": (16, 8), "lr": (0.01, 0.1), "step_lr": (None, 0.1), "weight_decay": (0.0, 0.1),
        "label_smoothing": (0.0, 0.1), "distill": (0.0, 0.5), "fraction": (1.0, 0.5),
        "precision": ("float32", "bf16"), "seed": (0, 1)}  # fmt: skip


class TestSupernetTrainingOptions(OptionCases):
    """What the supernet and the loop do with theirs is in their own tables."""

    owner = SupernetTraining
    options = tuple(one for one in fields_of(SupernetTraining) if one not in fields_of(SupernetConfig) or one == "seed")
    rows = (
        *(OptionRow(name, values, of_training(name), taken(*values)) for name, values in LOOP.items()),
        OptionRow("batch_size", (16, 8), lambda v: len(judge(batch_size=v).batches[0]), taken(16, 8),
                  says="statistics"),
        OptionRow("precision", ("float32", "bf16"), lambda v: judge(precision=v).precision, taken("float32", "bf16"),
                  says="judging"),
        OptionRow("held_out", (0.25, 0.5), lambda v: len(judge(held_out=v).held_out), taken(16, 32)),
        OptionRow("held_out_seed", (0, 1), lambda v: next(judge(held_out_seed=v).held_out.batches(16))[1].tolist(),
                  lambda a, b: len(a) == len(b) == 16 and a != b),
        OptionRow("statistics_images", (16, 48), lambda v: len(judge(statistics_images=v).batches), taken(1, 3)),
        OptionRow("statistics_images", (1, 31), lambda v: len(judge(statistics_images=v).batches), taken(1, 1),
                  says="whole batches"),
    )  # fmt: skip


def test_the_loop_makes_no_statistics_of_its_own() -> None:
    """Those of a training at many bit-widths are of none of them."""
    usual = asdict(TrainConfig())
    found = {name: value for name, value in asdict(short().training()).items() if value != usual[name]}
    assert found["bn_samples"] == 0


def test_what_the_task_adds_to_the_loss_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(training, "train", lambda *_given, **named: given.append(named))
    penalty: Any = lambda model: sum(one.square().sum() for one in model.parameters())  # noqa: E731
    task = replace(tiny_task(), penalty=penalty)
    found = train_supernet(task, short(), run=tmp_path / "a", quiet=True)
    (only,) = given
    assert (only["penalty"], only["run"]) == (penalty, tmp_path / "a") and only["loss"] is found.judge.objective
    assert found.weights == tmp_path / "a" / "supernet.safetensors" and found.weights.is_file()


def test_a_network_without_distillation_has_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(training, "train", lambda *_given, **named: given.append(named["teacher"]))
    task: Task = tiny_task()
    for weight in (0.0, 0.5):
        train_supernet(task, short(distill=weight), quiet=True)
    assert given == [None, task.model]
    assert all(bank.bits for bank in quantizers(train_supernet(task, short(), quiet=True).model).values())
