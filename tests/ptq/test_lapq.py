"""Post-training quantization of a whole network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.errors import MixbitError, PolicyError
from mixbit.evaluation import evaluate
from mixbit.integer import executor
from mixbit.integer.lowering import lower
from mixbit.metric import mean_squared_error
from mixbit.policy import Policy
from mixbit.ptq import PTQConfig, PTQResult, ptq, widest_step
from mixbit.ptq._sites import Score
from mixbit.ptq.lapq import Stage, _Candidate, _Search, best_of_parabola
from mixbit.quantization import quantized_layers, quantizers
from mixbit.quantizers import MidRise
from mixbit.task import Objective, Task, objective_of
from mixbit.testing.options import OptionCases, OptionRow, fields_of


class Unread:
    """A split that must not be read."""

    num_classes = 3

    def __len__(self) -> int:
        raise AssertionError("the test split was asked for its length")

    def batches(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("the test split was read")


def pictures(samples: int, seed: int) -> TensorSplit:
    """Three classes that differ in which third of the image is bright."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    images = torch.randint(0, 120, (samples, 1, 6, 6), generator=random)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 2] += 20
    return TensorSplit(images.to(torch.uint8), labels, 3, (0.3,), (0.2,))


@cache
def trained() -> Task:
    """A small network that has learned them; its test split cannot be read."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3),
    )  # fmt: skip
    split = pictures(240, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(4):
        for x, y in split.batches(40, epoch=epoch, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    whole = Task(model=model.eval(), train=split, test=split)
    return Task(model=model, train=split, test=Unread(), network=whole.network)  # type: ignore[arg-type]


def run(bits: int | None = 3, inputs: int | None = 4, task: Task | None = None, **settings: object) -> PTQResult:
    task = task or trained()
    config = PTQConfig(**{"samples": 64, "selection_samples": 64, **settings})  # type: ignore[arg-type]
    return ptq(task, Policy.uniform(task.network, bits, inputs, {}), config, quiet=True)


def stage(result: PTQResult, name: str) -> float:
    return next(one.loss for one in result.stages if one.name == name)


def test_the_model_is_a_copy_and_the_test_split_is_not_read() -> None:
    task = trained()
    before = copy.deepcopy(task.model.state_dict())
    result = run(task=task, method="mse")
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())
    assert not quantizers(task.model) and len(quantizers(result.model)) == 6


def test_minmax_clips_no_weight() -> None:
    result = run(method="minmax")
    for layer in quantized_layers(result.model).values():
        bank = layer.weight_quantizer
        assert bank is not None
        rows = layer.weight.reshape(1, -1)  # type: ignore[union-attr,operator]
        torch.testing.assert_close(bank.steps[0], widest_step(rows, 3))
    assert result.p is None and result.chosen == "minmax" and result.evaluations == 1


def test_mse_is_the_lp_step_of_two() -> None:
    assert run(method="mse").steps == run(method="lp", p=(2.0,)).steps


def test_lp_keeps_the_best_candidate() -> None:
    result = run(2, 2, method="lp")
    losses = {one.name: one.loss for one in result.stages}
    assert list(losses)[:3] == ["p=2", "p=2.5", "p=3"] and len(losses) in (3, 4)
    assert result.chosen == min(losses, key=losses.__getitem__)
    assert result.evaluations == sum(one.evaluations for one in result.stages) == len(losses)


def test_selection_by_accuracy() -> None:
    result = run(2, 2, method="lp", select_by="accuracy")
    best = max(one.accuracy for one in result.stages)
    assert next(one.accuracy for one in result.stages if one.name == result.chosen) == best


def test_the_parabola_gives_a_further_candidate_once() -> None:
    assert len(run(parabola=False).stages) == 3
    assert len(run(p=(2.0, 3.0)).stages) == 2
    assert best_of_parabola([(2, 1.0), (2.5, 1.5), (3, 1.0)]) == pytest.approx(2.5, abs=0.05)
    assert best_of_parabola([(2, 1.0), (2.5, 1.5), (3, 2.0)]) == 5.0
    assert best_of_parabola([(2, 3.0), (2.5, 2.0), (3, 1.0)]) == 1.0


@pytest.mark.parametrize("joint", ["powell", "coordinate"])
def test_joint_stages_lower_the_calibration_loss(joint: str) -> None:
    result = run(2, 3, method="lapq", joint=joint, max_evaluations=60)
    losses = {one.name: one.calibration_loss for one in result.stages}
    layer_wise = [loss for name, loss in losses.items() if name != joint]
    assert losses[joint] is not None and losses[joint] < min(loss for loss in layer_wise if loss is not None)
    assert result.stages[-1].evaluations <= 62


def test_both_joint_stages_are_tried_and_the_best_is_kept() -> None:
    result = run(2, 3, method="lapq", max_evaluations=12)
    names = [one.name for one in result.stages]
    assert names[-2:] == ["powell", "coordinate"]
    assert stage(result, result.chosen) == min(one.loss for one in result.stages)
    found = evaluate_steps(result)
    assert found == pytest.approx(stage(result, result.chosen), rel=1e-5)


def evaluate_steps(result: PTQResult) -> float:
    """The loss of the returned model on the images that candidates were selected by."""
    x, y = next(iter(trained().train.batches(128, seed=0, shuffle=True)))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(result.model(x[64:]), y[64:]))


def test_steps_are_those_of_the_model() -> None:
    result = run(method="lapq", p=(2.0,), max_evaluations=5)
    for name, layer in quantized_layers(result.model).items():
        for side, bank in (("weight", layer.weight_quantizer), ("input", layer.input_quantizer)):
            assert bank is not None and result.steps[f"{name} ({side})"] == bank.steps.flatten().tolist()


def test_more_bits_are_better_and_many_are_as_good_as_float() -> None:
    split, task = pictures(120, 1), trained()
    wanted = evaluate(task.model, split)
    losses = [evaluate(run(bits, bits, method="mse").model, split).loss for bits in (2, 4, 8)]
    assert losses[0] > wanted.loss + 0.1
    assert losses[1:] == pytest.approx([wanted.loss] * 2, abs=0.05)


def test_the_grid_of_the_paper_and_of_integers() -> None:
    paper, integers = (run(method="mse", grid=grid) for grid in ("midrise", "signed"))
    for layer in quantized_layers(paper.model).values():
        assert isinstance(layer.weight_quantizer, MidRise) and not isinstance(layer.input_quantizer, MidRise)
    x = next(trained().train.batches(16))[0]
    graph = lower(integers.model, trained().network, [x], rounding="float32")
    wanted = integers.model(x).detach().numpy()
    # On the mean, since biases are rounded to steps of the accumulator, and an input now and then ends one step away.
    assert np.abs(executor.run(graph, x.numpy()) - wanted).mean() < 0.01 * wanted.std()


def test_per_channel_steps() -> None:
    result = run(2, 8, per_channel=True, method="lapq", p=(2.0,), joint="coordinate", max_evaluations=10)
    assert [len(result.steps[f"{name} (weight)"]) for name in ("0", "3", "6")] == [8, 8, 3]
    layer = quantized_layers(result.model)["3"]
    assert layer.weight_quantizer is not None and layer.weight_quantizer.steps.unique().numel() > 1


def test_bias_correction_is_in_the_result() -> None:
    result = run(2, None, method="mse", bias_correction=True)
    for layer in quantized_layers(result.model).values():
        used, own = (w.detach().flatten(1).mean(dim=1) for w in (layer.quantize_weight(layer.weight), layer.weight))  # type: ignore[arg-type,union-attr]
        torch.testing.assert_close(used, own, atol=1e-6, rtol=0)


def test_the_policy_decides() -> None:
    task = trained()
    policy = Policy.uniform(task.network, 4, 4, {"0": LayerBits(None, None), "6": LayerBits(8, None)})
    result = ptq(task, policy, PTQConfig(method="mse", samples=32, selection_samples=32), quiet=True)
    layers = quantized_layers(result.model)
    assert list(layers) == ["3", "6"] and layers["6"].input_quantizer is None
    assert layers["6"].weight_quantizer is not None and layers["6"].weight_quantizer.bits == (8,)
    assert any(note.startswith("0: weight and input in float") for note in result.notes)


def test_the_same_seed_gives_the_same_steps() -> None:
    one, same, other = (run(method="mse", seed=seed).steps for seed in (3, 3, 4))
    assert one == same != other


def test_few_images_are_shared_out() -> None:
    few = Task(model=trained().model, train=pictures(9, 0), test=trained().test, network=trained().network)
    result = run(task=few, method="mse", samples=512, selection_samples=256)
    assert np.isfinite(stage(result, result.chosen))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "lpq"}, "Did you mean 'lapq'"),
        ({"grid": "mid-rise"}, "Legal: 'signed' or 'midrise'"),
        ({"select_by": "top1"}, "Legal: 'loss' or 'accuracy'"),
        ({"joint": "nelder"}, "Legal: 'powell', 'coordinate' or 'both'"),
        ({"samples": 0}, "samples=0"),
        ({"max_evaluations": 0}, "max_evaluations=0"),
        ({"p": ()}, r"p=\(\)"),
        ({"p": (2.0, 2.0)}, "none twice"),
        ({"p": (0.5,)}, "from 1 to 5"),
    ],
)
def test_illegal_settings(settings: dict[str, object], match: str) -> None:
    with pytest.raises(MixbitError, match=match):
        PTQConfig(**settings)  # type: ignore[arg-type]


def test_a_policy_that_quantizes_nothing_or_is_of_another_model() -> None:
    task = trained()
    with pytest.raises(MixbitError, match="leaves every layer in float"):
        ptq(task, Policy.uniform(task.network, None, None, {}), quiet=True)
    other = Task(model=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), train=task.train, test=task.train)
    with pytest.raises(PolicyError):
        ptq(task, Policy.uniform(other.network, 4, 4, {}), quiet=True)


def test_weights_that_are_not_finite_name_the_layer() -> None:
    broken = copy.deepcopy(trained().model)
    with torch.no_grad():
        broken[3].weight[0, 0, 0, 0] = float("nan")
    task = Task(model=broken, train=trained().train, test=trained().test, network=trained().network)
    with pytest.raises(MixbitError, match=r"layer '3': 1 of its 576 weights are NaN"):
        run(task=task)


# ------------------------------------------------------------------------------------------- every option, by numbers


def drawn(samples: int, others: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The images that are calibrated on and those that are selected by, from one shuffled pass."""
    x, _ = next(trained().train.batches(256, seed=seed, shuffle=True))
    return x[:samples], x[samples : samples + others]


