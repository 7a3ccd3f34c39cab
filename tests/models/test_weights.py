"""Weights into models, and what keeps them out."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mixbit import models
from mixbit.errors import WeightsError


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def other(net: nn.Module) -> dict[str, torch.Tensor]:
    """The net's state with other numbers."""
    return {key: value + 1 for key, value in net.state_dict().items()}


def assert_loaded(net: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, value in net.state_dict().items():
        if key in state:
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_state_dict_is_loaded(tmp_path: Path, net: nn.Module, suffix: str) -> None:
    state = other(net)
    file = tmp_path / f"w{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    assert models.load_weights(net, file) is net
    assert_loaded(net, state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints_and_data_parallel_prefixes_are_unwrapped(tmp_path: Path, net: nn.Module, key: str) -> None:
    state = other(net)
    torch.save({key: {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "c.pth")
    models.load_weights(net, tmp_path / "c.pth")
    assert_loaded(net, state)


def test_a_part_called_module_keeps_its_name(tmp_path: Path) -> None:
    net = nn.ModuleDict({"module": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    state = other(net)
    torch.save(state, tmp_path / "c.pth")
    models.load_weights(net, tmp_path / "c.pth")
    assert_loaded(net, state)


def test_batch_counters_may_be_missing_and_nothing_else(tmp_path: Path, net: nn.Module) -> None:
    state = {key: value for key, value in other(net).items() if "num_batches" not in key}
    save_file(state, tmp_path / "w.safetensors")
    models.load_weights(net, tmp_path / "w.safetensors")
    del state["1.running_mean"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing: 1\.running_mean\."):
        models.load_weights(net, tmp_path / "w.safetensors")


def test_a_mismatch_lists_every_kind_and_changes_nothing(tmp_path: Path, net: nn.Module) -> None:
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = other(net)
    state["0.weight"] = torch.zeros(2, 1, 5, 5)
    state["2.weight"] = state.pop("0.bias")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        models.load_weights(net, tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "1 missing: 0.bias" in text
    assert "1 unexpected: 2.weight" in text
    assert "0.weight (file (2, 1, 5, 5), model (2, 1, 3, 3))" in text
    assert_loaded(net, before)


def test_a_mismatch_names_the_file_and_what_was_trained_under_a_policy(tmp_path: Path, net: nn.Module) -> None:
    save_file(other(net) | {"0.weight_quantizer.steps": torch.ones(1, 2)}, tmp_path / "mixed.safetensors")
    with pytest.raises(
        WeightsError, match=r"mixed.safetensors' does not fit Sequential: .*trained under a policy: give"
    ):
        models.load_weights(net, tmp_path / "mixed.safetensors")
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError) as found:
        models.load_weights(net, tmp_path / "other.safetensors")
    assert "policy" not in str(found.value)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"and \d+ more; 1 unexpected: x"):
        models.load_weights(models.build("resnet20"), tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, net: nn.Module, value: float) -> None:
    state = other(net)
    state["0.bias"][0] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"NaN or infinity in 0\.bias"):
        models.load_weights(net, tmp_path / "w.safetensors")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_nothing_is_ever_unpickled(tmp_path: Path, net: nn.Module) -> None:
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("trap.pth", "plain.pth"):
        with pytest.raises(WeightsError, match=r"run code from the file.*convert it once"):
            models.load_weights(net, tmp_path / name)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path, net: nn.Module) -> None:
    torch.save(net, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"weights_only=False.*safetensors"):
        models.load_weights(net, tmp_path / "model.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"rubbish" * 9, None])
def test_damaged_files(tmp_path: Path, net: nn.Module, suffix: str, content: bytes | None) -> None:
    file = tmp_path / f"w{suffix}"
    save_file(other(net), file) if suffix == ".safetensors" else torch.save(other(net), file)
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    with pytest.raises(WeightsError, match=file.name):
        models.load_weights(net, file)


def test_missing_files_and_other_suffixes(tmp_path: Path, net: nn.Module) -> None:
    with pytest.raises(WeightsError, match="No weights file"):
        models.load_weights(net, tmp_path / "none.pth")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"suffix '\.h5'.*\.safetensors"):
        models.load_weights(net, tmp_path / "w.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({}, "not a state_dict"), ({"epoch": 3}, "no tensors: epoch")],
)
def test_files_without_a_state_dict(tmp_path: Path, net: nn.Module, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        models.load_weights(net, tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta"])
def test_tensors_of_other_layouts_are_refused(tmp_path: Path, net: nn.Module, kind: str) -> None:
    state = dict(net.state_dict())
    name, value = next((key, value) for key, value in state.items() if value.dim() > 1)
    state[name] = {
        "sparse": lambda: value.to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "meta": lambda: value.to("meta"),
    }[kind]()
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=f"sparse, quantized, or on the meta device: {name}|not a readable PyTorch"):
        models.load_weights(net, tmp_path / "a.pth")


def test_tied_weights_are_written_apart(tmp_path: Path) -> None:
    """Parts of each other, too, and such as lie in memory channels last; each comes back by its name."""
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    plain = torch.arange(6.0)
    tied = {"a": weight, "b": weight, "c": weight[1], "d": plain, "e": plain, "f": plain[2:], "g": plain[:0]}
    models.write_weights(tmp_path / "w.safetensors", tied)
    found = models.read_weights(tmp_path / "w.safetensors")
    assert found.keys() == tied.keys() and all(torch.equal(one, tied[name]) for name, one in found.items())
