"""The command line: one pass through all commands on digits, and what a user sees of mistakes."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mixbit import cli, runs
from mixbit._version import __version__


def run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    """Output of a command that must end with `code`; standard error follows standard output."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.out + captured.err
    return captured.out + captured.err


def next_command(output: str) -> list[str]:
    """The command that a command recommends."""
    (line,) = [line for line in output.splitlines() if line.startswith("Next: ")]
    return shlex.split(line.removeprefix("Next: "))[1:]


def written(output: str) -> list[Path]:
    """The files that a command says it wrote."""
    return [Path(line.split()[1]) for line in output.splitlines() if line.startswith("Wrote ")]


# ------------------------------------------------------------------------------------------------ the whole way


@pytest.fixture(scope="module")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network trained for one short epoch."""
    folder = tmp_path_factory.mktemp("cli") / "float"
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "digits-resnet", "--data", "digits", "--epochs", "1", "--run", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.mark.slow
def test_the_commands_lead_from_a_float_network_to_an_evaluated_policy(
    float_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command is the one that the command before it recommends, only with shorter training."""
    monkeypatch.chdir(tmp_path)
    weights = float_run / "model.safetensors"
    found = run(capsys, "inspect", "digits-resnet", "--data", "digits", "--weights", weights)

    search = next_command(found)
    assert search[:3] == ["search", "limpq", "digits-resnet"]
    found = run(capsys, *search, "--epochs", "1", "--fraction", "0.2", "--bits", "4,3,2")
    assert all(path.is_file() for path in written(found))
    assert {path.name for path in written(found)} >= {"scores.json", "network.json", "config.json"}

    found = run(capsys, *next_command(found))
    (policy,) = written(found)
    bits = json.loads(policy.read_text())
    assert bits["budget"] == {"bitops": "3x3"}
    assert bits["layers"]["conv1"] == {"weight_bits": 8, "activation_bits": 8}
    assert re.search(r"bitops=3x3 .*\d", found)
    assert "proven optimal" in found

    found = run(capsys, *next_command(found), "--epochs", "1", "--fraction", "0.2")
    assert all(path.is_file() for path in written(found))
    trained = re.search(r"(\d+\.\d\d) %", found)

    found = run(capsys, *next_command(found))
    assert trained is not None
    assert f"{trained[1]} %" in found, "evaluate does not agree with the end of training"


@pytest.mark.slow
def test_a_command_on_a_folder_of_other_settings_is_refused(
    float_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "digits-resnet", "--data", "digits", "--epochs", "2", "--run", str(float_run)]
    assert "epochs" in run(capsys, *words, code=2)


@pytest.mark.slow
def test_a_search_on_random_weights_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "limpq-init", "digits-resnet", "--data", "digits", "--run", tmp_path / "s"]
    assert "Note: no --weights" in run(capsys, *words)


