"""A latency table of a model of the user's, measured for real; times are not looked at."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mixbit import runs
from mixbit.cost import LatencyTable, LayerBits
from mixbit.errors import BudgetError, FileError, InfeasibleBudget, MixbitError, StaleRun
from mixbit.export import _machine
from mixbit.latency.tables import Lower
from mixbit.network import Network
from mixbit.policy import LayerScores, Policy, Scores
from mixbit.runs import BuiltLatency, Subject
from tests.needs import need, needs

NET = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
"""
SHAPE = (1, 8, 8)
QUICK: dict[str, Any] = {"bits": (4, 8), "repeats": 2, "checks": 1, "compare_float": False, "input_shape": SHAPE}


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Two convolutions and a linear layer, in a file."""
    file = tmp_path_factory.mktemp("model") / "net.py"
    file.write_text(NET)
    return Subject(model=str(file))


@pytest.fixture(scope="module")
def built(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> BuiltLatency:
    """Its table."""
    need("onnx")
    return runs.build_latency(subject, "onnxruntime", tmp_path_factory.mktemp("latency") / "t.json", **QUICK)


def test_the_table_is_written_and_of_this_network(built: BuiltLatency) -> None:
    (path,) = built.files
    assert LatencyTable.load(path) == built.table
    assert built.table.check(built.network) is built.table
    assert list(built.table.layers) == ["0", "2", "5"]
    assert built.table.float32 is None
    assert [check.name for check in built.table.checks] == ["random 0"]
    assert [one.name for one in path.parent.iterdir()] == ["t.json"], "finished measurements were left behind"


def test_a_killed_build_goes_on(subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("onnx")

    def kill(line: str) -> None:
        if line == "Whole networks":
            raise KeyboardInterrupt

    out = tmp_path / "t.json"
    quick = {**QUICK, "bits": (8,)}
    with pytest.raises(KeyboardInterrupt):
        runs.build_latency(subject, "onnxruntime", out, tell=kill, **quick)
    assert [one.name for one in tmp_path.iterdir()] == ["t.json.partial"]
    head, line = (tmp_path / "t.json.partial").read_text().splitlines()
    kept = json.loads(line)
    kept["value"]["networks"]["W8A8"]["steps"][0]["kernel"] += " as measured before"
    (tmp_path / "t.json.partial").write_text(f"{head}\n{json.dumps(kept)}\n")
    with pytest.raises(StaleRun, match="repeats=2, now repeats=3"):
        runs.build_latency(subject, "onnxruntime", out, **{**quick, "repeats": 3})
    out.mkdir()  # no place for the table: hours of measurements stay
    with pytest.raises(FileError, match="A folder has that name"):
        runs.build_latency(subject, "onnxruntime", out, **quick)
    out.rmdir()
    assert len((tmp_path / "t.json.partial").read_text().splitlines()) == 3
    done = runs.build_latency(subject, "onnxruntime", out, **quick)
    assert any(kernel.endswith("as measured before") for kernel in done.table.kernels)
    assert [one.name for one in tmp_path.iterdir()] == ["t.json"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latency: ")]
    assert said[0] == "latency: 2 steps"  # on a slow machine lines of the interval follow
    assert next(line for line in said if "stopped" in line).startswith("latency: stopped, 1/2")
    assert sum(line.startswith("latency: done, 2/2 in ") for line in said) == 2


FORK = """
from torch import nn
class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.arms = nn.ModuleList(nn.Conv2d(4, 2, 1) for _ in range(3))
    def forward(self, x):
        x = self.stem(x).relu()
        return sum(arm(x).relu().mean((2, 3), True) for arm in self.arms[1:]) + self.arms[0](x).mean((2, 3), True)
def build():
    return nn.Sequential(Fork(), nn.Flatten(), nn.Linear(2, 3))
