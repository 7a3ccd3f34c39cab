"""The user's problem in one object."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mixbit import methods
from mixbit.data import TensorSplit, read_keys
from mixbit.errors import MixbitError
from mixbit.evaluation import evaluate
from mixbit.metric import Metric, mean_absolute_error, mean_squared_error, top_k
from mixbit.network import capture
from mixbit.task import Task, as_loss, cross_entropy, divergence, objective_of


def test_network_is_captured_from_a_test_batch_unless_given() -> None:
    split = TensorSplit(torch.zeros(4, 1, 5, 5, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), 2, [0.5], [0.5])
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    task = Task(model=model, train=split, test=split)
    assert [layer.name for layer in task.network.layers] == ["0", "2"]
    assert task.example(3).shape == (3, 1, 5, 5) and task.example().shape == (2, 1, 5, 5)  # of one, batches look fixed
    other = capture(model, task.example())
    assert Task(model=model, train=split, test=split, network=other).network is other


def test_cross_entropy_with_smoothing() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(cross_entropy(logits, torch.tensor([0]), smoothing), torch.tensor(3.0).log())
    sure = torch.tensor([[20.0, 0.0, 0.0]])
    assert cross_entropy(sure, torch.tensor([0]), 0.1) > cross_entropy(sure, torch.tensor([0]))
    assert cross_entropy(sure.bfloat16(), torch.tensor([0])).dtype == torch.float32


class Scalar(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


DATA = [(torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2))]
CLASSES = [(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))]


@pytest.mark.parametrize(
    "loss",
    [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, nn.MSELoss(), nn.L1Loss(), lambda o, y: F.mse_loss(o, y)],
)
def test_losses_of_differences_are_the_means_that_pytorch_says(loss: Any) -> None:
    x, y = DATA[0]
    found = evaluate(Scalar(), DATA, loss=loss)
    torch.testing.assert_close(found.loss, float(loss(x, y)))
    assert found.values == {"loss": found.loss}


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        partial(F.cross_entropy, label_smoothing=0.2),
        nn.CrossEntropyLoss(torch.ones(3)),
    ],
)
def test_losses_over_classes_work_as_they_are(loss: Any) -> None:
    x, y = CLASSES[0]
    found = evaluate(Scalar(), CLASSES, loss=loss)
    torch.testing.assert_close(found.loss, float(loss(x, y)))
    assert found.accuracy == float((x.argmax(1) == y).float().mean())


@pytest.mark.parametrize("loss", [cross_entropy, F.cross_entropy, nn.CrossEntropyLoss()])
def test_label_smoothing_goes_by_its_name(loss: Any) -> None:
    x, y = CLASSES[0]
    for smoothing in (0.1, 0.35):
        wanted = F.cross_entropy(x, y, label_smoothing=smoothing)
        torch.testing.assert_close(as_loss(loss)(x, y, smoothing), wanted)
    torch.testing.assert_close(as_loss(loss)(x, y), F.cross_entropy(x, y))  # and leaves nothing behind


def test_label_smoothing_that_a_loss_cannot_take_is_an_error() -> None:
    for loss in (F.mse_loss, nn.MSELoss(), lambda o, y, s=0.0: o.mean() * s, F.nll_loss):
        with pytest.raises(MixbitError, match=r"label_smoothing=0.1, and the loss .* does not take it"):
            as_loss(loss)(*DATA[0], 0.1)


def test_a_loss_that_is_complex_is_an_error() -> None:
    with pytest.raises(MixbitError, match="Legal: one number"):
        as_loss(lambda o, y: (o - y).sum() * 1j)(*DATA[0])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.MSELoss, "Call the class first: MSELoss"),
        ("mse", "is no loss"),
        (lambda o: o.mean(), "cannot be called with outputs and targets"),
        (lambda o, y, z: o.mean(), "cannot be called with outputs and targets"),
        (nn.MSELoss(reduction="none"), r"gave float32 \(4, 3, 2, 2\).*Legal: one number"),
        (lambda _o, _y: None, "gave NoneType"),
    ],
)
def test_what_is_no_loss(loss: Any, message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        evaluate(Scalar(), DATA, loss=loss)


@pytest.mark.parametrize("loss", [cross_entropy, F.cross_entropy, nn.CrossEntropyLoss(), F.mse_loss, nn.BCELoss()])
def test_pytorchs_losses_of_several_outputs_ask_which(loss: Any) -> None:
    class Heads(Scalar):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(MixbitError, match=r"needs one tensor, and the model gives \(.*Say which it is: output="):
        evaluate(Heads(), CLASSES, loss=loss)
    if loss is cross_entropy:
        assert evaluate(Heads(), CLASSES, loss=loss, output=0).loss == evaluate(Scalar(), CLASSES).loss


@pytest.mark.parametrize("loss", [cross_entropy, partial(F.cross_entropy), nn.NLLLoss(), nn.CrossEntropyLoss()])
def test_fewer_outputs_than_classes_are_named_with_the_label(loss: Any) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    for scores, targets in ((torch.randn(4, 2), labels), (torch.randn(4, 2, 3), labels[:, None].expand(4, 3))):
        with pytest.raises(MixbitError, match="over 2 classes: a target is 2. Legal: 0 to 1.*an output for every"):
            as_loss(loss)(scores, targets)
    as_loss(loss)(torch.randn(4, 2), torch.tensor([0, 1, -100, 0]))


def test_the_default_metric_follows_the_targets() -> None:
    def names(data: Any, loss: Any, **more: Any) -> str:
        return Task(model=nn.Sequential(nn.Linear(3, 3)), train=data, test=data, loss=loss, **more).info.name

    def own(outputs: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    floats = [(torch.randn(4, 3), torch.randn(4))]
    assert [names(CLASSES, own), names(floats, own), names(CLASSES, F.mse_loss)] == ["accuracy", "loss", "loss"]
    assert names(floats, own, metric=[mean_squared_error(), top_k(2)]) == "mean squared error"
    with pytest.raises(MixbitError, match="none twice"):
        names(floats, own, metric=[top_k(2), top_k(2)])


def test_a_metric_that_is_given_takes_the_place_of_the_default() -> None:
    error = mean_absolute_error()
    for loss in (cross_entropy, nn.CrossEntropyLoss(), F.mse_loss):
        assert [one.name for one in objective_of(loss, error).metrics or ()] == [error.name]


def test_rules_of_a_task_are_those_of_its_objective() -> None:
    def own(outputs: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    tokens = [(torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5)))]
    model = nn.Sequential(nn.Linear(3, 3))
    task = Task(model=model, train=tokens, test=tokens, loss=own, class_axis=2, distill=F.l1_loss, output=lambda o: o)
    assert task.objective.distill is F.l1_loss and task.objective.class_axis == 2 and task.objective.output is not None
    found = evaluate(model, task.test, loss=task.objective)  # accuracy follows from the targets, over that axis
    x, y = tokens[0]
    assert found.accuracy == pytest.approx(float((model(x).argmax(2) == y).double().mean()))


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [(F.cross_entropy, -100), (nn.NLLLoss(), -100), (partial(F.cross_entropy, ignore_index=7), 7), (F.mse_loss, None)],
)
def test_targets_that_a_loss_leaves_out_weigh_nothing_and_are_not_wrong(loss: Any, ignored: int | None) -> None:
    targets = torch.tensor([0, -100, 1, 7, 2])
    assert as_loss(loss).weight(targets, 5) == (5 if ignored is None else 4)
    assert as_loss(loss).weight(targets.float(), 5) == 5
    if ignored is not None:
        targets = torch.tensor([0, ignored, 1])
        (metric,) = objective_of(loss).metrics or ()
        assert metric.sums(torch.eye(3), targets).tolist() == [1, 2]  # type: ignore[union-attr]


class Two(nn.Module):
    """Two named inputs, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)
        self.head, self.age = nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.relu(self.first(image) + self.second(meta))
        return {"logits": self.head(found), "age": self.age(found)}


