"""A transfer on digits: from the network of one split to the same architecture trained on another."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit import runs
from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.data import digits as digits_module
from mixbit.errors import BudgetError, MixbitError, PolicyError, StaleRun
from mixbit.policy import Policy, Scores
from mixbit.quantization import QuantizeConfig
from mixbit.report import transfer_notes
from mixbit.runs import Subject, Transferred, transferring
from mixbit.task import Task
from tests.cli import tiny
from tests.runs.conftest import SHORT, squared_error

BUDGET = ["bitops=3x3"]
Source = tuple[Subject, Path]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The same architecture, trained on another split from other weights."""
    start = Subject(model="digits-resnet", data="digits?seed=5", seed=1)
    longer = {**SHORT, "fraction": 1.0}
    return runs.train(start, None, longer, tmp_path_factory.mktemp("target") / "float", quiet=True).trained


@pytest.fixture(scope="module")
def moved(searched: Source, target: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transferred, Path]:
    folder = tmp_path_factory.mktemp("transfer") / "run"
    return runs.transfer(searched[1], target, BUDGET, folder, epochs=1, settings=tuning(), quiet=True), folder


def tuning() -> dict[str, Any]:
    return {key: value for key, value in SHORT.items() if key != "epochs"}


def test_both_policies_are_evaluated_and_trained(moved: tuple[Transferred, Path]) -> None:
    done, folder = moved
    assert [one.name for one in done.reached] == ["transferred", "own"] and done.method == "limpq-init"
    for one in done.reached:
        assert 0 <= one.calibrated <= 1 and one.trained is not None
        assert Policy.load(folder / one.name / "policy.json").layers == one.policy.layers
        assert one.costs.bitops == one.policy.costs["bitops"]
    assert done.float32.accuracy > 0.2
    assert all(path.is_file() for path in done.files)


def test_transferred_scores_are_those_of_the_source(moved: tuple[Transferred, Path], searched: Source) -> None:
    source, found = (Scores.load(folder / "scores.json") for folder in (searched[1], moved[1] / "transferred"))
    assert found.layers == source.layers
    assert found.settings["transferred_from"] == source.fingerprint


def test_own_search_has_the_settings_of_the_source(moved: tuple[Transferred, Path], target: Subject) -> None:
    config = json.loads((moved[1] / "own" / "config.json").read_text())
    assert config["method"] == "limpq-init" and config["settings"] == {"bits": [4, 3, 2]}
    assert config["subject"] == target.to_json()
    assert Scores.load(moved[1] / "own" / "scores.json").seed == target.seed == 1
    assert (
        Scores.load(moved[1] / "own" / "scores.json").layers
        != Scores.load(moved[1] / "transferred" / "scores.json").layers
    )


def test_agreement_is_reported(moved: tuple[Transferred, Path]) -> None:
    found = moved[0].agreement
    assert found is not None
    assert set(found.spearman) == {"weight", "activation"} and set(found.spearman["weight"]) == {4, 3, 2}
    assert all(rho is not None and -1 <= rho <= 1 for rho in found.spearman["weight"].values())
    assert found.distance.layers == 8 and found.regret is not None and found.regret >= 0
    written = json.loads((moved[1] / "transfer.json").read_text())
    assert written["agreement"]["regret"] == found.regret
    assert [row["policy"] for row in written["rows"]] == ["transferred", "own"]


def test_finished_transfer_is_only_read(
    moved: tuple[Transferred, Path], searched: Source, target: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, folder = moved
    stamps = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in ("scores.json", "config.json")
    }
    keys = [json.loads(line)["key"] for line in (folder / "measured.jsonl").read_text().splitlines()[1:]]
    assert [key.partition("/")[0] for key in keys] == [
        "float32",
        *["calibrated"] * len({str(one.policy.layers) for one in done.reached}),
    ]
    monkeypatch.setattr("mixbit.runs.transferring.evaluate", None)
    again = runs.transfer(searched[1], target, BUDGET, folder, epochs=1, settings=tuning(), quiet=True)
    assert again.float32 == done.float32
    assert again.reached == done.reached and again.agreement == done.agreement
    # What is cheap is written anew with the same content; searches are not run again.
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if "transferred" not in path.parts)