"""


def test_readers_of_one_tensor_have_steps_of_their_own_as_after_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fork.py").write_text(FORK)
    seen: list[Counter[str]] = []

    class Enough(Exception):
        pass

    def build(network: Network, lower: Lower, *_: Any, **__: Any) -> None:
        seen.append(Counter(op.kind for op in lower({one.name: LayerBits(4, 4) for one in network.layers}).ops))
        raise Enough

    monkeypatch.setattr("mixbit.runs.latency.build", build)
    with pytest.raises(Enough):
        runs.build_latency(Subject(model=str(tmp_path / "fork.py")), "onnxruntime", tmp_path / "t.json", **QUICK)
    assert seen[0]["Requantize"] >= 3, "one for each of the three arms"


def test_the_machine_is_named_by_its_first_core_or_as_python_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "processor\t: 0\nmodel name\t: First\nflags\t\t: fma avx2\n\nprocessor\t: 1\nmodel name\t: Second\n"
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert _machine.machine_name() == "First"
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    for processor, name in (("", "riscv64"), ("sifive", "sifive")):
        monkeypatch.setattr("platform.processor", lambda processor=processor: processor)
        assert _machine.machine_name() == name


@pytest.mark.parametrize(
    ("told", "flags"),
    [
        ("flags\t\t: fma amx_int8 avx2 sse\n\nflags\t\t: avx512f\n", ("avx2", "amx_int8")),
        ("Features\t: fp asimd i8mm asimddp\n", ("asimddp", "i8mm")),
        ("model name\t: none\n", ()),
    ],
)
def test_the_machines_instructions_are_those_that_decide_on_kernels(
    told: str, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert _machine.machine_flags() == flags


def test_unknown_target_and_shape(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match=r"target 'onnxruntim' is unknown. Did you mean 'onnxruntime'"):
        runs.build_latency(subject, "onnxruntim", tmp_path / "t.json", **QUICK)
    with pytest.raises(MixbitError, match="--input"):
        runs.build_latency(subject, "onnxruntime", tmp_path / "t.json", **{**QUICK, "input_shape": None})
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------- budgets in its times


@pytest.fixture
def scores(built: BuiltLatency, tmp_path: Path) -> Path:
    """A score table of that network, and the network beside it."""
    curve = LayerScores(weight={8: 0.0, 4: 1.0}, activation={8: 0.0, 4: 1.0})
    table = Scores(
        fingerprint=built.network.fingerprint, method="by hand", layers=dict.fromkeys(built.table.layers, curve)
    )
    table.save(tmp_path / "scores.json")
    (tmp_path / "network.json").write_text(built.network.to_json())
    return tmp_path / "scores.json"


def test_allocate_within_measured_times(built: BuiltLatency, scores: Path, tmp_path: Path) -> None:
    (table,) = built.files
    done = runs.allocate(scores, ["latency=8x8"], tmp_path / "p.json", latency=table)
    assert done.costs.latency == built.table.cost(done.policy.layers) <= done.limits["latency"]
    saved = Policy.load(tmp_path / "p.json")
    assert saved.costs["latency_ns"] == done.costs.latency
    assert any(note.startswith("latency: measured with onnxruntime") for note in saved.notes)


def test_times_that_cannot_be_had(built: BuiltLatency, scores: Path, tmp_path: Path) -> None:
    (table,) = built.files
    with pytest.raises(InfeasibleBudget, match="latency=1ns cannot be met: the smallest is") as caught:
        runs.allocate(scores, ["latency=1ns"], tmp_path / "p.json", latency=table)
    nearest = caught.value.nearest["latency"]
    assert (
        runs.allocate(scores, [f"latency={nearest:.0f}ns"], tmp_path / "p.json", latency=table).costs.latency == nearest
    )
    with pytest.raises(BudgetError, match="needs a latency table"):
        runs.allocate(scores, ["latency=1ms"], tmp_path / "p.json")
    with pytest.raises(BudgetError, match="No file at"):
        runs.allocate(scores, ["latency=1ms"], tmp_path / "p.json", latency=tmp_path / "nowhere.json")


@needs("board")
def test_instructions_of_an_emulated_core(subject: Subject, tmp_path: Path) -> None:
    """A table in instructions, which predicts a mixed policy that it was not made of."""
    found = runs.build_latency(subject, "cortex-m4", tmp_path / "table.json", **{**QUICK, "compare_float": True})
    assert found.table.unit == "instructions" and found.table.float32 is None
    (check,) = found.table.checks
    assert check.predicted == pytest.approx(check.measured, rel=0.1)


def test_a_processor_is_for_the_runtime(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="cpu='vnni' is for the target onnxruntime, and this is cortex-m4"):
        runs.build_latency(subject, "cortex-m4", tmp_path / "t.json", cpu="vnni", **QUICK)
    assert not (tmp_path / "t.json").exists()


def asked(monkeypatch: pytest.MonkeyPatch, subject: Subject, target: str, folder: Path, **how: Any) -> dict[str, Any]:
    """What is to be measured, which is not done."""
    found: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def build(_network: Network, lower: Lower, device: Any, **named: Any) -> None:
        found.update(named, device=device, graph=lower({name: LayerBits(8, 8) for name in ("0", "2", "5")}))
        raise Enough

    monkeypatch.setattr("mixbit.runs.latency.build", build)
    with pytest.raises(Enough):
        runs.build_latency(subject, target, folder / "t.json", input_shape=SHAPE, **how)
    return found


def test_what_is_measured_is_what_was_asked_for(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnx")
    found = asked(monkeypatch, subject, "onnxruntime", tmp_path, bits=(8, 3), repeats=5, checks=2, cpu="vnni")
    pairs = {str(option) for option in found["options"]}
    assert {"W8A8", "W8A3", "W3A8", "W3A3"} <= pairs and found["repeats"] == 5
    assert found["partial"] == tmp_path / "t.json.partial" and found["device"].cpu == "vnni"
    assert list(found["checks"]) == ["random 0", "random 1"]
    bits = [{one for pair in check.values() for one in (pair.weight_bits, pair.activation_bits)}
            for check in found["checks"].values()]  # fmt: skip
    assert all(one <= {8, 3} for one in bits)
    wide = asked(monkeypatch, subject, "onnxruntime", tmp_path, bits=(1, 8), activation_bits=(8, 16), checks=4)
    assert {str(option) for option in wide["options"]} == {"W1A8", "W8A8", "W1A16", "W8A16"}
    assert {one.activation_bits for check in wide["checks"].values() for one in check.values()} == {8, 16}
    first, second = found["checks"].values()
    assert first != second  # each is a draw of its own: the same policy measured again would check nothing more
    assert found["float_model"] is not None and found["float_model"].example.shape == (1, *SHAPE)
    assert {op.rounding for op in found["graph"].ops if hasattr(op, "rounding")} == {"float32"}
    assert asked(monkeypatch, subject, "onnxruntime", tmp_path, compare_float=False)["float_model"] is None
    board = asked(monkeypatch, subject, "cortex-m4", tmp_path)
    assert board["float_model"] is None and board["repeats"] == 30 and len(board["checks"]) == 3
    assert board["device"].core == "cortex-m4"
    assert {op.rounding for op in board["graph"].ops if hasattr(op, "rounding")} == {"single"}


@pytest.mark.parametrize(
    ("setting", "legal"), [({"repeats": 0}, "from 1 to 10000"), ({"checks": -1}, "from 0 to 1000")]
)
def test_how_often_has_bounds(setting: dict[str, int], legal: str, subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match=legal):
        runs.build_latency(subject, "onnxruntime", tmp_path / "t.json", input_shape=SHAPE, **setting)  # type: ignore[arg-type]