SAMPLES = [{"image": torch.randn(3), "meta": torch.randn(2), "label": at % 2} for at in range(6)]


def test_dicts_in_and_out_by_rules() -> None:
    read = read_keys(["image", "meta"], "label")
    loader = DataLoader(SAMPLES, batch_size=4)  # type: ignore[arg-type]
    task = Task(model=Two(), train=loader, test=loader, read=read, output="logits")
    assert {layer.name for layer in task.network.layers} == {"first", "second", "head", "age"}
    inputs = {key: torch.stack([one[key] for one in SAMPLES]) for key in ("image", "meta")}  # type: ignore[misc]
    labels = torch.tensor([one["label"] for one in SAMPLES])
    found = evaluate(task.model, loader, read=read, output="logits")
    logits = task.model(**inputs)["logits"]
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, labels).item())
    again = replace(task, model=task.model)  # what was read once is not read again
    assert evaluate(again.model, again.test, loss=again.objective) == found
    with pytest.raises(MixbitError, match="the model gives {logits: .*age: .*output='logits'"):
        evaluate(task.model, loader, read=read, loss=lambda o, _y: o["age"].mean())
    with pytest.raises(MixbitError, match="output='logit'.*Its keys: logits, age"):
        evaluate(task.model, loader, read=read, output="logit")


