"""Accuracy by kind and severity: cells, means, resuming, files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.data import InputSpace, LoaderSplit, MixedQuality, TensorSplit
from mixbit.errors import DataError, MixbitError, StaleRun
from mixbit.evaluation import evaluate
from mixbit.inference import TorchPredictor
from mixbit.metric import ACCURACY, MetricInfo
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from mixbit.robustness.corruption import (
    BitUse,
    CorruptionCell,
    CorruptionReport,
    evaluate_corruptions,
    static_bits,
)
from tests.tasks import tiny_task

KINDS = ("gaussian_noise", "contrast")


def bright_or_dark(count: int = 80) -> TensorSplit:
    """Two classes of flat grey images around 128, a small step apart: noise and low contrast hide the step."""
    images = torch.full((count, 1, 4, 4), 118, dtype=torch.uint8)
    images[1::2] = 138
    return TensorSplit(images, torch.arange(count) % 2, 2, [0.0], [1 / 255])


class Threshold(nn.Module):
    """Looks at one pixel only."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.tensor(128.0))
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        score = x[:, 0, 0, 0] - self.middle
        return torch.stack([-score, score], dim=1)


def report(cells: dict[tuple[str, int], float], **how: Any) -> CorruptionReport:
    made = [CorruptionCell(kind=kind, severity=s, accuracy=value, loss=1.0) for (kind, s), value in cells.items()]
    kinds = tuple(dict.fromkeys(kind for kind, _ in cells if kind != "clean"))
    settings = {"kinds": kinds, "severities": (1, 2), "seed": 0, "scale": "cifar", "samples": 10, **how}
    return CorruptionReport(cells=tuple(made), **settings)


FULL = {("clean", 0): 0.9, ("jpeg", 1): 0.8, ("jpeg", 2): 0.6, ("contrast", 1): 0.5, ("contrast", 2): 0.3}
OTHER = {("clean", 0): 0.8, ("jpeg", 1): 0.6, ("jpeg", 2): 0.4, ("contrast", 1): 0.4, ("contrast", 2): 0.2}


# ------------------------------------------------------------------------------------------------------ figures


def test_means() -> None:
    found = report(FULL)
    assert found.clean_accuracy == 0.9
    assert found.mean_accuracy_of("jpeg") == pytest.approx(0.7)
    assert found.mean_accuracy == pytest.approx(0.55)
    assert found.mean_error == pytest.approx(0.45)
    assert found.cell("jpeg", 2).error == pytest.approx(0.4)


def test_mean_corruption_error_is_the_papers() -> None:
    found, reference = report(FULL), report(OTHER)
    assert found.mean_corruption_error(reference) == pytest.approx((0.6 / 1.0 + 1.2 / 1.4) / 2)
    assert found.relative_corruption_error(reference) == pytest.approx((0.4 / 0.6 + 1.0 / 1.0) / 2)
    assert found.mean_corruption_error(found) == found.relative_corruption_error(found) == 1.0


def test_a_reference_without_errors_or_cells() -> None:
    perfect = report({**OTHER, ("contrast", 1): 1.0, ("contrast", 2): 1.0})
    with pytest.raises(MixbitError, match="loses nothing by contrast"):
        report(FULL).mean_corruption_error(perfect)
    with pytest.raises(MixbitError, match=r"No cell contrast 1 .*its kinds are: clean, jpeg"):
        report(FULL).mean_corruption_error(report({("clean", 0): 0.5, ("jpeg", 1): 0.5, ("jpeg", 2): 0.5}))


def test_an_incomplete_report_has_no_means() -> None:
    part = replace(report(FULL), cells=report(FULL).cells[:2])
    assert part.missing == (("jpeg", 2), ("contrast", 1), ("contrast", 2))
    with pytest.raises(MixbitError, match=r"lacks 3 of 5 cells: jpeg 2, contrast 1, contrast 2\. Go on"):
        _ = part.mean_error


# ---------------------------------------------------------------------------------------------------- evaluation


