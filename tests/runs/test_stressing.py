"""The robustness profile of a run."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from safetensors.torch import load_file

from mixbit import runs
from mixbit.errors import DataError, MixbitError, StaleRun
from mixbit.policy import Policy
from mixbit.ptq import PTQConfig
from mixbit.quantization import quantized_layers, quantizers
from mixbit.quantizers import Quantizer
from mixbit.robustness import ShiftPoint
from mixbit.runs import AttackSettings, CertifySettings, Profile, StressSettings, stressing
from mixbit.runs.stressing import PARTS
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.cli import tiny
from tests.runs.conftest import DIGITS, SHORT, squared_error


def measured(folder: Path | None = None, **settings: Any) -> Profile:
    """A profile of a small network of nine images, in a folder of its own."""
    chosen = StressSettings(
        **{"images": 9, "parts": ("corruption",), "kinds": ("contrast",), "severities": (5,)} | settings
    )
    with tempfile.TemporaryDirectory() as out:
        return runs.stress(tiny.float_run() if folder is None else folder, chosen, out=Path(out))


def quantized(**settings: Any) -> tuple[dict[str, tuple[int | None, int | None]], PTQConfig]:
    """Weight and activation bits of the network whose steps are scaled, and how it was quantized."""

    class Enough(Exception):
        pass

    found = {}
    with (
        mock.patch.object(stressing, "step_sweep", side_effect=Enough) as sweep,
        mock.patch.object(stressing, "ptq", side_effect=stressing.ptq) as quantize,
        contextlib.suppress(Enough),
    ):
        measured(parts=("steps",), **settings)
    for name, one in quantized_layers(sweep.call_args.args[0]).items():
        reads = one.input_quantizer
        found[name] = (levels(one), None if reads is None else reads.bits)
    return found, quantize.call_args.args[2]


def levels(layer: Any) -> int:
    """Bits for as many values as the weights of one channel have at most."""
    rows = layer.weight_quantizer(layer.weight.detach()).flatten(1)
    most = max(len(row.unique()) for row in rows)
    return math.ceil(math.log2(most))


def noisy(seed: int) -> float:
    """Loss on noise."""
    found = measured(kinds=("gaussian_noise",), seed=seed).corruption
    assert found is not None and found.seed == seed
    loss = found.cell("gaussian_noise", 5).loss
    assert loss is not None
    return loss


def corruption(field: str, **settings: Any) -> Any:
    return getattr(measured(**settings).corruption, field)


class TestStressOptions(OptionCases):
    """On a network of four layers that nobody trained."""

    owner = StressSettings
    options = fields_of(StressSettings)
    rows = (
        OptionRow("parts", (("corruption",), ("bits",)),
                  lambda v: [part for part in ("corruption", "steps", "power_of_two", "bits")
                             if getattr(measured(parts=v), part) is not None],
                  lambda a, b: (a, b) == (["corruption"], ["bits"])),
        OptionRow("images", (None, 9), lambda v: corruption("samples", images=v), lambda a, b: (a, b) == (360, 9)),
        OptionRow("images", (9, 12), lambda v: measured(parts=("bits",), images=v).bits.reference.samples,
                  lambda a, b: (a, b) == (9, 12), says="behind the bits"),
        OptionRow("kinds", (("contrast",), ("jpeg", "contrast")), lambda v: corruption("kinds", kinds=v),
                  lambda a, b: (a, b) == (("contrast",), ("jpeg", "contrast"))),
        OptionRow("severities", ((5,), (1, 3)),
                  lambda v: [cell.severity for cell in corruption("cells", severities=v)],
                  lambda a, b: (a, b) == ([0, 5], [0, 1, 3])),
        OptionRow("ptq", ("minmax", "mse"), lambda v: quantized(ptq=v)[1],
                  lambda a, b: (a, b) == (PTQConfig(method="minmax"), PTQConfig(method="mse"))),
        OptionRow("ptq", ("minmax", "mse"), lambda v: measured(parts=("bits",), ptq=v).bits.at(2).loss,
                  lambda a, b: a != b, says="of the bits"),
        # the ends stay at 8 bits: `stem` has 9 weights a channel, `head` 4; no activation is quantized
        OptionRow("weight_bits", (4, 2), lambda v: quantized(ptq="minmax", weight_bits=v)[0],
                  lambda a, b: b["left"][0] <= 2 < a["left"][0] <= 4 and a["stem"] == b["stem"] and
                  b["stem"][0] > 2 and {one[1] for one in (*a.values(), *b.values())} == {None}),
        OptionRow("seed", (0, 1), noisy, lambda a, b: a != b and a == noisy(0)),
        OptionRow("on", (None, "executor"), lambda v: measured_on(v).notes,
                  lambda a, b: a == () and "corruption was measured on integer executor" in b[0]),
        OptionRow("on", (None, "onnx"), lambda v: assailed(on=v).on, says="of attacks", holds=lambda a, b:
                  (a, b) == (("float", "fake-quantized", "executor"), ("float", "fake-quantized", "onnx"))),
        OptionRow("images", (None, 9), lambda v: assailed(images=v).images, lambda a, b: (a, b) == (100, 9),
                  says="of attacks"),
        OptionRow("seed", (0, 3), lambda v: assailed(seed=v).seed, lambda a, b: (a, b) == (0, 3), says="of attacks"),
        OptionRow("attacks", (None, ("deepfool", "pgd?steps=2")), lambda v: assailed(attacks=v).attacks,
                  lambda a, b: (a, b) == (("pgd",), ("deepfool", "pgd?steps=2"))),
        OptionRow("sigma", (0.02, 0.03), lambda v: guaranteed(sigma=v).sigma, lambda a, b: (a, b) == (0.02, 0.03)),
        OptionRow("images", (None, 9), lambda v: guaranteed(images=v).images, lambda a, b: (a, b) == (100, 9),
                  says="of certificates"),
        OptionRow("seed", (0, 3), lambda v: guaranteed(seed=v).seed, lambda a, b: (a, b) == (0, 3),
                  says="of certificates"),
        OptionRow("on", (None, "onnx"), lambda v: guaranteed(on=v).on, says="of certificates", holds=lambda a, b:
                  (a, b) == (("float", "fake-quantized", "executor"), ("float", "fake-quantized", "onnx"))),
    )  # fmt: skip


def guaranteed(**settings: Any) -> CertifySettings:
    """What certificates of a profile are asked to be."""
    with (
        mock.patch.object(stressing, "certify", side_effect=KeyboardInterrupt) as asked,
        contextlib.suppress(KeyboardInterrupt),
    ):
        measured(parts=("certificates",), **{"images": 12, "sigma": 0.02, **settings})
    found: CertifySettings = asked.call_args.args[1]
    return found


def test_certificates_are_a_part_that_is_asked_for(tmp_path: Path) -> None:
    """Beside the others, in the folder of the profile; and not made twice."""
    settings = StressSettings(
        images=2, parts=("corruption", "certificates"), kinds=("contrast",), severities=(5,), sigma=0.01
    )
    run = Path(shutil.copytree(tiny.fitted_runs()[0], tmp_path / "run", ignore=shutil.ignore_patterns("stress")))
    found = runs.stress(run, settings, out=tmp_path)
    assert found.certificates is not None and "certificates" not in PARTS
    assert [*found.certificates.certified] == ["float", "W8A8 fake-quantized", "W8A8 executor"]
    content = json.loads((tmp_path / "profile.json").read_text())
    assert content["certificates"] == json.loads((tmp_path / "certify.json").read_text())
    assert set(found.files) == {tmp_path / "profile.json", tmp_path / "certify.json"}
    assert (tmp_path / "certify" / "certificates.jsonl").is_file() and not (run / "certify").exists()
    with mock.patch("mixbit.certification.certify", side_effect=AssertionError("made again")):
        assert runs.stress(run, settings, out=tmp_path).to_json() == found.to_json()


def assailed(**settings: Any) -> AttackSettings:
    """What attacks of a profile are asked to be."""
    with (
        mock.patch.object(stressing, "attack", side_effect=KeyboardInterrupt) as asked,
        contextlib.suppress(KeyboardInterrupt),
    ):
        measured(parts=("attacks",), **{"images": 12, **settings})
    found: AttackSettings = asked.call_args.args[1]
    return found


def test_attacks_are_a_part_that_is_asked_for(tmp_path: Path) -> None:
    """Beside the others, in the folder of the profile; and not made twice."""
    settings = StressSettings(
        images=9,
        parts=("corruption", "attacks"),
        kinds=("contrast",),
        severities=(5,),
        attacks=("pgd?steps=1&restarts=1",),
    )
    run = tiny.fitted_runs()[1]
    found = runs.stress(run, settings, out=tmp_path)
    assert found.attacks is not None and found.corruption is not None and "attacks" not in PARTS
    assert found.attacks.networks == ("float", "fake-quantized", "executor") and found.attacks.images == 9
    content = json.loads((tmp_path / "profile.json").read_text())
    assert content["attacks"] == json.loads((tmp_path / "attack.json").read_text())
    assert content["attacks"] == json.loads(json.dumps(found.attacks.to_json()))
    assert set(found.files) == {tmp_path / "profile.json", tmp_path / "attack.json"}
    assert (tmp_path / "attack" / "attacks.jsonl").is_file() and not (run / "attack").exists()
    assert any("no gradients" in note for note in found.notes)
    with mock.patch("mixbit.attacks.Attack.run", side_effect=AssertionError("made again")):
        assert runs.stress(run, settings, out=tmp_path).to_json() == found.to_json()
    assert found.notes == tuple(dict.fromkeys(found.notes))


def measured_on(on: str | None, **settings: Any) -> Profile:
    return measured(tiny.quantized_run(), on=on, **settings)


def test_corruption_is_measured_on_what_ships(tmp_path: Path) -> None:
    """The integer network's losses are near those of the fake-quantized one and not the same; each has its own keys."""
    settings = StressSettings(images=9, parts=("corruption",), kinds=("contrast",), severities=(5,))
    plain = runs.stress(tiny.quantized_run(), settings, out=tmp_path).corruption
    shipped = runs.stress(tiny.quantized_run(), replace(settings, on="executor"), out=tmp_path).corruption
    assert plain is not None and shipped is not None
    for ours, theirs in zip(shipped.cells, plain.cells, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=0.05) and ours.loss != theirs.loss
        assert ours.bits == theirs.bits, "what ships has the bits of the network that it was made of"
    keys = [json.loads(line).get("key", "") for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert sum(str(key).startswith("corruption on executor/") for key in keys) == 2
    with mock.patch("mixbit.robustness.corruption.evaluate", side_effect=AssertionError("measured again")):
        assert runs.stress(tiny.quantized_run(), settings, out=tmp_path).corruption == plain


def test_ranges_that_follow_the_batch_are_folded_first(tmp_path: Path) -> None:
    """So that steps of inputs can be changed, as in what ships."""
    tiny.ranged_run(tmp_path)
    with mock.patch.object(stressing, "step_sweep", side_effect=RuntimeError) as sweep, pytest.raises(RuntimeError):
        measured(tmp_path, parts=("steps",))
    assert {type(one) for one in quantizers(sweep.call_args.args[0]).values()} == {Quantizer}


def test_what_ships_must_be_there(tmp_path: Path) -> None:
    wanted = {"parts": ("corruption",), "images": 9}
    with pytest.raises(MixbitError, match=r"on='tflite' is unknown.*Legal: executor, c, onnx, qonnx"):
        measured(tiny.quantized_run(), on="tflite", **wanted)
    with pytest.raises(MixbitError, match="was trained in float32. Train under a policy first"):
        measured(tiny.float_run(), on="executor", **wanted)
    with pytest.raises(
        MixbitError, match="on='onnx' is of the part 'corruption' and 'attacks' and 'certificates' alone"
    ):
        StressSettings(parts=("bits",), on="onnx")


FEW = StressSettings(images=40, kinds=("gaussian_noise", "contrast"), severities=(1, 5))


@pytest.fixture(scope="module")
def float_folder(float_run: runs.Trained) -> Path:
    assert float_run.trained.weights is not None
    return float_run.trained.weights.parent


@pytest.fixture(scope="module")
def quantized_folder(float_run: runs.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quantized"
    policy = Policy.uniform(DIGITS.task()[0].network, 4, 4)
    runs.train(float_run.trained, policy, SHORT, folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def profile(quantized_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return runs.stress(quantized_folder, FEW, out=tmp_path_factory.mktemp("stress") / "q")


def test_quantized_run(profile: Profile, quantized_folder: Path) -> None:
    assert profile.quantized and profile.corruption is not None and not profile.corruption.missing
    assert profile.bits is not None and profile.bits.protocol == "qat-bits" and profile.bits.reference.value == 4
    assert profile.steps is not None and profile.summary is not None and profile.power_of_two is not None
    assert profile.corruption.samples == 40 == profile.steps.reference.samples
    # all parts look at the same images, as trained
    clean = runs.evaluate(str(quantized_folder))
    assert profile.corruption.clean_accuracy == profile.steps.reference.accuracy == profile.steps.at(1.0).accuracy
    assert abs(clean.metrics.accuracy - profile.corruption.clean_accuracy) < 0.2
    assert profile.corruption.cell("contrast", 5).bits.weight_bits is not None


def test_float_run_is_quantized_after_training(float_folder: Path, tmp_path: Path) -> None:
    settings = StressSettings(images=40, parts=("steps", "bits"), ptq="mse", weight_bits=3)
    found = runs.stress(float_folder, settings, out=tmp_path)
    assert not found.quantized and found.corruption is None
    assert found.bits is not None and found.bits.protocol == "ptq-bits"
    assert [point.label for point in found.bits.points] == ["W8A32", "W6A32", "W5A32", "W4A32", "W3A32", "W2A32"]
    assert found.notes[0].startswith("a float run: quantized after training by 'mse', weights alone, conv1 and fc at 8")
    assert "steps are scaled at W3" in found.notes[0]


def test_data_without_bytes_leave_corruption_out_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import mixbit, torch\n"
        "from torch import nn\n"
        "def task():\n"
        "    data = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.arange(40) % 2)\n"
        "    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))\n"
        "    return mixbit.Task(model=model, train=data, test=data)\n"
    )
    subject = runs.Subject(model=f"{tmp_path / 'mine.py'}:task")
    runs.train(subject, None, {"epochs": 1, "batch_size": 20}, tmp_path / "run", quiet=True)
    found = runs.stress(tmp_path / "run", StressSettings(images=20, parts=("corruption", "bits"), ptq="minmax"))
    assert found.corruption is None and found.bits is not None
    assert found.notes[0].startswith("corruption was left out: only data that --data names hold images as bytes")
    with pytest.raises(MixbitError, match="Ask for the other parts: --parts steps,bits"):
        runs.stress(tmp_path / "run", StressSettings(images=20, parts=("corruption",)))


def test_profile_is_written(profile: Profile) -> None:
    path = next(path for path in profile.files if path.name == "profile.json")
    content = json.loads(path.read_text())
    assert content["format"] == "mixbit-stress" and content["quantized"]
    assert profile.summary is not None and content["summary"]["step_mean"] == profile.summary.step_mean
    assert len(content["corruption"]["cells"]) == 5


def test_nothing_is_measured_twice(
    quantized_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = StressSettings(images=40, kinds=("contrast",), severities=(1,))
    first = runs.stress(quantized_folder, settings, out=tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("mixbit.robustness.quantizer_shift.evaluate", never)
    monkeypatch.setattr("mixbit.robustness.corruption.evaluate", never)
    again = runs.stress(quantized_folder, settings, out=tmp_path)
    assert again.to_json() == first.to_json()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stress: corruption")]
    begun = [line for line in said if line.startswith("stress: corruption: 2 steps")]
    assert begun == ["stress: corruption: 2 steps", "stress: corruption: 2 steps, 2 of them done before"]
    assert said[0] == begun[0] and sum(line.startswith("stress: corruption: done, 2/2 in ") for line in said) == 2


def test_a_broken_profile_goes_on(quantized_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the middle of the steps: what was known is kept, and the end is the same."""
    settings = StressSettings(images=40, parts=("steps",))
    whole = runs.stress(quantized_folder, settings, out=tmp_path / "whole")
    kept, made = [], ShiftPoint.of

    def three_times(*arguments: object) -> ShiftPoint:
        if len(kept) == 3:
            raise KeyboardInterrupt
        kept.append(made(*arguments))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr(ShiftPoint, "of", three_times)
    with pytest.raises(KeyboardInterrupt):
        runs.stress(quantized_folder, settings, out=tmp_path / "broken")
    monkeypatch.undo()
    figures = [json.loads(line) for line in (tmp_path / "broken" / "figures.jsonl").read_text().splitlines()]
    assert [one["key"].partition("/")[0] for one in figures[1:]] == ["as trained"] * 3
    assert runs.stress(quantized_folder, settings, out=tmp_path / "broken").to_json() == whole.to_json()


@pytest.mark.parametrize("value", ["[]", "5", '{"label": "1"}'])
def test_points_that_nobody_wrote(quantized_folder: Path, tmp_path: Path, value: str) -> None:
    settings, path = StressSettings(images=9, parts=("steps",)), tmp_path / "figures.jsonl"
    with mock.patch.object(ShiftPoint, "to_json", return_value=json.loads(value)), pytest.raises(MixbitError):
        runs.stress(quantized_folder, settings, out=tmp_path)
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(MixbitError, match=r"figures\.jsonl, key 'as trained/as trained', is not .* Remove that line"):
        runs.stress(quantized_folder, settings, out=tmp_path)


@pytest.mark.parametrize("name", ["points.json", "corruptions.json"])
def test_figures_of_an_older_version_are_refused(quantized_folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(StaleRun, match=rf"{name} holds figures of a robustness profile as an older mixbit kept them"):
        runs.stress(quantized_folder, StressSettings(images=20, parts=("steps",)), out=tmp_path)


def test_figures_of_other_data_are_refused(quantized_folder: Path, tmp_path: Path) -> None:
    """Of one name: what lies behind it has changed."""
    settings = StressSettings(images=9, parts=("corruption",), kinds=("contrast",), severities=(5,))
    runs.stress(quantized_folder, settings, out=tmp_path)
    with (
        mock.patch("mixbit.runs.subject.data_sets.digest", return_value="blake2b:other"),
        pytest.raises(StaleRun, match="was begun with data=.*, now data='blake2b:other'"),
    ):
        runs.stress(quantized_folder, settings, out=tmp_path)


def test_other_images_are_refused(quantized_folder: Path, tmp_path: Path) -> None:
    runs.stress(quantized_folder, StressSettings(images=20, parts=("steps",)), out=tmp_path)
    with pytest.raises(StaleRun, match="images=20, now images=30"):
        runs.stress(quantized_folder, StressSettings(images=30, parts=("steps",)), out=tmp_path)


def test_folder_without_weights(tmp_path: Path, searched: tuple[runs.Subject, Path]) -> None:
    with pytest.raises(MixbitError, match="holds no trained network"):
        runs.stress(searched[1], out=tmp_path)
    with pytest.raises(MixbitError, match="is no run folder"):
        runs.stress(tmp_path / "nowhere", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"parts": ("attack",)},
            "parts=.'attack',. is illegal. .*each 'corruption', 'steps', 'bits', 'attacks' or 'certificates'",
        ),
        ({"parts": ()}, "one or more of corruption, steps, bits, attacks, certificates"),
        ({"attacks": ("pgd",)}, "attacks=.'pgd',. is of the part 'attacks' alone, and parts="),
        ({"attacks": ("pdg",), "parts": ("attacks",)}, "Did you mean 'pgd'"),
        ({"parts": ("certificates",)}, "the part 'certificates' needs sigma"),
        ({"sigma": 0.1}, "sigma=0.1 is of the part 'certificates' alone"),
        ({"sigma": -1.0, "parts": ("certificates",)}, "sigma=-1.0 is illegal"),
        ({"images": 0}, "Legal: a whole number from 1"),
        ({"weight_bits": 9}, "Legal: a whole number from 1 to 8"),
        ({"ptq": "lqp"}, "Did you mean 'lapq'|Legal: 'minmax'"),
        (
            {"ptq": "mse", "parts": ("corruption",)},
            r"ptq='mse' is of the part 'steps' and 'bits' alone, and parts=\['cor",
        ),
        ({"weight_bits": 4, "parts": ("bits",)}, r"weight_bits=4 is of the part 'steps' alone, and parts=\['bits'\]"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        StressSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({}, None),
        ({"ptq": "lp"}, "keeps its own quantizers: ptq='lp' is of float runs alone."),
        (
            {"ptq": "mse", "weight_bits": 4},
            "keeps its own quantizers: ptq='mse' and weight_bits=4 is of float runs alone.",
        ),
    ],
)
def test_a_quantized_run_says_that_it_keeps_its_quantizers(
    given: dict[str, Any], note: str | None, quantized_folder: Path, tmp_path: Path
) -> None:
    settings = StressSettings(images=9, parts=("steps",), **given)
    found = list(stressing._Stress(stressing.open_run(quantized_folder), settings, tmp_path, quantized_folder)._notes())
    assert found == ([] if note is None else [f"it was trained under a policy and {note}"])


def test_bad_severity_names_the_legal_ones(quantized_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="severity 6; it must be 1, 2, 3, 4 or 5"):
        runs.stress(quantized_folder, StressSettings(images=20, severities=(6,)), out=tmp_path)


def test_steps_are_judged_by_the_loss_of_the_task(regression: runs.Subject, tmp_path: Path) -> None:
    runs.train(regression, None, {"epochs": 1, "batch_size": 12, "lr": 0.01}, tmp_path / "run", quiet=True)
    found = runs.stress(tmp_path / "run", StressSettings(parts=("bits",), ptq="minmax")).bits
    model = regression.task()[0].model
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    assert found is not None and found.reference.loss == pytest.approx(squared_error(model), rel=1e-4)
