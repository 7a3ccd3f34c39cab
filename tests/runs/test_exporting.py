"""From a run folder to a verified file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixbit import runs
from mixbit.cli import main
from mixbit.cost import LayerBits
from mixbit.errors import ExportError, MixbitError
from mixbit.export import ExecutorPredictor
from mixbit.export.onnx import OnnxFile
from mixbit.models import read_weights, write_weights
from mixbit.policy import Policy
from mixbit.runs._trained import open_run
from mixbit.runs.exporting import integer_network, lowered, predictor_of, runtimes, taken
from mixbit.task import Task
from tests.cli import tiny
from tests.needs import need, needs, why
from tests.runs.conftest import DIGITS, SHORT

pytest.importorskip("onnxruntime", reason=why("onnx"))


@pytest.fixture(scope="module")
def trained(float_run: runs.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of mixed bits after a third of an epoch."""
    policy = Policy.uniform(DIGITS.task()[0].network, 4, 4)
    names = list(policy.layers)
    layers = {**policy.layers, names[1]: LayerBits(3, 5), names[2]: LayerBits(2, 8)}
    run = tmp_path_factory.mktemp("exporting") / "run"
    runs.train(float_run.trained, replace(policy, layers=layers), SHORT, run, quiet=True)
    return run


def test_the_file_is_right_and_as_small_as_its_policy(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = runs.export(trained, images=200, compare_float=False)
    assert "export: part 3 of 3: the file on 200 images\n" in capsys.readouterr().err
    found = done.verification
    assert found is not None and found.right and found.images == 200
    assert found.accuracy == pytest.approx(runs.evaluate(str(trained)).outcome.accuracy, abs=0.05)
    assert (trained / "model.onnx").stat().st_size == done.file.size_bytes
    assert isinstance(done.file, OnnxFile)
    used = runs.evaluate(str(trained)).outcome.costs
    assert done.file.policy_bytes == used.weight_bytes
    assert done.file.weight_bytes <= 1.02 * used.weight_bytes


NET = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from mixbit import Task

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x):
        return {"y": self.head(torch.relu(self.body(x)))}

def task():
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    return Task(model=Net(), train=data, test=data, loss=nn.functional.mse_loss, output="y")
"""


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one number an input, that stands under a name in a dict."""
    folder = tmp_path_factory.mktemp("regression")
    (folder / "net.py").write_text(NET)
    subject = runs.Subject(model=f"{folder / 'net.py'}:task")
    policy = Policy.uniform(subject.task()[0].network, 4, 4)
    settings = {"epochs": 1, "batch_size": 12, "lr": 0.001, "bn_samples": 0}
    runs.train(subject, policy, settings, folder / "run", quiet=True)
    return folder / "run"


def test_a_regression_is_judged_by_its_loss_and_has_no_classes(regression: Path) -> None:
    found = runs.export(regression, images=24, compare_float=False).verification
    assert found is not None and found.right and found.top1_agreement is None and found.metric.name == "loss"
    wanted = runs.evaluate(str(regression)).outcome.accuracy
    assert found.accuracy == pytest.approx(wanted, rel=0.05)
    assert found.accuracy == pytest.approx(found.reference_accuracy, rel=1e-4)


RESIDUAL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from mixbit import Task

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.depth, self.head = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.depth(x + self.body(x)))
        return self.head(x.mean((2, 3)))

def task():
    x = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.mean((1, 2, 3)).sign().long() + 1)
    return Task(model=Net(), train=data, test=data)