def test_cells_are_the_accuracies_on_corrupted_splits() -> None:
    split, model = bright_or_dark(), Threshold()
    model.train()
    found = evaluate_corruptions(model, split, kinds=KINDS, severities=[1, 5], seed=3)
    assert model.training
    assert [(cell.kind, cell.severity) for cell in found.cells] == list(found.wanted)
    assert found.clean_accuracy == 1.0
    assert (found.samples, found.seed, found.scale) == (80, 3, "cifar")
    for cell in found.cells[1:]:
        own = evaluate(model, MixedQuality(split, [cell.kind], [cell.severity], seed=3))
        assert (cell.accuracy, cell.loss) == (own.accuracy, own.loss)
    assert found.cell("gaussian_noise", 5).accuracy < found.cell("gaussian_noise", 1).accuracy < 1
    assert found.cell("contrast", 5).accuracy == 1.0  # flat images have no contrast to lose


def test_a_predictor_stands_where_a_model_does() -> None:
    split, model = bright_or_dark(), Threshold()
    space = InputSpace.of_images(mean=tuple(split.mean.flatten().tolist()), std=tuple(split.std.flatten().tolist()))
    space = replace(space, mean=tuple(one / 255 for one in space.mean), std=tuple(one / 255 for one in space.std))
    found = evaluate_corruptions(TorchPredictor(model, space), split, kinds=KINDS, severities=[5])
    wanted = evaluate_corruptions(model, split, kinds=KINDS, severities=[5])
    assert [cell.accuracy for cell in found.cells] == [cell.accuracy for cell in wanted.cells]
    assert found.cells[0].bits == BitUse()


def test_batch_size_and_repetition_change_nothing() -> None:
    split, model = bright_or_dark(), Threshold()
    first = evaluate_corruptions(model, split, kinds=KINDS, severities=[4])
    second = evaluate_corruptions(model, split, kinds=KINDS, severities=[4], batch_size=7)
    assert [cell.accuracy for cell in first.cells] == [cell.accuracy for cell in second.cells]
    other = evaluate_corruptions(model, split, kinds=KINDS, severities=[4], seed=1, scale="imagenet")
    assert other.cell("gaussian_noise", 4).accuracy != first.cell("gaussian_noise", 4).accuracy


