"""Runs from a cached prefix give the quantized model's own numbers, and do less work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit import _effort, models
from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.sensitivity.suffix import Suffix
from mixbit.task import Task
from tests.tasks import tiny_task


def make_task(model: nn.Module, shape: tuple[int, ...] = (3, 16, 16), samples: int = 6) -> Task:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (samples, *shape), generator=random).to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(samples) % 3, 3, [0.5] * shape[0], [0.25] * shape[0])
    return Task(model=model, train=split, test=split)


def make(task: Task, samples: int = 5, *, first_last: bool = False) -> tuple[Suffix, Perturbation, Tensor]:
    x, _ = next(task.train.batches(samples))
    probe = Perturbation(task, (8, 2), (8, 3), x, first_last=first_last)
    return Suffix(task, probe, x), probe, x


def whole(probe: Perturbation, chosen: dict[str, LayerBits], x: Tensor) -> Tensor:
    with torch.no_grad(), probe.chosen(chosen) as model:
        return model(x)  # type: ignore[no-any-return]


class InPlace(nn.Module):
    """Writes into tensors that a cached state holds: a skip that is added to in place, views, a chain of writes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.c, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(x)
        skip.relu_()
        y = self.a(skip)
        skip[:, :2].mul_(0.5)  # through a view, after the state at `a` was kept
        skip += self.b(y)
        y = self.c(skip)
        y.add_(skip).relu_()
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Its graph depends on values, so there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.flatten(1)[:, :4])
        if x.sum() > 0:
            x = x * 2
        return self.c(torch.relu(self.b(x)))  # type: ignore[no-any-return]


class FixedBatch(nn.Module):
    """Holds its batch size in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = int(x.shape[0])
        y = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(y.view([size, 4, 144]).mean(2))  # type: ignore[no-any-return]


def build(name: str) -> Task:
    torch.manual_seed(0)
    zoo = {
        "digits-resnet": lambda: make_task(models.build("digits-resnet", num_classes=3), (1, 8, 8)),
        "ds-cnn": lambda: make_task(models.build("ds-cnn", num_classes=3), (1, 49, 10), 3),
        "in place": lambda: make_task(InPlace()),
        "branches": lambda: make_task(Branches(), (1, 2, 2)),
        "fixed batch": lambda: make_task(FixedBatch(), (3, 16, 16)),
    }
    return zoo[name]()


@pytest.mark.parametrize("name", ["digits-resnet", "ds-cnn", "in place", "branches", "fixed batch"])
def test_any_start_gives_the_numbers_of_the_quantized_model(name: str) -> None:
    task = build(name)
    suffix, probe, x = make(task, first_last=True)
    names = suffix.order
    base = {n: LayerBits(None, 8) for n in names}
    _, at = suffix.run(suffix.begin(x), base, keep=names)
    for i in range(0, len(names), max(1, len(names) // 4)):
        one = base | {names[i]: LayerBits(2, 8)}
        out, later = suffix.run(at[names[i]], one, keep=names[i:])
        torch.testing.assert_close(out, whole(probe, one, x), rtol=1e-5, atol=1e-5)
        for j in range(i + 1, len(names), max(1, len(names) // 3)):
            two = one | {names[j]: LayerBits(2, 3)}
            wanted = whole(probe, two, x)
            for _ in range(2):  # a state serves any number of runs
                torch.testing.assert_close(suffix.run(later[names[j]], two)[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_model_without_a_graph_is_run_whole_and_says_why() -> None:
    suffix, _, x = make(build("branches"), first_last=True)
    assert suffix.reason is not None and "torch.export" in suffix.reason
    _, states = suffix.run(suffix.begin(x), {}, keep=suffix.order)
    suffix.run(states["c"], {"c": LayerBits(2, None)})
    assert suffix.work.done == suffix.work.passes == 10


def test_an_unused_state_stays_as_it_was() -> None:
    suffix, _, x = make(build("in place"), first_last=True)
    _, states = suffix.run(suffix.begin(x), {}, keep=suffix.order)
    before = {n: [v.clone() for v in s.values.values() if isinstance(v, Tensor)] for n, s in states.items()}
    for name in suffix.order:
        suffix.run(states[name], {name: LayerBits(2, None)})
    for name, old in before.items():
        new = [v for v in states[name].values.values() if isinstance(v, Tensor)]
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


def test_starting_late_calls_fewer_layers() -> None:
    task = tiny_task()
    suffix, _, x = make(task)
    macs = {layer.name: layer.macs for layer in task.network.layers}
    _, states = suffix.run(suffix.begin(x), {}, keep=suffix.order)
    for name, left in (("conv1", ["conv1", "conv2", "hidden", "head"]), ("hidden", ["hidden", "head"])):
        wanted = sum(macs[n] for n in left) / sum(macs.values())
        assert suffix.share(name) == pytest.approx(wanted) and wanted < 1
        before, calls = suffix.work.done, Calls()
        with _effort.listen() as counts, calls:
            suffix.run(states[name], {})
        assert calls.layers == len(left)
        assert suffix.work.done - before == pytest.approx(5 * wanted)
        assert counts.forward_images == pytest.approx(5 * wanted)
    assert suffix.work.passes == 15


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts convolutions and matrix products that are really done."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.layers += any(word in str(func) for word in ("convolution", "addmm", "aten.mm", "linear"))
        return func(*args, **(kwargs or {}))


def test_states_hold_only_what_is_needed() -> None:
    """In a chain that is the layer's input."""
    suffix, _, x = make(tiny_task())
    _, states = suffix.run(suffix.begin(x), {}, keep=["conv2"])
    kept = [tuple(v.shape) for v in states["conv2"].values.values() if isinstance(v, Tensor)]
    assert kept == [(5, 4, 6, 6)]
    before = suffix.work.done, suffix.work.passes
    assert suffix.bytes_per_image(x) == 4 * (4 * 36 + 4 * 36 + 6)
    assert (suffix.work.done, suffix.work.passes) == before  # a look at the memory is no measurement


class Exported(nn.Module):
    """Tells the graph another number than it gives itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.flatten(1)) * (1.01 if torch.compiler.is_exporting() else 1.0)
        return self.c(torch.relu(self.b(x)))  # type: ignore[no-any-return]


def test_a_graph_with_other_numbers_is_not_used() -> None:
    suffix, probe, x = make(make_task(Exported(), (1, 2, 2)), first_last=True)
    assert suffix.reason == "its exported graph gives other numbers than the model"
    out, _ = suffix.run(suffix.begin(x), {"b": LayerBits(2, None)})
    assert torch.equal(out, whole(probe, {"b": LayerBits(2, None)}, x))


def test_the_task_s_model_is_left_alone() -> None:
    task = tiny_task()
    task.model.train()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    suffix, _, x = make(task)
    suffix.run(suffix.begin(x), {"conv1": LayerBits(2, 3)})
    assert task.model.training and all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
