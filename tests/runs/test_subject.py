"""Model, weights and data as the user names them."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mixbit import data, models
from mixbit.errors import MixbitError
from mixbit.runs import Subject, _folder
from mixbit.runs.subject import is_run
from mixbit.task import Task
from mixbit.testing.options import OptionCases, OptionRow, alike, fields_of, unlike


def test_json_round_trip() -> None:
    subject = Subject(model="digits-resnet", data="digits", weights=Path("a/b.safetensors"), seed=3)
    assert Subject.from_json(subject.to_json()) == subject


def test_seed_moves_the_weights_but_not_the_split() -> None:
    """A network must never be tested on what it was trained on, whatever the seed of a later command."""
    one, two = (Subject(model="digits-resnet", data="digits", seed=seed) for seed in (0, 1))
    images = [next(s.load_data().test.batches(360))[0] for s in (one, two)]
    assert torch.equal(*images)
    weights = [s.build().state_dict()["conv1.weight"] for s in (one, two, two)]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])


def test_zoo_networks_get_the_normalisation_of_their_weights() -> None:
    found = Subject(model="digits-resnet", data="digits").load_data()
    assert (found.mean, found.std) == (models.info("digits-resnet").mean, models.info("digits-resnet").std)
    moved = Subject(model="digits-resnet", data="digits?std=0.9&mean=0.1").load_data()
    assert (moved.mean, moved.std) == ((0.1,), (0.9,))  # as the user said
    other = Subject(model="resnet8", data="digits").load_data()  # three channels, so the data keep their own
    assert other.mean == data.load("digits").mean


def test_both_numbers_of_the_zoo_take_the_place_of_the_datas(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(models.info("digits-resnet"), mean=(0.2,), std=(0.7,))
    monkeypatch.setattr(models, "info", lambda name: own)
    found = Subject(model="digits-resnet", data="digits").load_data()
    assert (found.mean, found.std) == ((0.2,), (0.7,))


def test_a_task_has_the_parts_of_its_data_and_the_classes_of_its_images() -> None:
    subject = Subject(model="digits-resnet", data="digits")
    task, found = subject.task()
    assert found is not None and (len(task.train), len(task.test)) == (1437, 360)
    assert task.space == found.space and task.space.bounds == (0.0, 1.0)
    seven = subject.build(replace(found, num_classes=7))
    assert seven(torch.zeros(2, 1, 8, 8).to(next(seven.parameters()).device)).shape == (2, 7)


def test_a_task_of_the_users_is_copied_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is quantized in place, and a module is imported once."""
    images = [(torch.zeros(2, 64), torch.tensor([0, 1]))]
    module = ModuleType("tasks_of_a_user")
    module.mine = Task(model=Own(), train=images, test=images)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tasks_of_a_user", module)
    first, second = (Subject(model="tasks_of_a_user:mine").named() for _ in range(2))
    assert isinstance(first, Task) and isinstance(second, Task)
    assert first.model is not second.model and alike(dict(first.model.state_dict()), dict(second.model.state_dict()))


def test_data_are_needed() -> None:
    with pytest.raises(MixbitError, match="--data"):
        Subject(model="digits-resnet").load_data()


def test_networks_are_made_for_the_channels_of_their_images() -> None:
    """Grey images need no copy in three channels where the factory takes a number of channels."""
    task, _ = Subject(model="resnet20", data="digits").task()
    assert task.network.layers[0].weight_shape == (16, 1, 3, 3)


class Own(torch.nn.Module):
    """A network of a user's, named by this file."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


OWN = f"{__file__}:Own"


def weights_of(**named: Any) -> dict[str, torch.Tensor]:
    """State of the network, by `build` for one of the zoo and by `named` for a user's own."""
    subject = Subject(**{"model": "digits-resnet", **named})
    found = subject.build() if subject.model == "digits-resnet" else subject.named()
    assert isinstance(found, torch.nn.Module)
    return {name: tensor.cpu() for name, tensor in found.state_dict().items()}


def saved(number: int) -> dict[str, torch.Tensor]:
    """State of the network by weights in a file, all of them the number."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "w.safetensors"
        save_file({name: torch.full_like(tensor, number) for name, tensor in weights_of().items()}, file)
        return weights_of(weights=file)


def drawn(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Initial weights of the zoo's network and of a user's own under a seed."""
    return weights_of(seed=seed), weights_of(seed=seed, model=OWN)


def drawn_by_torch(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    zoo = dict(models.load_model("digits-resnet", None, None).state_dict())
    torch.manual_seed(seed)
    return zoo, dict(Own().state_dict())


class TestSubjectOptions(OptionCases):
    """What each name that a user gives leads to."""

    owner = Subject
    options = fields_of(Subject)
    rows = (
        OptionRow(
            "model",
            ("digits-resnet", "resnet20"),
            seen=lambda value: [one.name for one in Subject(model=value, data="digits").task()[0].network.layers],
            holds=lambda one, other: unlike(one, other) and len(other) == 20,
        ),
        OptionRow(
            "data",
            ("digits", "digits?seed=3"),
            seen=lambda value: Subject(model="digits-resnet", data=value).load_data().test.images,  # type: ignore[attr-defined]
            holds=lambda one, other: (
                alike(one, data.load("digits").test.images) and alike(other, data.load("digits?seed=3").test.images)  # type: ignore[attr-defined]
            ),
        ),
        OptionRow(
            "weights",
            (2, 3),
            seen=saved,
            holds=lambda one, other: (
                all(bool((one[name] == 2).all() and (other[name] == 3).all()) for name in one) and len(one) > 9
            ),
        ),
        OptionRow(
            "seed",
            (0, 5),
            seen=drawn,
            holds=lambda one, other: alike(one, drawn_by_torch(0)) and alike(other, drawn_by_torch(5)),
            says="draws the weights",
        ),
    )


def test_digests_follow_weights_data_and_code(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    found = []
    for value in (1.0, 2.0):
        save_file({"fc.weight": torch.full((10, 64), value), "fc.bias": torch.zeros(10)}, weights)
        found.append(Subject(model=OWN, weights=weights, data="digits").content())
    assert found[0]["weights"] != found[1]["weights"] and found[0]["code"] == found[1]["code"] is not None
    assert found[0]["data"] is None and Subject(model="resnet20").content() == dict.fromkeys(
        ("code", "weights", "data")
    )
    facts = Subject(model=OWN, weights=weights, seed=4).facts()
    assert facts["subject"] == {"model": OWN, "data": None, "weights": str(weights), "seed": 4}
    assert facts["content"]["weights"] == found[1]["weights"]


def test_folders_of_runs_are_no_models_and_other_folders_are_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("resnet20", "mine", "theirs", "broken"):
        (tmp_path / name).mkdir()
        _folder.begin(
            tmp_path / name,
            {"command": "compare", **Subject(model="digits-resnet", data="digits").facts(), "settings": None},
        )
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "resnet"}')
    (tmp_path / "broken" / "config.json").write_text("{")
    assert [is_run(name) for name in ("mine", "resnet20", "theirs", "broken", "nowhere")] == [True] + 4 * [False]
    for ask in (lambda one: one.task(), lambda one: one.named()):
        with pytest.raises(MixbitError, match="mine is the folder of a run, and a model is asked for.*--weights mine"):
            ask(Subject(model="mine", data="digits"))
        with pytest.raises(MixbitError, match="No model 'theirs'"):
            ask(Subject(model="theirs", data="digits"))
    assert Subject(model="resnet20", data="digits").task()[0].network.layers