def test_a_share_of_the_images_meets_the_noise_that_it_meets_in_the_whole() -> None:
    split = bright_or_dark()

    class Collector(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            seen.extend(image.numpy().tobytes() for image in x)
            return super().forward(x)

    passes = []
    for fraction in (1.0, 0.25):
        seen: list[bytes] = []
        found = evaluate_corruptions(Collector(), split, kinds=["gaussian_noise"], severities=[5], fraction=fraction)
        passes.append(set(seen[found.samples :]))
    assert found.samples == 20
    assert len(passes[1]) == 20
    assert passes[1] < passes[0]


def test_the_clean_kind_is_there_once_even_if_asked_for() -> None:
    found = evaluate_corruptions(Threshold(), bright_or_dark(8), kinds=["clean", "contrast"], severities=[1])
    assert [cell.kind for cell in found.cells] == ["clean", "contrast"]


# ------------------------------------------------------------------------------------------------------ resuming


class Stopped(Exception):
    """What ends an evaluation in the middle."""


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    split, file = bright_or_dark(), tmp_path / "report.json"
    how: Any = {"kinds": KINDS, "severities": [1, 3, 5]}
    whole = evaluate_corruptions(Threshold(), split, **how)

    def save(found: CorruptionReport) -> None:
        found.save(file)
        if len(found.cells) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate_corruptions(Threshold(), split, on_cell=save, **how)
    known, model = CorruptionReport.load(file), Threshold()
    assert len(known.cells) == 3
    assert evaluate_corruptions(model, split, known=known, **how) == whole
    assert model.images == 4 * 80


def test_a_known_report_serves_a_larger_and_a_smaller_one() -> None:
    split, reports = bright_or_dark(), list[CorruptionReport]()
    small = evaluate_corruptions(Threshold(), split, kinds=["contrast"], severities=[2])
    evaluate_corruptions(Threshold(), split, kinds=KINDS, severities=[2], known=small, on_cell=reports.append)
    assert [[cell.kind for cell in found.cells] for found in reports] == [["clean", "gaussian_noise", "contrast"]]
    model = Threshold()
    assert evaluate_corruptions(model, split, kinds=["contrast"], severities=[2], known=reports[0]) == small
    assert model.images == 0


@pytest.mark.parametrize(
    ("change", "key"), [({"seed": 1}, "seed"), ({"scale": "imagenet"}, "scale"), ({"fraction": 0.5}, "samples")]
)
def test_a_known_report_of_other_settings_is_refused(change: dict[str, Any], key: str) -> None:
    split = bright_or_dark()
    known = evaluate_corruptions(Threshold(), split, kinds=["contrast"], severities=[1])
    with pytest.raises(StaleRun, match=f"has {key} "):
        evaluate_corruptions(Threshold(), split, kinds=["contrast"], severities=[1], known=known, **change)


# ---------------------------------------------------------------------------------------------------------- bits


def test_static_bits_are_those_of_the_quantizers() -> None:
    task = tiny_task()
    assert static_bits(task.model, task.network) == BitUse()
    policy = Policy.uniform(task.network, 3, 4)
    quantize(task.model, policy, task.network)
    calibrate(task.model, [next(task.train.batches(16))[0]])
    found = static_bits(task.model, task.network)
    # The first and the last of the five layers are pinned at 8 bits.
    assert found.weight_bits == pytest.approx((8 + 3 * 3 + 8) / 5)
    assert found.activation_bits == pytest.approx((8 + 3 * 4 + 8) / 5)
    assert found.bitops == policy.costs["bitops"]
    assert static_bits(task.model).bitops is None
    cells = evaluate_corruptions(task.model, task.test, kinds=["contrast"], severities=[1]).cells
    assert {cell.bits for cell in cells} == {static_bits(task.model)}


def test_bits_that_depend_on_the_input_are_asked_for_after_every_cell() -> None:
    model = Threshold()
    asked: Iterator[float] = iter([8.0, 4.0, 2.0])

    def measure(seen: nn.Module) -> BitUse:
        assert seen is model
        return BitUse(weight_bits=next(asked), bitops=float(model.images))

    found = evaluate_corruptions(model, bright_or_dark(10), kinds=["contrast"], severities=[1, 2], measure_bits=measure)
    assert [cell.bits.weight_bits for cell in found.cells] == [8.0, 4.0, 2.0]
    assert [cell.bits.bitops for cell in found.cells] == [10, 20, 30]


# --------------------------------------------------------------------------------------------------------- files


def test_json_there_and_back(tmp_path: Path) -> None:
    found = report(FULL)
    bits = BitUse(weight_bits=3.5, activation_bits=4.0, bitops=1e9)
    found = replace(found, cells=(replace(found.cells[0], bits=bits), *found.cells[1:]))
    assert CorruptionReport.from_json(found.to_json()) == found
    found.save(tmp_path / "a.json")
    assert CorruptionReport.load(tmp_path / "a.json") == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mixbit-policy"}, "its format is 'mixbit-policy', legal is 'mixbit-corruptions'"),
        ({"version": 2}, "of version 2; this mixbit reads 1"),
        ({"version": True}, "of version True"),
        ({"seed": "x"}, "a corruption report, is not what mixbit wrote: 'seed'"),
        ({"scale": "mnist"}, "is not what mixbit wrote: 'scale'"),
        ({"cells": [{"kind": "jpeg"}]}, "is not what mixbit wrote: 'cells' > '0' > "),
    ],
)
def test_files_that_are_none(change: dict[str, Any], message: str) -> None:
    content = json.loads(report(FULL).to_json()) | change
    with pytest.raises(MixbitError, match=message):
        CorruptionReport.from_json(json.dumps(content))