def test_a_dict_may_be_the_models_one_argument() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Two()

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.inner(batch["image"], batch["meta"])["logits"]  # type: ignore[no-any-return]

    loader, read = DataLoader(SAMPLES, batch_size=6), read_keys(["image", "meta"], "label")  # type: ignore[arg-type]
    task = Task(model=One(), train=loader, test=loader, read=read)
    assert len(task.network.layers) == 4
    whole = task.example(6)
    torch.testing.assert_close(
        evaluate(task.model, task.test).loss,
        F.cross_entropy(task.model(whole), torch.tensor([0, 1] * 3)).item(),
    )
    scores = methods.make("sqnr", {"images": 6, "first_last": True}).search(task, quiet=True)
    assert set(scores.layers) == {layer.name for layer in task.network.layers}


def test_an_output_may_be_named_by_place_attribute_or_function() -> None:
    named = namedtuple("named", ["logits", "extra"])
    for output in ("logits", 0, lambda found: found.logits):
        assert objective_of(output=output).chosen(named(1, 2)) == 1
    with pytest.raises(MixbitError, match="no rule"):
        objective_of(output=2.5)  # type: ignore[arg-type]


def test_a_loss_that_reads_one_output_may_be_told_another() -> None:
    outputs, targets = (torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0])), torch.tensor([1.0, 3.0])
    first = objective_of(F.mse_loss, output=0).loss
    assert float(first(outputs, targets)) == 0.5
    assert float(objective_of(first, output=1).loss(outputs, targets)) == 16.0
    assert float(objective_of(first).loss(outputs, targets)) == 0.5 and as_loss(first) is first