def first_weight() -> np.ndarray[Any, Any]:
    return trained().model.get_parameter("0.weight").detach().double().numpy()  # type: ignore[no-any-return]


def lp_best(values: Any, low: float, high: float, p: float, half: float = 0.0) -> float:
    """The step of least Lp error among a thousand, by brute force; levels at `(k + half) s`."""
    x = np.asarray(values, dtype=np.float64).ravel()
    widest = max(x.max() / (high + half), x.min() / (low - half if half == 0 else -(high + half)) if low else 0.0)
    steps = widest * np.geomspace(0.1, 1.2, 1500)
    errors = [(np.abs((np.clip(np.round(x / s - half), low, high) + half) * s - x) ** p).mean() for s in steps]
    return float(steps[int(np.argmin(errors))])


def weight_step(**settings: Any) -> float:
    return run(inputs=None, **{"method": "lp", "p": (2.0,), **settings}).steps["0 (weight)"][0]


def names_of(**settings: Any) -> list[str]:
    return [one.name for one in run(2, 3, **settings).stages]


def close(*wanted: Any) -> Callable[[Any, Any], bool]:
    return lambda *found: found == pytest.approx(wanted, rel=0.02)


def input_widest(samples: int, seed: int = 0) -> float:
    """The step of which nothing of the images is clipped: 4 bits, signed."""
    x = drawn(samples, 0, seed)[0]
    return max(float(x.max()) / 7, float(x.min()) / -8)


