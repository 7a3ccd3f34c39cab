"""Steps: what a plain one computes, and what another brings along: parameters and state, kept, shared, refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixbit.errors import MixbitError, StaleRun, TrainingDiverged, WeightsError
from mixbit.testing.options import alike
from mixbit.training import ParameterGroup, StatefulStep, StepContext, TrainConfig, supervised_step, train
from mixbit.training._brought import Brought
from tests import ranks_script
from tests.nets import tiny_split
from tests.toy_step import LIMIT, RATE, Agent, ToyStep, held


def test_a_supervised_step_leaves_the_gradients_of_its_loss() -> None:
    """Of a squared error of one weight: 2 x (w x - y)."""
    model, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[3.0]]), torch.tensor([[1.0]])
    nn.init.constant_(model.weight, 2.0)
    context = StepContext(model=model, loss=lambda _x, out, wanted: (out - wanted).square().sum(), forward=model)
    loss = supervised_step(context, x, y)
    assert float(loss) == 25 and not loss.requires_grad
    assert model.weight.grad is not None and float(model.weight.grad) == 30


# ------------------------------------------------------------------------------- a step with an agent and a multiplier

CONFIG = TrainConfig(epochs=4, batch_size=16, lr=0.05, bn_samples=0, momentum=0.0, weight_decay=0.0, final_lr=1.0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def toy_by_hand(config: TrainConfig) -> tuple[nn.Sequential, Agent, float]:
    """The toy's training in plain PyTorch: gradient descent of the model, AdamW of the agent, ascent of a number."""
    model, agent, multiplier = net(), Agent(1), 1.0
    optimizer = torch.optim.AdamW(agent.parameters(), lr=0.05, weight_decay=0.0)
    for epoch in range(config.epochs):
        for x, y in tiny_split().batches(16, epoch=epoch, seed=0, shuffle=True, augment=True, drop_last=True):
            share = agent(x)
            chosen = model(x).log_softmax(1)[torch.arange(len(y)), y]
            loss = -(share * chosen).mean() + multiplier * (LIMIT - share.mean())
            gradients = torch.autograd.grad(loss, [*model.parameters(), *agent.parameters()])
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=False):
                    parameter -= config.lr * gradient
            for parameter, gradient in zip(agent.parameters(), gradients[2:], strict=True):
                parameter.grad = gradient
            optimizer.step()
            multiplier = max(0.0, multiplier + RATE * (LIMIT - float(share.detach().mean())))
    return model, agent, multiplier


def test_an_agent_and_a_multiplier_learn_as_by_hand() -> None:
    """The share that the multiplier pulls at goes from below the limit towards it."""
    model, step = net(), ToyStep(1)
    history = train(model, tiny_split(), None, CONFIG, step=step, quiet=True).history
    wanted_model, wanted_agent, multiplier = toy_by_hand(CONFIG)
    for found, wanted in ((model, wanted_model), (step.agent, wanted_agent)):
        for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert float(step.multiplier) == pytest.approx(multiplier, rel=1e-4) and multiplier > 2
    shares = [one["share"] for one in history]
    assert shares == sorted(shares) and shares[0] < 0.5 < 0.6 < shares[-1] < LIMIT
    assert step.epochs == [[0, 0, 5], [1, 6, 11], [2, 12, 17], [3, 18, 23]]


def toy_run(folder: Path, config: TrainConfig, stop_at: int | None = None, seed: int = 1, **settings: Any) -> Any:
    """All that a training ends with; `stop_at` kills it (here: by an exception) before that step."""

    class Clock(ToyStep):
        def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
            if context.number == stop_at:
                raise KeyboardInterrupt
            assert context.total == 6 * config.epochs and context.epoch == context.number // 6
            return super().__call__(context, x, y)

    model, step = net(), Clock(seed, **settings)
    result = train(model, tiny_split(), tiny_split(), config, run=folder, step=step, quiet=True)
    facts = [{name: one for name, one in line.items() if name != "seconds"} for line in result.history]
    return {"model": dict(model.state_dict()), "step": held(step), "history": facts}