"""


def test_layers_that_read_16_and_12_bits_are_exact_in_the_file(tmp_path: Path) -> None:
    """A trained convolutional network with a residual sum, of which some layers read two bytes."""
    (tmp_path / "net.py").write_text(RESIDUAL)
    subject, run = runs.Subject(model=f"{tmp_path / 'net.py'}:task"), tmp_path / "run"
    layers = {"stem": LayerBits(8, 16), "body": LayerBits(4, 12), "depth": LayerBits(3, 8), "head": LayerBits(8, 16)}
    policy = replace(Policy.uniform(subject.task()[0].network, 8, 8), layers=layers)
    runs.train(subject, policy, {"epochs": 1, "batch_size": 12, "lr": 0.01, "bn_samples": 0}, run, quiet=True)
    done = runs.export(run, images=48, compare_float=False)
    assert isinstance(done.file, OnnxFile) and done.verification is not None
    assert done.verification.right and done.verification.identical == 1.0
    assert done.file.policy_bytes == done.file.weight_bytes
    assert [layer.name for layer in done.file.layers if layer.apart] == ["stem", "body", "head"]
    assert runs.verify(run / "model.onnx", run, images=48, compare_float=False).verification.right


def test_tensors_without_quantizers_are_calibrated_on_inputs_of_the_runs_seed(
    regression: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked, calibration = tmp_path / "run", list[tuple[int, int]](), Task.calibration
    shutil.copytree(regression, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "subject": {**config["subject"], "seed": 5}}))

    def told(task: Task, samples: int, seed: int) -> Any:
        asked.append((samples, seed))
        return calibration(task, samples, seed)

    monkeypatch.setattr(Task, "calibration", told)
    lowered(run, "onnx", strict=False)
    assert asked == [(256, 5)]


@pytest.mark.parametrize("kind", ["onnx", "qonnx"])
def test_a_wrong_file_of_other_weights_is_told_from_one_of_this_run(
    regression: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same network at the same bits: only the bytes tell."""
    other = tmp_path / "other"
    shutil.copytree(regression, other)
    weights = load_file(other / "model.safetensors")
    weights["head.weight"] = -weights["head.weight"]
    save_file(weights, other / "model.safetensors")
    file = tmp_path / "net.onnx"
    runs.export(other, kind, file, images=0)
    found = runs.verify(file, regression, images=8, compare_float=False).verification
    assert not found.right and found.stranger == "it is not what this version writes of this run's weights"
    own = runs.verify(file, other, images=8, compare_float=False).verification
    assert own.right and own.stranger is None
    with pytest.raises(SystemExit):
        main(["verify", str(file), "--run", str(regression), "--images", "8"])
    assert "Most likely it was exported from another run" in " ".join(capsys.readouterr().err.split())