def input_step(**settings: Any) -> float:
    return run(method="minmax", **settings).steps["0 (input)"][0]


def selection_loss_is_that_of_the_other_images(others: int) -> tuple[float, float]:
    """As it is told, and as the returned model has it on them."""
    result = run(2, 3, method="mse", samples=20, selection_samples=others)
    x, y = next(trained().train.batches(256, seed=0, shuffle=True))
    with torch.no_grad():
        outputs = result.model(x[20 : 20 + others])
    return stage(result, "p=2"), float(nn.functional.cross_entropy(outputs, y[20 : 20 + others]))


def chosen_by(select_by: str, objective: Objective | None = None) -> str:
    """Of three candidates: the first has the lowest loss, the last the highest accuracy, and one is not finite."""
    judge = SimpleNamespace(objective=objective_of() if objective is None else objective)
    search = _Search(judge, [], [], PTQConfig(select_by=select_by), quiet=True)  # type: ignore[arg-type]
    for name, loss, accuracy in (("a", 0.5, 0.6), ("b", float("nan"), float("nan")), ("c", 0.7, 0.8)):
        one = Stage(name=name, calibration_loss=0.1, loss=loss, accuracy=accuracy, evaluations=1)
        search.found.append(_Candidate(stage=one, steps=[], p=2.0))
    return search._best().stage.name