@pytest.mark.slow
def test_evaluate_takes_a_model_too(float_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = float_run / "model.safetensors"
    from_model = run(capsys, "evaluate", "digits-resnet", "--data", "digits", "--weights", weights)
    assert re.findall(r"[\d.]+ %", from_model) == re.findall(r"[\d.]+ %", run(capsys, "evaluate", float_run))


@pytest.mark.slow
def test_transfer_to_another_network_of_the_same_architecture(
    float_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target is the same network with its first random weights, on another split."""
    weights, source = float_run / "model.safetensors", tmp_path / "search"
    run(capsys, "search", "limpq-init", "digits-resnet", "--data", "digits", "--weights", weights, "--run", source)
    words = ["transfer", source, "digits-resnet", "--data", "digits?seed=1", "--budget", "bitops=3x3"]
    found = run(capsys, *words, "--run", tmp_path / "transfer")
    assert "Transfer of limpq-init" in found and "regret" in found and "Note: no --weights" in found
    assert re.search(r"^transferred +\d+\.\d\d %", found, re.MULTILINE) and re.search(r"^own +\d", found, re.MULTILINE)
    assert all(path.is_file() for path in written(found))
    policy = next_command(found)
    assert policy[0] == "train" and Path(policy[policy.index("--policy") + 1]).is_file()
    assert "left out" in run(capsys, *words, "--no-own", "--run", tmp_path / "alone")


# ----------------------------------------------------------------------------------------------- single commands


def test_compare_puts_methods_side_by_side(float_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "digits-resnet", "--data", "digits", "--weights", float_run / "model.safetensors"]
    limits = ["--budget", "bitops=3x3", "--budget", "weight-bytes=8x,bitops=5x5", "--epochs", "0", "--seeds", "0,1"]
    found = run(capsys, *words, *limits, "--methods", "limpq-init?bits=[4,3,2],random?seed=1", "--run", tmp_path / "c")
    assert found.count("seed 1: calibrated") == 6  # uniform took part unasked
    for title in ("Within bitops=3x3", "Within weight-bytes=8x,bitops=5x5"):
        assert title in found
    assert {path.name for path in written(found)} >= {"compare.json", "compare.csv"}
    assert all(path.is_file() for path in written(found))
    allocated = run(capsys, *next_command(found))
    assert written(allocated)[0].is_file()


def test_stress_shows_how_a_run_holds_up(float_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A float run alone, then beside one that was trained with KURE, which says what it regularised."""
    data = ["digits-resnet", "--data", "digits", "--weights", float_run / "model.safetensors"]
    short = ["--epochs", "1", "--set", "fraction=0.2", "--set", "kurtosis=1"]
    found = run(capsys, "train", *data, *short, "--run", tmp_path / "kure")
    assert re.search(r"KURE regularised \d+ layers, all but: conv1 \(the first layer\); fc \(linear", found)
    few = ["--images", "30", "--kinds", "contrast,gaussian_noise", "--severities", "1,5", "--ptq", "mse"]
    found = run(capsys, "stress", float_run, *few)
    assert "Accuracy on bad data" in found and "gaussian_noise" in found and "W2A32" in found
    assert "a float run: quantized after training by 'mse'" in found
    assert {path.name for path in written(found)} >= {"profile.json", "corruptions.html", "shifts.html"}
    assert next_command(found)[:2] == ["stress", str(float_run)]
    found = run(capsys, "stress", float_run, tmp_path / "kure", *few, "--out", tmp_path / "both")
    assert "mCE by the first" in found and (tmp_path / "both" / "shifts.html").is_file()


def test_inspect_writes_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "network.json"
    found = run(capsys, "inspect", "digits-resnet", "--json", out)
    layers = [layer["name"] for layer in json.loads(out.read_text())["layers"]]
    assert all(name in found for name in layers)
    assert layers[0] == "conv1"
    assert written(found) == [out]
    assert next_command(found)[:5] == ["search", "limpq", "digits-resnet", "--data", "digits"]


def test_inspect_of_a_file_needs_a_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "net.py"
    model.write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n")
    assert "--input" in run(capsys, "inspect", model, code=2)
    found = run(capsys, "inspect", model, "--input", "3x2x2")
    assert "linear" in found


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "limpq-init" in run(capsys, "list", "methods")
    models = run(capsys, "list", "models", "resnet*")
    assert "resnet20" in models
    assert "mobilenet" not in models.partition("Your own")[0]
    assert "cifar10:DIR" in run(capsys, "list", "data")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == f"mixbit {__version__}\n"
    found = run(capsys, "--help")
    assert all(name in found for name in ("inspect", "search", "allocate", "train", "evaluate", "demo", "list"))


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "mobilenet2"], "Did you mean 'mobilenetv2'"),
        (["inspect", "resnet20", "--input", "3,32,32"], "3x32x32"),
        (["search", "limq", "digits-resnet", "--data", "digits", "--run", "x"], "Did you mean 'limpq'"),
        (["search", "limpq", "digits-resnet", "--data", "digit", "--run", "x"], "Did you mean 'digits'"),
        (["search", "limpq", "digits-resnet", "--data", "digits", "--run", "x", "--set", "alfa=1"], "alpha"),
        (["search", "limpq", "digits-resnet", "--data", "digits", "--run", "x", "--set", "alpha"], "key=value"),
        (["search", "limpq", "digits-resnet", "--data", "digits", "--run", "x", "--bits", "4;3"], "2,3,4,5,6"),
        (["allocate", "nowhere", "--budget", "bitops=3x3"], "nowhere"),
        (["allocate", "nowhere", "--budget", "bitops=3x3", "--pin", "conv1"], "NAME=W8A8"),
        (["allocate", "nowhere", "--budget", "bitops=3x3", "--first-last", "8"], "W8A8"),
        (["latency", "build", "digits-resnet", "--target", "onnxruntim"], "Did you mean 'onnxruntime'"),
        (["latency", "build", "digits-resnet", "--target", "onnxruntime", "--bits", "4;8"], "2,3,4,5,6"),
        (["latency", "build", "digits-resnet", "--target", "onnxruntime", "--bits", "9"], "whole numbers 1 to 8"),
        (["train", "digits-resnet", "--data", "digits", "--policy", "no.json", "--run", "x"], "no.json"),
        (["train", "digits-resnet", "--data", "digits", "--run", "x", "--set", "epoch=1"], "epochs"),
        (["evaluate", "digits-resnet"], "--data"),
        (
            [
                "compare",
                "digits-resnet",
                "--data",
                "digits",
                "--run",
                "x",
                "--budget",
                "bitops=3x3",
                "--methods",
                "limpq-int",
            ],
            "Did you mean 'limpq-init'",
        ),
        (
            ["compare", "m", "--data", "digits", "--run", "x", "--budget", "b", "--methods", "m", "--seeds", "0;1"],
            "0,1,2",
        ),
        (
            ["compare", "m", "--data", "digits", "--run", "x", "--budget", "b", "--methods", "m", "--policy", "p"],
            "NAME=FILE",
        ),
        (["list", "models", "zzz"], "No models match 'zzz'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_message_with_a_remedy(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(capsys, *words, code=2)
    assert found.startswith("Error: ")
    assert said in found
    assert "Traceback" not in found
    assert list(tmp_path.iterdir()) == [], "a refused command left files behind"


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dat" in run(capsys, "search", "limpq", "digits-resnet", "--dat", "digits", code=2)
    assert "Missing" in run(capsys, "search", "limpq", "digits-resnet", code=2)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mixbit.report.listing", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list", "models"])


