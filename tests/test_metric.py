"""Metrics: closed forms, independence of how samples are cut into batches, and what is no metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.metric import (
    ACCURACY,
    Metric,
    MetricInfo,
    StreamingMetric,
    accuracy,
    as_metric,
    average,
    mean_absolute_error,
    mean_iou,
    mean_squared_error,
    token_accuracy,
    top_k,
)

CPU = torch.device("cpu")


def counted(metric: Metric | StreamingMetric, outputs: torch.Tensor, targets: torch.Tensor, *sizes: int) -> float:
    tally = metric.tally(CPU)
    for x, y in zip(outputs.split(list(sizes)), targets.split(list(sizes)), strict=True):
        tally.add(x, y, len(x))
    return tally.result()


def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(6, 4, 3, 5, generator=random), torch.randint(0, 4, (6, 3, 5), generator=random)
    targets[torch.rand(6, 3, 5, generator=random) < 0.2] = 255
    return outputs, targets


@pytest.mark.parametrize("sizes", [(6,), (1, 5), (2, 3, 1)])
def test_mean_iou_is_that_of_sets_of_pixels_however_they_are_batched(sizes: tuple[int, ...]) -> None:
    outputs, targets = pixels()
    said = outputs.argmax(1)
    shares = []
    for one in range(4):
        truth = {i for i, t in enumerate(targets.flatten().tolist()) if t == one}
        told = {
            i
            for i, (s, t) in enumerate(zip(said.flatten().tolist(), targets.flatten().tolist(), strict=True))
            if s == one and t != 255
        }
        shares.append(len(truth & told) / len(truth | told))
    assert counted(mean_iou(4), outputs, targets, *sizes) == pytest.approx(sum(shares) / 4)


def test_mean_iou_is_over_the_classes_that_occur_in_targets_or_answers() -> None:
    """Of six classes: 0 is told right in 2 of 3, 1 is never told, 2 is told and never there; 3 to 5 do not occur."""
    scores = torch.eye(6)[torch.tensor([0, 0, 2, 0])]
    assert counted(mean_iou(6), scores, torch.tensor([0, 0, 0, 1]), 4) == pytest.approx((2 / 4 + 0 / 1 + 0 / 1) / 3)


def test_what_is_left_out_by_itself() -> None:
    """Padding of tokens, -100; pixels of no class, 255; of plain accuracies nothing."""
    scores, targets = torch.eye(3)[torch.tensor([[0, 1, 2]])], torch.tensor([[0, 2, -100]])
    assert counted(token_accuracy(), scores, targets, 1) == 0.5
    assert counted(mean_iou(3), scores[0], torch.tensor([0, 1, 255]), 3) == 1.0
    for metric in (accuracy(-1), top_k(1, -1)):
        with pytest.raises(MixbitError, match="a target is -100"):
            metric.sums(scores, targets)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_is_the_share_among_exactly_k(k: int) -> None:
    random = torch.Generator().manual_seed(2)
    scores, targets = torch.randn(40, 5, 3, generator=random), torch.randint(0, 5, (40, 3), generator=random)
    rank = (scores > scores.gather(1, targets[:, None])).sum(1)  # how many are higher
    assert counted(top_k(k), scores, targets, 15, 25) == pytest.approx(float((rank < k).double().mean()))
    assert top_k(k).name == f"top-{k} accuracy" and top_k(k).larger_is_better


def test_mean_iou_names_a_class_that_there_is_not() -> None:
    outputs, targets = pixels()
    with pytest.raises(MixbitError, match="a target is 255.*0 to 3"):
        mean_iou(4, ignore_index=None).sums(outputs, targets)
    with pytest.raises(MixbitError, match="finite|nan"):
        counted(mean_iou(4), outputs, torch.full_like(targets, 255), 6)


@pytest.mark.parametrize("wrong", [1.5, True, "3", float("nan"), 0, -1, 10**9 + 1])
def test_counts_are_whole_numbers(wrong: Any) -> None:
    for metric, name in ((top_k, "k"), (mean_iou, "classes")):
        with pytest.raises(MixbitError, match=rf"^{name}=.*a whole number from"):
            metric(wrong)


def test_accuracies_over_any_axis() -> None:
    outputs, targets = pixels()
    right = [(s == t) for s, t in zip(outputs.argmax(1).flatten(), targets.flatten(), strict=True) if t != 255]
    wanted = sum(map(int, right)) / len(right)
    assert counted(accuracy(ignore_index=255), outputs, targets, 4, 2) == pytest.approx(wanted)
    last = outputs.movedim(1, -1).contiguous()
    assert counted(accuracy(-1, ignore_index=255), last, targets, 4, 2) == pytest.approx(wanted)
    assert counted(token_accuracy(ignore_index=255), last, targets, 1, 5) == pytest.approx(wanted)
    assert counted(token_accuracy(1, ignore_index=255), outputs, targets, 3, 3) == pytest.approx(wanted)
    assert counted(mean_iou(4, class_axis=-1), last, targets, 4, 2) == counted(mean_iou(4), outputs, targets, 4, 2)
    ranks = [top_k(2, axis, ignore_index=255) for axis in (1, -1)]
    assert counted(ranks[1], last, targets, 4, 2) == counted(ranks[0], outputs, targets, 4, 2)
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(4, 4)
    assert counted(top_k(3), scores, torch.arange(4), 1, 3) == 0.75
    assert counted(top_k(9), scores, torch.arange(4), 4) == 1.0


def test_the_wrong_axis_is_an_error_and_so_is_one_that_cannot_be_told() -> None:
    tokens, tags = torch.randn(2, 5, 3), torch.randint(0, 3, (2, 5))
    with pytest.raises(MixbitError, match=r"do not fit classes on axis 1. They may be on 2: say class_axis=2"):
        ACCURACY.sums(tokens, tags)
    with pytest.raises(MixbitError, match="They may be on 1 or 2: say class_axis=2"):
        ACCURACY.sums(torch.randn(2, 3, 3), torch.randint(0, 3, (2, 3)))
    with pytest.raises(MixbitError, match="class_axis=7"):
        accuracy(7).sums(tokens, tags)
    with pytest.raises(MixbitError, match="whole class numbers, and they are torch.float32"):
        ACCURACY.sums(torch.randn(2, 3), torch.rand(2))
    with pytest.raises(MixbitError, match=r"the model gives \(float32 \(2, 3\), \[2 entries\]\).*output='logits'"):
        ACCURACY.sums((torch.randn(2, 3), [1, 2]), torch.tensor([0, 1]))


def test_one_score_is_no_classification_and_no_class_is_no_wrong_answer() -> None:
    for metric in (ACCURACY, accuracy(-1), top_k(1), mean_iou(2)):
        with pytest.raises(MixbitError, match=r"two classes or more, and outputs \(4, 1\) have one .*metric="):
            metric.sums(torch.randn(4, 1), torch.tensor([0, 1, 0, 0]))
    with pytest.raises(MixbitError, match=r"two classes or more.*metric="):
        ACCURACY.sums(torch.randn(4, 1), torch.tensor([[0], [1], [0], [0]]))
    scores = torch.tensor([[4.0, 3.0, 2.0]]).expand(4, 3)
    for label in (3, -1, 255):
        targets = torch.tensor([0, label, 1, label])
        for metric in (ACCURACY, top_k(2), accuracy(ignore_index=77)):
            with pytest.raises(MixbitError, match=rf"over 3 classes: a target is {label}. Legal: 0 to 2"):
                metric.sums(scores, targets)
        assert counted(accuracy(ignore_index=label), scores, targets, 1, 3) == 0.5
        assert counted(top_k(2, ignore_index=label), scores, targets, 4) == 1.0


def test_a_class_may_be_what_is_left_out() -> None:
    """As padding of token 0 is: an output that says it of such a target is not right either."""
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    targets = torch.tensor([0, 0, 1, 1, 2])
    for metric, wanted in (
        (accuracy(ignore_index=0), 1 / 3),
        (token_accuracy(1, ignore_index=0), 1 / 3),
        (top_k(2, ignore_index=0), 2 / 3),
        (mean_iou(3, ignore_index=0), 1 / 6),  # (0 / 2 + 1 / 2 + 0 / 1) / 3
    ):
        assert counted(metric, scores, targets, 1, 4) == pytest.approx(wanted)


@pytest.mark.parametrize("factory", [mean_absolute_error, accuracy, top_k, average])
def test_a_factory_is_to_be_called(factory: Any) -> None:
    with pytest.raises(MixbitError, match=rf"Call it: mixbit.metric.{factory.__name__}\("):
        as_metric(factory)
    with pytest.raises(MixbitError, match=r"Mean is a class, and no metric itself. Call it first: Mean\(...\)"):
        as_metric(Mean)


@pytest.mark.parametrize(("metric", "power"), [(mean_squared_error(), 2), (mean_absolute_error(), 1)])
def test_errors_are_means_over_all_elements(metric: Metric, power: int) -> None:
    outputs, targets = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    wanted = (outputs.double() - targets.double()).abs().pow(power).mean().item()
    assert counted(metric, outputs, targets, 3, 2) == pytest.approx(wanted)
    assert metric.better(1.0, 2.0) and metric.larger_is_better is False
    with pytest.raises(MixbitError, match="of one shape"):
        metric.sums(outputs, targets[:, 0])


def test_a_function_is_averaged_over_samples_and_not_over_batches() -> None:
    metric = as_metric(lambda outputs, targets: float((outputs - targets).mean()))
    outputs, targets = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3)
    assert counted(metric, outputs, targets, 1, 2) == pytest.approx(3.0)
    with pytest.raises(MixbitError, match="larger_is_better"):
        metric.better(1.0, 2.0)
    for wrong, message in (
        (float("nan"), "is nan"),
        (torch.zeros(2), "no number"),
        ("x", "no number"),
        (10**400, "no number"),
    ):
        with pytest.raises(MixbitError, match=message):
            counted(average(lambda _o, _t, found=wrong: found, larger_is_better=True), outputs, targets, 3)


class Mean:
    """As torchmetrics has it."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.total, self.count = self.total + float((outputs - targets).sum()), self.count + len(outputs)

    def compute(self) -> torch.Tensor:
        return torch.tensor(self.total / self.count)