def test_selection_by_a_metric_that_is_better_if_smaller() -> None:
    assert chosen_by("accuracy", objective_of(metric=mean_squared_error())) == "a"


def batch_sizes(batch_size: int) -> list[int]:
    """Of all passes: the calibration images through the float network, then those of selection."""
    task, sizes = trained(), []
    handle = task.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        run(method="mse", samples=20, selection_samples=10, batch_size=batch_size)
    finally:
        handle.remove()
    return sizes


def means_met(bias_correction: bool) -> bool:
    result = run(2, None, method="mse", bias_correction=bias_correction)
    layer = quantized_layers(result.model)["3"]
    used, own = (w.detach().flatten(1).mean(dim=1) for w in (layer.quantize_weight(layer.weight), layer.weight))  # type: ignore[arg-type,union-attr]
    return torch.allclose(used, own, atol=1e-6)


def of_rows(per_channel: bool) -> list[float]:
    return run(inputs=None, method="minmax", per_channel=per_channel).steps["0 (weight)"]


def own_rows() -> list[float]:
    rows = first_weight().reshape(8, -1)
    return [max(row.max() / 3, row.min() / -4) for row in rows]


LAPQ = {"method": "lapq", "p": (2.0,), "max_evaluations": 4}


class TestPTQConfigOptions(OptionCases):
    owner = PTQConfig
    options = fields_of(PTQConfig)
    rows = (
        OptionRow(
            "method", ("minmax", "mse"),
            seen=lambda value: weight_step(method=value, p=(4.0,)),
            holds=lambda a, b: close(max(own_rows()), lp_best(first_weight(), -4, 3, 2.0))(a, b),
        ),
        OptionRow(
            "method", ("lp", "lapq"), says="lapq goes on from there with the loss",
            seen=lambda value: names_of(**{**LAPQ, "method": value}),
            holds=lambda a, b: (a, b) == (["p=2"], ["p=2", "powell", "coordinate"]),
        ),
        OptionRow(
            "p", ((2.0,), (5.0,)),
            seen=lambda value: weight_step(p=value),
            holds=lambda a, b: close(*(lp_best(first_weight(), -4, 3, p) for p in (2.0, 5.0)))(a, b),
        ),
        OptionRow(
            "parabola", (True, False),
            seen=lambda value: names_of(parabola=value, p=(2.0, 2.5, 3.0)),
            holds=lambda a, b: b == ["p=2", "p=2.5", "p=3"] and a[:3] == b and len(a) == 4,
        ),
        OptionRow(
            "joint", ("powell", "coordinate"),
            seen=lambda value: names_of(**LAPQ, joint=value),
            holds=lambda a, b: (a, b) == (["p=2", "powell"], ["p=2", "coordinate"]),
        ),
        OptionRow(
            "joint", ("coordinate", "both"),
            seen=lambda value: names_of(**LAPQ, joint=value),
            holds=lambda a, b: (a, b) == (["p=2", "coordinate"], ["p=2", "powell", "coordinate"]),
        ),
        OptionRow(
            "max_evaluations", (3, 8), says="and one look at either set of images",
            seen=lambda value: [one.evaluations for one in run(2, 3, **{**LAPQ, "max_evaluations": value}).stages],
            holds=lambda a, b: (a, b) == ([2, 5, 5], [2, 10, 10]),
        ),
        OptionRow(
            "max_evaluations", (None, 3), says="there may be no limit",
            seen=lambda value: run(2, None, **{**LAPQ, "joint": "coordinate", "max_evaluations": value}).evaluations,
            holds=lambda a, b: b == 7 and 15 < a < 100,
        ),
        OptionRow(
            "grid", ("signed", "midrise"),
            seen=lambda value: weight_step(grid=value),
            holds=lambda a, b: close(
                lp_best(first_weight(), -4, 3, 2.0), lp_best(first_weight(), -4, 3, 2.0, half=0.5)
            )(a, b),
        ),
        OptionRow(
            "per_channel", (False, True),
            seen=of_rows,
            holds=lambda a, b: a == pytest.approx([max(own_rows())]) and b == pytest.approx(own_rows()),
        ),
        OptionRow("bias_correction", (False, True), seen=means_met, holds=lambda a, b: (a, b) == (False, True)),
        OptionRow(
            "samples", (64, 2),
            seen=lambda value: input_step(samples=value),
            holds=lambda a, b: a > b and (a, b) == pytest.approx((input_widest(64), input_widest(2)), rel=1e-3),
        ),
        OptionRow(
            "selection_samples", (64, 5),
            seen=selection_loss_is_that_of_the_other_images,
            holds=lambda a, b: a[0] == pytest.approx(a[1], rel=1e-5) and b[0] == pytest.approx(b[1], rel=1e-5),
        ),
        OptionRow("select_by", ("loss", "accuracy"), seen=chosen_by, holds=lambda a, b: (a, b) == ("a", "c")),
        OptionRow(
            "batch_size", (256, 8),
            seen=batch_sizes,
            holds=lambda a, b: (a, b) == ([20, 10], [8, 8, 4, 8, 2]),
        ),
        OptionRow(
            "seed", (0, 1),
            seen=lambda value: input_step(seed=value, samples=2),
            holds=lambda a, b: a != b and (a, b) == pytest.approx((input_widest(2), input_widest(2, 1)), rel=1e-3),
        ),
    )  # fmt: skip