def test_killed_transfer_goes_on(
    searched: Source, target: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The own search dies; the second call does what is left, and finds what an undisturbed one finds."""
    from mixbit.runs import transferring

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transferring, "search", die)
        with pytest.raises(KeyboardInterrupt):
            runs.transfer(searched[1], target, BUDGET, tmp_path / "a", quiet=True)
    assert not (tmp_path / "a" / "transfer.json").exists()
    resumed = runs.transfer(searched[1], target, BUDGET, tmp_path / "a", quiet=True)
    whole = runs.transfer(searched[1], target, BUDGET, tmp_path / "b", quiet=True)
    assert resumed.reached == whole.reached and resumed.agreement == whole.agreement


def test_other_wishes_on_the_same_folder_are_refused(
    moved: tuple[Transferred, Path], searched: Source, target: Subject
) -> None:
    with pytest.raises(StaleRun, match="budget"):
        runs.transfer(searched[1], target, ["bitops=4x4"], moved[1], epochs=1, settings=tuning(), quiet=True)


def test_without_own_search(searched: Source, target: Subject, tmp_path: Path) -> None:
    done = runs.transfer(searched[1], target, BUDGET, tmp_path, own=False, quiet=True)
    assert done.agreement is None and [one.name for one in done.reached] == ["transferred"]
    assert done.reached[0].trained is None and not (tmp_path / "own").exists()


def test_transfer_to_itself_has_no_regret_and_trains_once(searched: Source, tmp_path: Path) -> None:
    subject, folder = searched
    done = runs.transfer(folder, subject, BUDGET, tmp_path, epochs=1, settings=tuning(), quiet=True)
    assert done.agreement is not None and done.agreement.regret == 0 and done.agreement.distance.equal_share == 1
    assert set(done.agreement.spearman["weight"].values()) == {1.0}
    assert done.reached[0].trained == done.reached[1].trained
    assert not (tmp_path / "own-trained").exists()


def test_a_scores_file_brings_its_method_and_settings(searched: Source, target: Subject, tmp_path: Path) -> None:
    """Carried away from its run folder, with the network beside it."""
    for name in ("scores.json", "network.json"):
        (tmp_path / name).write_text((searched[1] / name).read_text())
    runs.transfer(tmp_path / "scores.json", target, BUDGET, tmp_path / "run", quiet=True)
    config = json.loads((tmp_path / "run" / "own" / "config.json").read_text())
    assert config["method"] == "limpq-init" and config["settings"]["bits"] == [4, 3, 2]
    assert "steps_out_of_range" not in config["settings"]  # a finding, not a setting
    # The seed is the target's own, and no setting.
    assert "seed" not in config["settings"]
    assert Scores.load(tmp_path / "run" / "own" / "scores.json").seed == target.seed == 1


@pytest.fixture
def policy_file(searched: Source, tmp_path: Path) -> Path:
    (tmp_path / "network.json").write_text((searched[1] / "network.json").read_text())
    runs.allocate(searched[1], BUDGET, tmp_path / "policy.json")
    return tmp_path / "policy.json"


def test_a_policy_is_transferred_as_it_is(policy_file: Path, target: Subject, tmp_path: Path) -> None:
    done = runs.transfer(policy_file, target, BUDGET, tmp_path / "run", quiet=True)
    assert done.reached[0].policy.layers == Policy.load(policy_file).layers
    assert done.agreement is not None and done.agreement.spearman == {}
    assert done.agreement.regret is not None and done.agreement.regret >= 0


def test_bits_by_hand_that_were_never_scored(policy_file: Path, target: Subject, tmp_path: Path) -> None:
    policy = Policy.load(policy_file)
    replace(policy, layers=policy.layers | {"layer1.conv1": LayerBits(7, 2)}).save(policy_file)
    done = runs.transfer(policy_file, target, ["bitops=4x4"], tmp_path / "run", quiet=True)
    assert done.agreement is not None and done.agreement.harm is None and done.agreement.regret is None


def test_a_policy_must_meet_the_budget_of_the_target(policy_file: Path, target: Subject, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="exceeded"):
        runs.transfer(policy_file, target, ["bitops=2x2"], tmp_path / "run", own=False, quiet=True)


def test_a_policy_by_hand_has_no_method_to_search_with(policy_file: Path, target: Subject, tmp_path: Path) -> None:
    replace(Policy.load(policy_file), method="by hand").save(policy_file)
    with pytest.raises(MixbitError, match="'by hand', which is no method of mixbit.*--no-own"):
        runs.transfer(policy_file, target, BUDGET, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_another_architecture_is_refused_before_the_folder_is_begun(searched: Source, tmp_path: Path) -> None:
    other = Subject(model="resnet20", data="digits")
    with pytest.raises(PolicyError, match="differ at the layer 'layer1.conv1'"):
        runs.transfer(searched[1], other, BUDGET, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_scores(tmp_path: Path, target: Subject) -> None:
    with pytest.raises(MixbitError, match=r"scores\.json"):
        runs.transfer(tmp_path, target, BUDGET, tmp_path / "run", quiet=True)


def test_other_classes_and_channels(searched: Source, tmp_path: Path) -> None:
    """Five classes of colour images: the first and the last layer are others, and stay pinned."""
    from mixbit import models

    data = digits_module.digits()

    def coloured(split: TensorSplit) -> TensorSplit:
        images, labels = split.images.repeat(1, 3, 1, 1), split.labels // 2
        return TensorSplit(images, labels, 5, (0.3,) * 3, (0.4,) * 3)

    torch.manual_seed(0)
    model = models.build("digits-resnet", num_classes=5, in_channels=3)
    splits: list[TensorSplit] = [coloured(part) for part in (data.train, data.test)]  # type: ignore[arg-type]
    task = Task(model=model, train=splits[0], test=splits[1])
    scores = Scores.load(searched[1] / "scores.json")
    with_ends = {**scores.layers, "conv1": scores.layers["layer1.conv1"], "fc": scores.layers["layer1.conv1"]}
    replace(scores, layers=with_ends).save(tmp_path / "scores.json")
    (tmp_path / "network.json").write_text((searched[1] / "network.json").read_text())
    subject = Subject(model="digits-resnet", data="digits")
    done = runs.transfer(tmp_path / "scores.json", subject, BUDGET, tmp_path / "run", task=task, quiet=True)
    assert [line.partition(":")[0] for line in done.dropped] == ["conv1", "fc"]
    assert done.reached[0].policy.layers["conv1"] == done.reached[0].policy.layers["fc"] == LayerBits(8, 8)


def test_agreement_by_hand(tmp_path: Path) -> None:
    """On a network whose own scores are known after the transfer: harms are sums over the layers that are free."""
    subject = replace(tiny.subject(), model=tiny.net().replace(":build", ":other"))
    done = runs.transfer(tiny.scores(), subject, ["bitops=4x4"], tmp_path, quiet=True)
    own = Scores.load(tmp_path / "own" / "scores.json")
    policies = {one.name: one.policy.layers for one in done.reached}
    free = ("left", "right")

    def harm(name: str) -> float:
        chosen = [(own.layers[layer], policies[name][layer]) for layer in free]
        return sum(
            curve.activation[bits.activation_bits or 0] + own.alpha * curve.weight[bits.weight_bits or 0]
            for curve, bits in chosen
        )

    found = done.agreement
    assert found is not None
    assert found.harm == pytest.approx(harm("transferred")) and found.own_harm == pytest.approx(harm("own"))
    same = [policies["transferred"][name] == policies["own"][name] for name in free]
    assert found.distance.layers == 2 and found.distance.equal_share == sum(same) / 2


def test_a_policy_is_calibrated_by_the_seed_of_the_target_and_the_quantizers_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(transferring, "put_policy_on", lambda *_, seed, config: asked.append((seed, config)))
    move = partial(runs.transfer, tiny.scores(), replace(tiny.subject(), seed=3), ["bitops=4x4"], own=False, quiet=True)
    move(tmp_path / "plain")
    move(tmp_path / "own", settings={"quantize": {"per_channel": False}})
    assert asked == [(3, QuantizeConfig()), (3, QuantizeConfig(per_channel=False))]
    with pytest.raises(StaleRun, match="quantize="):
        move(tmp_path / "own")


def test_a_setting_that_is_none_claims_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="Did you mean 'lr'"):
        runs.transfer(tiny.scores(), tiny.subject(), ["bitops=4x4"], tmp_path / "run", settings={"lrr": 1})
    assert not (tmp_path / "run").exists()


def test_a_policy_meets_the_budget_in_its_own_counting(tmp_path: Path) -> None:
    """By LIMPQ's counting the stem, which strides, has more MACs than it does."""
    network = tiny.task().network
    (tmp_path / "network.json").write_text(network.to_json())
    policy = Policy.uniform(network, 3, 4, macs="limpq")
    policy.save(tmp_path / "policy.json")
    most = int(policy.costs["bitops"])
    assert most > Policy.uniform(network, 3, 4).costs["bitops"]
    with pytest.raises(BudgetError, match="1 too much"):
        runs.transfer(tmp_path / "policy.json", tiny.subject(), [f"bitops={most - 1}"], tmp_path / "run", own=False)


def test_what_is_reached_is_in_the_metric_of_the_task(regression: Subject, tmp_path: Path) -> None:
    task = regression.task()[0]
    (tmp_path / "network.json").write_text(task.network.to_json())
    policy = Policy.uniform(task.network, 3, 4)
    policy.save(tmp_path / "policy.json")
    settings = {"batch_size": 12, "lr": 0.01}
    done = runs.transfer(
        tmp_path / "policy.json", replace(regression, seed=2), ["bitops=8x8"], tmp_path / "run", own=False, epochs=1,
        settings=settings, quiet=True,
    )  # fmt: skip
    assert done.float32.metric.name == "loss"
    assert done.float32.accuracy == pytest.approx(squared_error(task.model), rel=1e-4)
    transferring.put_policy_on(task.model, policy, task, seed=2)
    assert done.reached[0].calibrated == pytest.approx(squared_error(task.model), rel=1e-4)
    config = json.loads((tmp_path / "run" / "transferred-trained" / "config.json").read_text())
    assert config["settings"] == {"epochs": 1, **settings} and config["subject"]["seed"] == 2


def test_a_policy_that_was_searched_under_a_budget_is_searched_on_the_target_too(tmp_path: Path) -> None:
    settings = {"trials": 2, "images": 16, "calibration_images": 8}
    subject, budget = tiny.subject(), ["bitops=4x4"]
    runs.search(subject, "random-search", settings, tmp_path / "s", budget=budget, task=tiny.task(), quiet=True)
    target = replace(subject, model=subject.model.replace(":build", ":other"))
    done = runs.transfer(tmp_path / "s", target, budget, tmp_path / "t", quiet=True)
    moved, own = done.reached
    assert done.method == "random-search" and done.agreement is not None
    assert done.agreement.spearman == {} and done.agreement.own_harm is done.agreement.regret is None
    assert "ends in no scores, so the harm of neither is known" in transfer_notes(done)[-1]
    assert moved.policy.layers == Policy.load(tmp_path / "s" / "policy.json").layers
    assert own.policy.layers == Policy.load(tmp_path / "t" / "own" / "policy.json").layers
    assert json.loads((tmp_path / "t" / "own" / "config.json").read_text())["settings"] == settings


def test_a_front_is_of_one_set_of_weights_and_not_transferred(tmp_path: Path) -> None:
    settings = {"bits": [4, 2], "images": 16, "calibration_images": 8}
    runs.search(tiny.subject(), "uniform-front", settings, tmp_path / "s", task=tiny.task(), quiet=True)
    with pytest.raises(MixbitError, match="holds a front, of one set of weights. Pick a policy from it"):
        runs.transfer(tmp_path / "s", tiny.subject(), ["bitops=4x4"], tmp_path / "t", task=tiny.task(), quiet=True)
    assert not (tmp_path / "t").exists()
