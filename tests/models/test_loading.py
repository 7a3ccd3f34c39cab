"""Models named in one string."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from torch import nn

from mixbit import models
from mixbit.errors import MixbitError

FILE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.fc = nn.Linear(2, num_classes)
    def forward(self, x):
        return self.fc(x)

def make(num_classes=4):
    return Small(num_classes)

def fixed():
    return Small()

def needs(width):
    return Small(width)

def number():
    return 3

ready = nn.Linear(1, 7)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "user_net.py"
    path.write_text(FILE)
    return str(path)


def test_zoo_names_take_the_number_of_classes() -> None:
    assert models.load_model("digits-resnet").fc.out_features == 10
    assert models.load_model("digits-resnet", num_classes=3).fc.out_features == 3


def test_package_and_factory() -> None:
    net = models.load_model("mixbit.models.digits:digits_resnet", num_classes=5)
    assert net.fc.out_features == 5


def test_file_and_factory(file: str) -> None:
    assert models.load_model(f"{file}:make").fc.out_features == 4
    assert models.load_model(f"{file}:make", num_classes=6).fc.out_features == 6
    assert models.load_model(f"{file}:Small", num_classes=6).fc.out_features == 6


def test_a_factory_without_the_parameter_is_called_as_it_is(file: str) -> None:
    assert models.load_model(f"{file}:fixed", num_classes=6).fc.out_features == 4


def test_a_ready_module_is_taken(file: str) -> None:
    assert models.load_model(f"{file}:ready").out_features == 7


@pytest.mark.parametrize("name", ["build_model", "build", "make_model", "create_model", "model", "Model", "Net"])
def test_usual_names_need_no_factory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(f"from torch import nn\ndef {name}():\n    return nn.Linear(1, 9)\n")
    assert isinstance(models.load_model(str(path)), nn.Linear)


def test_models_of_a_file_can_be_exported_and_copied(file: str) -> None:
    """Their class must be found again by its module's name."""
    import copy

    import torch

    net = models.load_model(f"{file}:make").eval()
    assert torch.export.export(copy.deepcopy(net), (torch.zeros(1, 2),), strict=False) is not None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet-20", "Did you mean 'resnet20'"),
        ("nets/resnet20", "write a zoo name"),
        ("no_such_package.nets:make", "no module named 'no_such_package'"),
        ("mixbit.models.digits:digitsresnet", "Did you mean 'digits_resnet'"),
        ("none.py", "no file at 'none.py'"),
    ],
)
def test_specs_that_name_nothing(spec: str, message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        models.load_model(spec)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("", "which factory.*Small, make, fixed, needs, number, ready"),
        (":nmber", "Did you mean 'number'"),
        (":number", "gives a int"),
        (":needs", "the factory failed: TypeError"),
        (":FILE", "no 'FILE' there"),
    ],
)
def test_factories_that_give_nothing(file: str, factory: str, message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        models.load_model(file + factory)


def test_a_file_that_fails_keeps_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(MixbitError, match="ZeroDivisionError") as caught:
        models.load_model(f"{path}:make")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_failure_names_the_line_of_the_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import statistics\ndef inner(x):\n    return statistics.mean(x)\n\ndef make():\n    return inner([])"
    )
    with pytest.raises(MixbitError, match=r"the factory failed: StatisticsError: .*mine\.py, line 3\)\.$"):
        models.load_model(f"{path}:make")
    path.write_text("# width\n\nwidth = {}['width']\n")
    with pytest.raises(MixbitError, match=r"KeyError: 'width' \(.*mine\.py, line 3\)\.$"):
        models.load_model(str(path))


def test_a_failing_import_names_the_line_of_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_net.py").write_text("def inner():\n    return {}['width']\n\ninner()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MixbitError, match=r"KeyError: 'width' \(.*failing_net\.py, line 2\)\.$"):
        models.load_model("failing_net:make")


def test_factories_that_take_channels_get_those_of_the_images(file: str) -> None:
    assert models.load_model("resnet20", num_classes=7, in_channels=1).conv1.in_channels == 1
    assert models.load_model("mixbit.models.digits:digits_resnet", in_channels=3).conv1.in_channels == 3
    # Others are made as they are: their own error, at the first image, says what does not fit.
    assert models.load_model("mobilenetv2", in_channels=1).features[0][0].in_channels == 3
    assert models.load_model(f"{file}:make", num_classes=6, in_channels=1).fc.out_features == 6


LEAVING = """
import signal
import sys
from torch import nn

class Own(BaseException):
    pass

def leaves(): sys.exit(0)
def raises_own(): raise Own("mine")
def generator(): raise GeneratorExit
def interrupts(): raise KeyboardInterrupt
def interrupted(): signal.raise_signal(signal.SIGINT)
def meta(): return nn.Linear(1, 1, device="meta")
"""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("leaves", "the factory failed: SystemExit: 0"),
        ("raises_own", "the factory failed: Own: mine"),
        ("interrupts", "the factory failed: KeyboardInterrupt"),
        ("generator", "the factory failed: GeneratorExit"),
        ("meta", "'weight' is on the meta device and holds no numbers"),
    ],
)
def test_a_factory_cannot_end_the_command(tmp_path: Path, factory: str, message: str) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    with pytest.raises(MixbitError, match=message):
        models.load_model(f"{tmp_path / 'leaving.py'}:{factory}")


def test_an_interruption_from_the_keyboard_stays_one(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores the keyboard
    try:
        with pytest.raises(KeyboardInterrupt):
            models.load_model(f"{tmp_path / 'leaving.py'}:interrupted")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_file_cannot_end_the_command(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    with pytest.raises(MixbitError, match="running .* failed: SystemExit"):
        models.load_model(f"{tmp_path / 'exits.py'}:net")


@pytest.mark.parametrize("spec", ["sys:exit", "os:abort", "torch:zeros"])
def test_built_in_functions_are_not_called(spec: str) -> None:
    """They make no module, and some end the process."""
    with pytest.raises(MixbitError, match="is a built-in function"):
        models.load_model(spec, num_classes=3)