def test_the_defaults_are_those_that_are_documented() -> None:
    config = PTQConfig()
    assert {name: getattr(config, name) for name in fields_of(PTQConfig)} == {
        "method": "lp", "p": (2.0, 2.5, 3.0), "parabola": True, "joint": "both", "max_evaluations": None,
        "grid": "signed", "per_channel": False, "bias_correction": False, "samples": 512, "selection_samples": 512,
        "select_by": "loss", "batch_size": 256, "seed": 0,
    }  # fmt: skip


class Landscape:
    """Stands for a model: steps of one site, and a loss on each set of images that is known."""

    def __init__(self, calibration: Callable[[float], float], selection: Callable[[float], float]) -> None:
        self.objective, self.evaluations, self._step = objective_of(), 0, 1.0
        self.sites = [SimpleNamespace(step=lambda p: torch.tensor([1.0 if p is None else p]))]
        self._losses = {"calibration": calibration, "selection": selection}

    def set(self, steps: list[Tensor]) -> None:
        self._step = float(steps[0])

    def score(self, images: str) -> Score:
        self.evaluations += 1
        return Score(self._losses[images](self._step), 0.5)

    def along(self, steps: list[Tensor], images: str) -> Callable[[Any], float]:
        def loss(logs: Any) -> float:
            self.set([steps[0] * float(np.exp(logs[0]))])
            return self.score(images).loss

        return loss