@pytest.mark.parametrize(
    ("changed", "settings"),
    [
        ({}, {}),
        ({"ema": 0.6}, {"optimizer": "sgd", "schedule": "run", "average": True}),
        ({"optimizer": "adamw", "lr": 0.005}, {"optimizer": "adam", "clip_norm": 0.01, "weight_decay": 0.1}),
    ],
)
def test_a_killed_training_goes_on_with_the_steps_own(
    tmp_path: Path, changed: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Bit for bit, from a step that began elsewhere; each epoch begins and ends once."""
    config = replace(CONFIG, epochs=3, checkpoint_seconds=0.0, final_lr=0.1, **changed)
    whole = toy_run(tmp_path / "whole", config, **settings)
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "broken", config, 9, **settings)
    again = toy_run(tmp_path / "broken", config, seed=5, **settings)
    assert alike(again, whole)
    assert whole["step"]["epochs"] == [[0, 0, 5], [1, 6, 11], [2, 12, 17]]
    finished = toy_run(tmp_path / "whole", config, seed=5, **settings)
    assert alike(finished, whole)


def test_the_models_own_tensors_are_all_that_it_has_afterwards(tmp_path: Path) -> None:
    model, step = net(), ToyStep()
    train(model, tiny_split(), None, replace(CONFIG, epochs=1), run=tmp_path, step=step, quiet=True)
    assert list(model.state_dict()) == ["1.weight", "1.bias"]
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        names = {name for name in file.keys() if name.startswith("step/")}  # noqa: SIM118
        facts = json.loads(file.metadata()["mixbit"])
    assert {"step/parameter/agent/layer.weight", "step/buffer/agent/calls", "step/state/multiplier"} < names
    assert set(facts["state"]) == {"trace", "epochs"}


def test_the_average_takes_in_a_group_that_asks() -> None:
    """By hand, from the agent's own weights; one that does not ask ends with them."""

    class Watched(ToyStep):
        def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
            seen.append(self.agent.layer.weight.detach().clone())
            return super().__call__(context, x, y)

    config, ends = replace(CONFIG, epochs=2, ema=0.6), dict[bool, Tensor]()
    for asks in (True, False):
        seen = list[Tensor]()
        step = Watched(1, average=asks)
        train(net(), tiny_split(), None, config, step=step, quiet=True)
        ends[asks] = step.agent.layer.weight.detach()
    shadow = seen[0].clone()
    for number, weight in enumerate([*seen[1:], ends[False]]):
        shadow = shadow.lerp(weight, 1 - min(0.6, (1 + number) / (10 + number)))
    torch.testing.assert_close(ends[True], shadow, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ends[True], ends[False], rtol=1e-4)


def test_parameters_and_state_are_on_the_models_device() -> None:
    """At the start, and in a run that goes on; seen at a device that every machine has, and that holds no numbers."""
    step, other = ToyStep(), Brought(ToyStep(1), net(), torch.device("cpu"))
    brought = Brought(step, net(), torch.device("meta"))
    tensors, facts = other.kept()
    for take in (brought.begin, lambda: brought.restore(tensors, facts["state"])):
        step.multiplier = torch.tensor(0.0)
        take()
        assert {one.device.type for one in (step.multiplier, *step.agent.state_dict().values())} == {"meta"}


def test_a_step_whose_parameters_are_not_finite_is_never_saved(tmp_path: Path) -> None:
    class Poisoned(ToyStep):
        def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
            loss = super().__call__(context, x, y)
            if context.number == 5:
                nn.init.constant_(self.agent.layer.bias, float("nan"))
            return loss

    with pytest.raises(TrainingDiverged, match="'agent/layer.bias' is not finite; no checkpoint"):
        train(net(), tiny_split(), None, CONFIG, run=tmp_path, step=Poisoned(), quiet=True)


# ------------------------------------------------------------------------------------------------- what is refused


class Given(ToyStep):
    """Brings the groups that it is given, and the state."""

    def __init__(self, *groups: ParameterGroup, **state: Any) -> None:
        super().__init__()
        self.groups, self.state = groups, state

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        return self.groups

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def group(name: str, **parameters: nn.Parameter) -> ParameterGroup:
    return ParameterGroup(name=name, parameters=parameters)


def test_a_parameter_has_one_optimizer() -> None:
    model, one, other = net(), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    bias = model[1].bias
    for step, told in (
        (Given(group("a", w=one), group("b", v=other, u=one)), "the parameter 'b/u', which it brings as 'a/w' too"),
        (Given(group("a", w=one, v=one)), "the parameter 'a/v', which it brings as 'a/w' too"),
        (Given(group("a", w=bias)), "the parameter 'a/w', which the model has as '1.bias'"),
        (Given(group("a", w=one), group("a", v=other)), "two parameter groups 'a'"),
    ):
        with pytest.raises(MixbitError, match=told):
            train(model, tiny_split(), None, CONFIG, step=step, quiet=True)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, [{"a": {3}}], np.zeros(2), nn.Linear(1, 1)])
def test_a_state_that_no_file_gives_back_as_it_is(value: object) -> None:
    with pytest.raises(MixbitError, match=r"Given.state_dict\(\) has .* for 'mine'. Legal by each name: a tensor; or"):
        train(net(), tiny_split(), None, CONFIG, step=Given(mine=value), quiet=True)


def test_plain_values_and_tensors_of_every_kind_come_back(tmp_path: Path) -> None:
    """Not finite ones too: what they mean is the step's affair."""
    state = {
        "plain": {"a": [None, True, 1, 0.1, "ü"], "b": {}, "best": float("-inf")},
        "whole": torch.tensor(2**60), "flags": torch.tensor([True, False]), "none": torch.zeros(0, 3),
        "best": torch.tensor(float("-inf"), dtype=torch.float64),
    }  # fmt: skip
    got: list[Mapping[str, Any]] = []

    class Taking(Given):
        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            got.append(state)

    for _ in range(2):
        train(net(), tiny_split(), None, replace(CONFIG, epochs=1), run=tmp_path, step=Taking(**state), quiet=True)
    assert len(got) == 3 and all(alike(dict(sorted(one.items())), dict(sorted(state.items()))) for one in got)
    assert all(got[2][name].dtype == state[name].dtype for name in ("whole", "flags", "none", "best"))  # type: ignore[union-attr]