@pytest.mark.parametrize("loss", [cross_entropy, lambda outputs, _targets: outputs.mean()])
def test_the_default_metric_looks_where_the_classes_are_said_to_be(loss: Any) -> None:
    scores = torch.tensor([[[9.0, 4.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]])  # (1, 3, 3): classes on either axis
    targets = torch.tensor([[0, 0, 2]])
    for axis, right in ((1, 1.0), (2, 2 / 3), (None, None)):
        objective = objective_of(loss, class_axis=axis).settled(targets)
        assert objective.metrics is not None
        (metric,) = objective.metrics
        assert isinstance(metric, Metric)
        if right is None:
            with pytest.raises(MixbitError, match=r"on 1 or 2: say class_axis="):
                metric.sums(scores, targets)
        else:
            assert metric.result(metric.sums(scores, targets)) == pytest.approx(right)


def test_distillation_of_what_is_no_classification_needs_a_rule() -> None:
    x, y = DATA[0]
    hard = torch.tensor(2.0)
    with pytest.raises(MixbitError, match="distill=, a function"):
        objective_of(F.mse_loss).distilled(x, x, y, hard, weight=0.5, temperature=4.0)
    ruled = objective_of(F.mse_loss, distill=F.mse_loss).distilled(x, x + 3, y, hard, weight=0.2, temperature=4.0)
    torch.testing.assert_close(ruled, torch.tensor(0.8 * 2 + 0.2 * 9))


def test_distillation_of_classes_is_softened_and_weighed() -> None:
    """Against probabilities in float64: (1 - w) hard + w T^2 sum p log(p / q), p of the teacher."""
    random = torch.Generator().manual_seed(0)
    outputs, teacher = (3 * torch.randn(6, 4, generator=random) for _ in range(2))
    labels, hard = torch.randint(0, 4, (6,), generator=random), torch.tensor(1.7)
    for weight, temperature in ((0.3, 2.5), (1.0, 1.0), (0.8, 0.7)):
        p, q = ((one.double() / temperature).softmax(1) for one in (teacher, outputs))
        apart = (p * (p / q).log()).sum(1).mean()
        found = objective_of().distilled(outputs, teacher, labels, hard, weight=weight, temperature=temperature)
        wanted = (1 - weight) * 1.7 + weight * temperature**2 * float(apart)
        assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_the_divergence_is_the_mean_over_all_positions() -> None:
    random = torch.Generator().manual_seed(1)
    outputs, teacher = (2 * torch.randn(3, 5, 2, 4, generator=random) for _ in range(2))
    for axis in (1, 3):
        p, q = ((one.double() / 1.5).softmax(axis) for one in (teacher, outputs))
        wanted = (p * (p / q).log()).sum(axis).mean()
        assert float(divergence(outputs, teacher, axis, 1.5)) == pytest.approx(float(wanted), rel=1e-5)
        assert float(divergence(teacher, outputs, axis, 1.5)) != pytest.approx(float(wanted), rel=1e-2)
    assert torch.equal(divergence(outputs, teacher, 1), divergence(outputs, teacher, 1, 1.0))


def test_calibration_reads_training_samples_in_the_order_of_the_seed_and_examples_the_first_of_the_test() -> None:
    def numbered(first: int) -> TensorSplit:
        pixels = (
            torch.arange(first, first + 40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 3, 3).contiguous()
        )
        return TensorSplit(pixels, torch.arange(40) % 2, 2, [0.0], [1 / 255], pad=1)

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    task = Task(model=model, train=numbered(0), test=numbered(100))
    assert task.example(3)[:, 0, 1, 1].round().tolist() == [100, 101, 102]
    drawn = [task.calibration(12, seed)[:, 0, 1, 1].round().tolist() for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len(set(one)) == 12 and max(one) < 40 and one != sorted(one) for one in drawn)
    assert task.calibration(99, 0).shape[0] == 40 and float(task.calibration(40, 3)[:, 0, 0, 0].min().round()) == 0
    assert (task.calibration(40, 3).flatten(1).std(1) < 1e-3).all()  # nothing is shifted: no augmentation


def test_distillation_over_the_axis_that_has_the_classes() -> None:
    outputs, teacher, tags = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))

    def own(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores.transpose(1, 2), targets)

    with pytest.raises(MixbitError, match="class_axis=2"):
        objective_of(own).distilled(outputs, teacher, tags, torch.tensor(0.0), weight=1.0, temperature=1.0)
    found = objective_of(own, class_axis=2).distilled(
        outputs, teacher, tags, torch.tensor(0.0), weight=1.0, temperature=1.0
    )
    p, q = teacher.double().softmax(2), outputs.double().softmax(2)
    torch.testing.assert_close(found.double(), (p * (p / q).log()).sum(2).mean(), rtol=1e-5, atol=1e-6)