@pytest.mark.slow
def test_the_module_runs_as_a_program_and_errors_go_to_standard_error(warm: str) -> None:
    python = str(shutil.which("python", path=warm))
    done = subprocess.run(
        [python, "-m", "mixbit", "list", "models", "zzz"], text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")


def test_other_processes_of_a_distributed_run_print_nothing() -> None:
    """Under torchrun every process runs the command; only rank 0 speaks."""
    code = "import os; os.environ['RANK'] = '1'; from mixbit import cli; cli.main(['list', 'methods'])"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.json"),
            "Error: 'a.json': No space left on device. Free",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "b"),
            "Error: 'b': Permission denied. Give a place",
        ),
        (MemoryError("of 24 TB"), "Error: Out of memory: 'of 24 TB'. Take smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "Error: Out of memory"),
    ],
)
def test_what_the_machine_refuses_is_one_message(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(runs, "inspect", refuse)
    assert message in run(capsys, "inspect", "digits-resnet", code=2)


def test_a_runtime_error_of_another_kind_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(runs, "inspect", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["inspect", "digits-resnet"])


def test_a_model_that_leaves_the_program_in_its_forward_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its status 0 would say that the command was done."""
    lines = (
        "import sys",
        "from torch import nn",
        "class Leaves(nn.Linear):",
        "    def forward(self, x): sys.exit(0)",
        "def model(): return Leaves(8, 2)",
    )
    file = tmp_path / "leaves.py"
    file.write_text("\n".join(lines))
    output = run(capsys, "inspect", f"{file}:model", "--input", "8", code=2)
    assert re.search(r"Error: Code of the model or task left the program \(0\) in .*leaves\.py:4\.", output)


# ------------------------------------------------------------------------------------------ a task of the user's own

TABLE = """
from dataclasses import replace
import torch
from torch import nn
from torch.utils.data import TensorDataset
import mixbit


def rows(count, seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=random)
    return TensorDataset(x, x[:, :1] - 2 * x[:, 1:2])


def task():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    metric = mixbit.metric.mean_absolute_error(unit="mm")
    return mixbit.Task(model=model, train=rows(64, 0), test=rows(32, 1), loss=nn.functional.mse_loss, metric=metric)


def many():
    own = task()
    hit = mixbit.metric.average(lambda *_: 0.375, larger_is_better=True, name="hit", unit="%")
    return replace(own, metric=[own.metric, hit])


nothing = 3
"""


def test_further_metrics_are_shown_in_their_units(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.py").write_text(TABLE)
    shown = [run(capsys, "train", "table.py:many", "--run", "r", "--epochs", "1", "--batch-size", "16")]
    shown += [run(capsys, "evaluate", target) for target in ("r", "table.py:many")]
    for text in shown:
        assert re.search(r"Loss \d+\.\d+, hit 37\.50 % on 32 test samples", text)


def test_a_task_of_a_file_goes_through_all_commands_without_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.py").write_text(TABLE)
    fast = ["--epochs", "1", "--set", "bn_samples=0", "--batch-size", "16"]
    assert "Next: mixbit search limpq table.py:task --run" in run(capsys, "inspect", "table.py:task")
    found = run(capsys, "train", "table.py:task", "--run", "float", "--lr", "0.05", *fast)
    assert "mean absolute error" in found and " mm" in found and "accuracy" not in found
    (weights,) = [path for path in written(found) if path.suffix == ".safetensors"]
    subject = ["table.py:task", "--weights", weights]
    run(capsys, "search", "fit", *subject, "--run", "search", "--set", "images=8")
    found = run(capsys, "allocate", "search", "--budget", "bitops=6x6", "--out", "policy.json")
    assert next_command(found)[:3] == ["train", "table.py:task", "--weights"]
    run(capsys, *next_command(found)[:-1], "trained", *fast, "--lr", "0.01")
    found = run(capsys, "evaluate", "trained")
    assert re.search(r"mean absolute error.*\n.*\n.* mm", found) and "on 32 test samples" in found
    run(capsys, "export", "trained", "--images", "8")
    assert "differs" not in run(capsys, "verify", "trained/model.onnx", "--run", "trained", "--images", "8")
    found = run(capsys, "stress", "trained", "--parts", "steps", "--images", "8")
    assert "Mean absolute error with scaled steps" in found
    found = run(
        capsys, "compare", *subject, "--run", "cmp", "--budget", "bitops=6x6", "--methods", "fit?images=8", *fast[:4]
    )
    assert "mean absolute error, less is better" in found
    found = run(capsys, "transfer", "search", *subject, "--run", "moved", "--budget", "bitops=6x6", "--no-own")
    assert "mean absolute error, calibrated" in found


def test_what_of_a_file_is_no_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.py").write_text(TABLE)
    spec = f"{tmp_path / 'table.py'}"
    assert "it must give a torch.nn.Module or a mixbit.Task" in run(
        capsys, "train", f"{spec}:nothing", "--run", tmp_path / "run", code=2
    )
    assert "A task brings its own data: leave --data out" in run(
        capsys, "train", f"{spec}:task", "--data", "digits", "--run", tmp_path / "run", code=2
    )
    assert "FILE.py:task" in run(capsys, "train", "digits-resnet", "--run", tmp_path / "run", code=2)
    assert "a task brings its own inputs" in run(capsys, "inspect", f"{spec}:task", "--input", "4", code=2)
    assert not (tmp_path / "run").exists()