def test_a_state_that_is_given_and_not_taken() -> None:
    class Half(ToyStep):
        load_state_dict = StatefulStep.load_state_dict

    with pytest.raises(MixbitError, match=r"Half gives a state \(multiplier, trace, epochs\) and takes none back"):
        train(net(), tiny_split(), None, CONFIG, step=Half(), quiet=True)


def test_a_function_with_a_state_that_nobody_would_ask_for() -> None:
    class Lost:
        def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
            return supervised_step(context, x, y)

        def state_dict(self) -> dict[str, Any]:
            return {}

    with pytest.raises(MixbitError, match="Lost has state_dict, which only a StatefulStep is asked for"):
        train(net(), tiny_split(), None, CONFIG, step=Lost(), quiet=True)


class Wider(ToyStep):
    """Another agent, of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.agent.layer = nn.Linear(1, 1, bias=False)


Other = type("Other", (ToyStep,), {})
More = type("ToyStep", (ToyStep,), {"state_dict": lambda self: ToyStep.state_dict(self) | {"more": 1}})
Retyped = type("ToyStep", (ToyStep,), {"state_dict": lambda self: ToyStep.state_dict(self) | {"multiplier": 1.0}})
Wider.__qualname__ = "ToyStep"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (lambda: ToyStep(lr=0.01), r"step group 'agent' lr=0.05, now step group 'agent' lr=0.01"),
        (lambda: ToyStep(betas=(0.5, 0.9)), r"betas=\[0.9, 0.999\], now step group 'agent' betas=\[0.5, 0.9\]"),
        (Wider, r"step group 'agent' parameter 'layer.bias'=\[1\], now .*=None"),
        (More, "step state 'more'=None, now step state 'more'='plain value'"),
        (Retyped, "step state 'multiplier'='torch.float32 tensor', now .*='plain value'"),
        (Other, "step='ToyStep', now step='Other'"),
        (lambda: supervised_step, "step='ToyStep', now step=None"),
    ],
)
def test_the_state_of_another_step_is_refused_by_name(begun: Path, step: Callable[[], Any], told: str) -> None:
    with pytest.raises(StaleRun, match=told):
        train(net(), tiny_split(), None, BEGUN, run=begun, step=step(), quiet=True)


def test_a_run_of_a_function_is_not_gone_on_with_by_a_step(tmp_path: Path) -> None:
    train(net(), tiny_split(), None, BEGUN, run=tmp_path, quiet=True)
    with pytest.raises(StaleRun, match="step=None, now step='ToyStep'"):
        train(net(), tiny_split(), None, BEGUN, run=tmp_path, step=ToyStep(), quiet=True)


BEGUN = replace(CONFIG, epochs=1)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    train(net(), tiny_split(), None, BEGUN, run=folder, step=ToyStep(), quiet=True)
    return folder


@pytest.mark.parametrize(
    "change", [lambda t: t.pop("step/state/multiplier"), lambda t: t.update({"step/parameter/agent/layer.bias": ONE})]
)
def test_a_checkpoint_that_lacks_a_part_of_the_step(begun: Path, tmp_path: Path, change: Callable[[Any], Any]) -> None:
    with safe_open(begun / "checkpoint.safetensors", framework="pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors)
    save_file(tensors, tmp_path / "checkpoint.safetensors", metadata=facts)
    with pytest.raises(WeightsError, match="does not fit this model or optimizer: .*(multiplier|layer.bias)"):
        train(net(), tiny_split(), None, BEGUN, run=tmp_path, step=ToyStep(), quiet=True)


ONE = torch.zeros(2, 2)


# --------------------------------------------------------------------------------------------------- two processes


def test_two_processes_train_what_a_step_brings_as_one_does(two_processes: dict[str, Any]) -> None:
    """From the first one's agent and multiplier, in parts of two and three samples, with an average."""
    first, second = (two_processes[rank]["toy"] for rank in ("0", "1"))
    assert first == second
    wanted = ranks_script.toy()
    for name in ("model", "layer.weight", "layer.bias", "multiplier", "trace"):
        torch.testing.assert_close(torch.tensor(first[name]), torch.tensor(wanted[name]), rtol=1e-3, atol=1e-4)
    assert first["epochs"] == wanted["epochs"]


def test_a_state_that_the_processes_do_not_share_is_refused_by_name(two_processes: dict[str, Any]) -> None:
    for rank in ("0", "1"):
        assert "hold different values of 'multiplier' of the step ToyStep" in two_processes[rank]["drifting"]