def test_no_more_images_than_there_are_and_it_says_why(
    regression: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = runs.export(regression, compare_float=False)
    found = done.verification
    assert "the file on 24 images\n" in capsys.readouterr().err
    assert found is not None and done.most_images == found.images == 24
    assert found.fewer == "24 images instead of 1000: the test set has no more."
    assert runs.verify(regression / "model.onnx", regression, images=24, compare_float=False).verification.fewer is None
    monkeypatch.setattr("mixbit.runs.exporting.QONNX_IMAGES", 3)
    done = runs.export(regression, "qonnx", tmp_path / "net.onnx", images=20)
    found = done.verification
    assert "the file on 3 images\n" in capsys.readouterr().err
    assert found is not None and done.most_images == found.images == 3
    assert found.fewer is not None and found.fewer.startswith("3 images instead of 20: the executor of QONNX")
    with pytest.raises(ExportError, match="images=0, legal is 1 or more"):
        runs.verify(tmp_path / "net.onnx", regression, images=0)
    with pytest.raises(ExportError, match="images=-1, legal is 0 or more"):
        runs.export(regression, images=-1)


def test_verify_lists_the_layers_of_its_own_file_only(trained: Path, tmp_path: Path) -> None:
    done = runs.export(trained, out=tmp_path / "packed.onnx", images=0)
    again = runs.verify(tmp_path / "packed.onnx", trained, images=20, compare_float=True)
    assert again.content == done.file and again.verification.right
    assert set(again.verification.timings) == {"file", "float32"}
    runs.export(trained, out=tmp_path / "plain.onnx", pack="none", images=0)
    plain = runs.verify(tmp_path / "plain.onnx", trained, images=20, compare_float=False)
    assert plain.content is not None and {one.container for one in plain.content.layers} <= {"int8", "uint8"}


def test_a_file_of_another_network_is_found_out(trained: Path, float_run: runs.Trained, tmp_path: Path) -> None:
    policy = Policy.uniform(DIGITS.task()[0].network, 2, 2)
    runs.train(float_run.trained, policy, {**SHORT, "fraction": 0.05}, tmp_path / "other", quiet=True)
    runs.export(tmp_path / "other", out=tmp_path / "other.onnx", images=0)
    found = runs.verify(tmp_path / "other.onnx", trained, images=100, compare_float=False)
    assert found.content is None and not found.verification.right
    stranger = found.verification.stranger
    assert stranger is not None and "has weights of 2 bits by its metadata, and" in stranger


def test_qonnx_is_verified_by_its_own_executor(trained: Path) -> None:
    done = runs.export(trained, "qonnx", images=8)
    found = done.verification
    assert found is not None and found.kind == "qonnx" and found.images == 8
    assert found.right and not found.timings
    again = runs.verify(trained / "model.qonnx.onnx", trained, images=4)
    assert again.content is None and again.verification.right


@pytest.fixture(scope="module")
def ranged(float_run: runs.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with ranges that follow the batch, and residuals that have moved far from nothing."""
    run = tmp_path_factory.mktemp("exporting") / "ranged"
    policy = Policy.uniform(DIGITS.task()[0].network, 4, 4)
    settings = {**SHORT, "quantize": {"activations": "batchquant"}}
    runs.train(float_run.trained, policy, settings, run, quiet=True)
    state = read_weights(run / "model.safetensors")
    for number, name in enumerate(name for name in state if name.endswith("delta")):
        state[name] += 0.37 * (-1) ** number
        state[name.replace("delta", "theta")] += 0.1
    write_weights(run / "model.safetensors", state)
    return run


@pytest.mark.parametrize("kind", ["onnx", "qonnx"])
def test_ranges_that_follow_the_batch_ship_folded(ranged: Path, kind: str) -> None:
    """The file is right, twice the same, and about as good as the network that was not folded."""
    done = runs.export(ranged, kind, images=64 if kind == "onnx" else 8, compare_float=False)
    found = done.verification
    assert found is not None and found.right and found.identical is not None and found.identical >= 0.99
    if kind == "onnx":
        assert found.accuracy == pytest.approx(runs.evaluate(str(ranged)).outcome.accuracy, abs=0.15)
        assert runs.verify(ranged / "model.onnx", ranged, images=8).content is not None


def test_the_c_of_folded_ranges_is_exact(ranged: Path, tmp_path: Path) -> None:
    need("gcc")
    done = runs.export_c(ranged, images=20)
    assert done.checked is not None and done.checked.exact and done.checked.samples == 20


@needs("board")
def test_a_board_is_a_runtime_by_the_name_of_its_core(trained: Path) -> None:
    opened = open_run(trained)
    graph = integer_network(opened, trained, "single")
    asked = []
    board = predictor_of(opened, trained, "cortex-m3", lambda rounding: asked.append(rounding) or graph)
    x = opened.task.space.leave(next(opened.task.test.batches(3))[0])
    assert torch.equal(board.logits(x), ExecutorPredictor(graph, opened.task.space).logits(x))
    assert asked == ["single"] and "mps2-an385" in board.name
    assert runtimes()[0] == "executor" and {"onnx", "c", "cortex-m3"} <= set(runtimes())
    with pytest.raises(ExportError, match=r"Did you mean 'cortex-m\d+'\? Legal: executor, .*onnx.*cortex-m3"):
        predictor_of(opened, trained, "cortex-m9")


def test_a_float_run_and_other_folders_are_refused(float_run: runs.Trained, trained: Path, tmp_path: Path) -> None:
    assert float_run.trained.weights is not None
    with pytest.raises(ExportError, match="trained in float32"):
        runs.export(float_run.trained.weights.parent)
    with pytest.raises(MixbitError, match="no run folder"):
        runs.export(tmp_path)
    with pytest.raises(ExportError, match="Did you mean 'onnx'"):
        runs.export(trained, "onx")
    assert not (tmp_path / "model.onnx").exists()


def test_truncated_and_foreign_files(trained: Path, tmp_path: Path) -> None:
    runs.export(trained, out=tmp_path / "model.onnx", images=0)
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "foreign.onnx").write_text("not a model")
    for name in ("cut", "foreign", "missing"):
        with pytest.raises(ExportError, match=name):
            runs.verify(tmp_path / f"{name}.onnx", trained, images=1)


def test_strict_refuses_what_a_byte_each_would_widen(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="widens to 8 bits"):
        runs.export(trained, out=tmp_path / "model.onnx", pack="none", strict=True)
    assert not (tmp_path / "model.onnx").exists()


def test_strict_refuses_what_training_left_in_float(tmp_path: Path) -> None:
    """Weights and input of one layer, which get 8 bits without it."""
    bits = Policy.load(tiny.policy())
    replace(bits, layers={**bits.layers, "right": LayerBits(None, None)}).save(tmp_path / "policy.json")
    run = tiny.finished(tmp_path / "run", tmp_path / "policy.json")
    with pytest.raises(ExportError, match=r"^training left the weights of right and the inputs of right in float"):
        lowered(run, "onnx", strict=True)
    assert [op.weight_bits for op in lowered(run, "onnx", strict=False)[1].weighted()] == [8, 3, 8, 8]


def test_files_for_other_processors_are_told_apart(trained: Path, tmp_path: Path) -> None:
    """Each is found to be what it is, and computes what its own weights give."""
    kinds = {"any": {}, "vnni": {"cpu": "vnni"}, "strict": {"strict": True}}
    for name, options in kinds.items():
        done = runs.export(trained, out=tmp_path / f"{name}.onnx", images=0, **options)
        again = runs.verify(tmp_path / f"{name}.onnx", trained, images=50, compare_float=False)
        assert isinstance(done.file, OnnxFile) and again.content is not None
        # Where nothing is narrowed, strict gives the same file, with another reason for uint8.
        plain, found = (
            replace(file, layers=tuple(replace(layer, unsigned=None) for layer in file.layers))
            for file in (done.file, again.content)
        )
        assert plain == found
        assert again.verification.cpu == ("vnni" if name == "vnni" else "any")
        assert again.verification.right or again.verification.at_risk
    assert (tmp_path / "any.onnx").read_bytes() != (tmp_path / "vnni.onnx").read_bytes()


def test_times_of_files_for_other_processors_are_told(trained: Path, tmp_path: Path) -> None:
    """A policy that was allocated with times of files for vnni, and a file for any processor."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    policy = Policy.load(run / "policy.json")
    replace(policy, allocation={**policy.allocation, "latency_cpu": "vnni"}).save(run / "policy.json")
    note = runs.export(run, out=tmp_path / "any.onnx", images=0).note
    assert note is not None and "times of files for cpu=vnni, and this file is for cpu=any" in note
    assert runs.export(run, out=tmp_path / "vnni.onnx", cpu="vnni", images=0).note is None
    assert runs.export(trained, out=tmp_path / "plain.onnx", images=0).note is None


def test_a_processor_is_for_onnx(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cpu='vnni' is for the target onnx, and this is qonnx"):
        runs.export(trained, "qonnx", out=tmp_path / "net.qonnx.onnx", cpu="vnni")


@pytest.mark.parametrize(
    ("asked", "limit", "wanted"),
    [
        (100, None, (100, None)),
        (360, None, (360, None)),
        (361, None, (360, "360 images instead of 361: the test set has no more.")),
        (None, None, (360, None)),
        (50, 50, (50, None)),
        (51, 50, (50, "50 images instead of 51: it is slow.")),
        (None, 50, (50, "50 images instead of 360: it is slow.")),
        (500, 400, (360, "360 images instead of 500: the test set has no more.")),
    ],
)
def test_as_many_images_as_were_asked_for_and_are_there(
    asked: int | None, limit: int | None, wanted: tuple[int, str | None]
) -> None:
    assert taken(tiny.task(), asked, limit=limit, slow="it is slow") == wanted