def searched(landscape: Landscape, **settings: Any) -> tuple[_Search, _Candidate]:
    search = _Search(landscape, "calibration", "selection", PTQConfig(**settings), quiet=True)  # type: ignore[arg-type]
    return search, search.run()


def test_candidates_are_selected_by_the_other_images_and_moved_by_those_of_calibration() -> None:
    """Calibration is best at a step of 3.3, selection at 2.6: p = 2.5 is the start, and 3.3 is where it is moved to."""
    landscape = Landscape(lambda s: abs(s - 3.3), lambda s: abs(s - 2.6))
    search, best = searched(landscape, method="lapq", joint="coordinate", parabola=False)
    assert [found.stage.name for found in search.found] == ["p=2", "p=2.5", "p=3", "coordinate"]
    moved = search.found[-1]
    assert float(moved.steps[0]) == pytest.approx(3.3, rel=0.02) and moved.p == 2.5
    assert moved.stage.calibration_loss == pytest.approx(0.0, abs=0.1)
    assert moved.stage.loss == pytest.approx(0.7, abs=0.1)
    assert best.stage.name == "p=2.5" and best.stage.calibration_loss == pytest.approx(0.8)


def test_both_joint_stages_start_from_the_best_exponent() -> None:
    """What Powell finds is better than all before, and the descent begins where Powell began all the same."""
    starts: list[float] = []

    class Noted(Landscape):
        def along(self, steps: list[Tensor], images: str) -> Callable[[Any], float]:
            starts.append(float(steps[0]))
            return super().along(steps, images)

    search, _ = searched(Noted(lambda s: (s - 3.3) ** 2, lambda s: (s - 3.3) ** 2), method="lapq", p=(2.0, 2.5))
    assert [found.stage.name for found in search.found] == ["p=2", "p=2.5", "powell", "coordinate"]
    assert search.found[2].stage.loss < search.found[1].stage.loss and starts == [2.5, 2.5]


def test_the_further_exponent_is_the_top_of_the_parabola_and_no_candidate_twice() -> None:
    search, best = searched(Landscape(lambda s: 0.0, lambda s: (s - 3.6) ** 2), method="lp")
    assert best.p == pytest.approx(3.6, abs=0.05) and len(search.found) == 4
    assert all(found.stage.calibration_loss is None for found in search.found)
    again, _ = searched(Landscape(lambda s: 0.0, lambda s: (s - 5.0) ** 2), method="lp", p=(3.0, 4.0, 5.0))
    assert [found.p for found in again.found] == [3.0, 4.0, 5.0]


def test_two_iterations_of_powell_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the authors make them; `test__joint` shows what their number changes."""
    asked: list[int] = []
    monkeypatch.setattr("mixbit.ptq.lapq.powell", lambda watched, iterations: asked.append(iterations))
    searched(Landscape(lambda s: (s - 3.3) ** 2, lambda s: 1.0), method="lapq", p=(2.0,))
    assert asked == [2]


def test_the_returned_model_has_the_best_steps_not_the_last() -> None:
    result = run(2, 2, method="lp", p=(5.0, 2.0))
    losses = [one.loss for one in result.stages]
    assert losses.index(min(losses)) == 0, "the last candidate must not be the best for this to be a test"
    assert result.steps["0 (weight)"][0] == pytest.approx(lp_best(first_weight(), -2, 1, 5.0), rel=0.02)
    bank = quantized_layers(result.model)["0"].weight_quantizer
    assert bank is not None and bank.steps.flatten().tolist() == result.steps["0 (weight)"]