def test_texts_and_paths_that_are_none(tmp_path: Path) -> None:
    for text, message in (("{", "not JSON"), ("[]", "its format is 'list'"), ("[" * 100_000, "nested too deeply")):
        with pytest.raises(MixbitError, match=message):
            CorruptionReport.from_json(text)
    with pytest.raises(MixbitError, match="No file at"):
        CorruptionReport.load(tmp_path / "none.json")


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, "name at least one"),
        ({"kinds": ["clean"]}, "name at least one"),
        ({"kinds": ["jpeg", "jpeg"]}, "none twice"),
        ({"kinds": ["jpg"]}, "Did you mean 'jpeg'"),
        ({"severities": []}, "name at least one"),
        ({"severities": [1, 1]}, "none twice"),
        ({"severities": [0]}, "severity 0; it must be 1, 2, 3, 4 or 5"),
        ({"scale": "mnist"}, "Unknown scale 'mnist'"),
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"kinds": ["saturate"]}, "saturate needs 3 colour channels"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        evaluate_corruptions(Threshold(), bright_or_dark(4), **options)


def test_splits_that_cannot_be_corrupted() -> None:
    loader = LoaderSplit([(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))], num_classes=2)
    with pytest.raises(DataError, match="normalised already"):
        evaluate_corruptions(Threshold(), loader)
    with pytest.raises(DataError, match="corrupted already"):
        evaluate_corruptions(Threshold(), MixedQuality(bright_or_dark(4)))


def test_errors_of_a_metric_are_errors_in_its_direction() -> None:
    def cell(info: MetricInfo) -> CorruptionCell:
        return CorruptionCell(kind="jpeg", severity=1, accuracy=0.75, loss=0.0, metric=info)

    assert cell(ACCURACY.info).error == 0.25
    assert cell(MetricInfo(name="mean squared error", larger_is_better=False)).error == 0.75
    with pytest.raises(MixbitError, match="no share of one"):
        _ = cell(MetricInfo(name="signal to noise", unit="dB")).error


# ------------------------------------------------------------------------------------------- what reaches what


def test_settings_of_the_evaluation_reach_it() -> None:
    """Sizes of batches, the loss, and every kind and severity with the noise of the seed."""
    model, sizes = Threshold(), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = evaluate_corruptions(
        model, bright_or_dark(30), kinds=["gaussian_noise"], severities=[2], batch_size=12,
        loss=lambda outputs, y: 0 * outputs.sum() + 3.0,
    )  # fmt: skip
    assert sizes == [12, 12, 6] * 2 and {cell.loss for cell in found.cells} == {3.0}
    accuracies = {
        seed: evaluate_corruptions(model, bright_or_dark(), kinds=["gaussian_noise"], severities=[5], seed=seed)
        .cell("gaussian_noise", 5).accuracy
        for seed in range(4)
    }  # fmt: skip
    assert len(set(accuracies.values())) > 1


def test_sides_in_float_count_as_32_bits() -> None:
    task = tiny_task()
    assert static_bits(task.model) == BitUse() and static_bits(task.model, task.network) == BitUse()
    names = [layer.name for layer in task.network.layers]
    pins = {name: LayerBits(8, None) for name in names[:2]} | {names[2]: LayerBits(None, 4)}
    quantize(task.model, Policy.uniform(task.network, 2, 6, pins), task.network)
    found = static_bits(task.model)
    assert found.weight_bits == pytest.approx((8 + 8 + 32 + 2 + 2) / 5)
    assert found.activation_bits == pytest.approx((32 + 32 + 4 + 6 + 6) / 5) and found.bitops is None


def test_the_mean_error_is_one_over_kinds_of_means_over_severities() -> None:
    assert report(FULL).mean_error == pytest.approx(((0.2 + 0.4) / 2 + (0.5 + 0.7) / 2) / 2)
    less = replace(report(FULL), cells=tuple(replace(cell, metric=LESS) for cell in report(FULL).cells))
    assert less.mean_error == pytest.approx(((0.8 + 0.6) / 2 + (0.5 + 0.3) / 2) / 2)
    assert less.relative_corruption_error(less) == pytest.approx(1.0)


LESS = MetricInfo(name="errors", unit="", larger_is_better=False)