def test_an_object_with_update_compute_and_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = as_metric(Mean())
    outputs, targets = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3)
    assert metric.name == "Mean" and metric.better(1.0, 2.0)
    assert counted(metric, outputs, targets, 1, 2) == counted(metric, outputs, targets, 3) == 3.0
    monkeypatch.setattr("mixbit.metric._distributed.world_size", lambda: 2)
    with pytest.raises(MixbitError, match="cannot be added over processes"):
        metric.tally(CPU)


@pytest.mark.parametrize("wrong", [3, None, Mean, "accuracy"])
def test_what_is_no_metric(wrong: Any) -> None:
    with pytest.raises(MixbitError, match="no metric"):
        as_metric(wrong)


def test_sums_of_another_shape_are_an_error() -> None:
    metric = Metric(name="odd", sums=lambda _o, _t: torch.zeros(3), result=lambda sums: float(sums[0]))
    with pytest.raises(MixbitError, match=r"a tensor \(3,\).*shape \(2,\)"):
        metric.tally(CPU).add(None, None, 1)


def test_what_a_metric_is_goes_into_files_and_back() -> None:
    info = mean_absolute_error(unit="mm").info
    assert MetricInfo.from_json(info.to_json()) == info
    assert MetricInfo.from_json(None) == ACCURACY.info  # files from when there was accuracy alone
    for wrong in ({"name": "x"}, [], {**info.to_json(), "unit": 3}, {**info.to_json(), "larger_is_better": "yes"}):
        with pytest.raises(MixbitError, match="describes no metric"):
            MetricInfo.from_json(wrong)
    with pytest.raises(MixbitError, match="cannot be called"):
        MetricInfo(name="samples")
    assert ACCURACY.text(0.5) == "50.00 %" and info.text(0.123456) == "0.1235 mm"


def test_sums_of_several_processes_add_to_those_of_one() -> None:
    outputs, targets = pixels()
    for metric in (
        mean_iou(4),
        accuracy(ignore_index=255),
        average(lambda o, _t: float(o.mean()), larger_is_better=True),
    ):
        whole, first, second = (metric.tally(CPU) for _ in range(3))
        whole.add(outputs, targets, 6)
        first.add(outputs[:2], targets[:2], 2)
        second.add(outputs[2:], targets[2:], 4)
        first.sums += second.sums
        assert first.result() == pytest.approx(whole.result(), rel=1e-6, abs=1e-7)
