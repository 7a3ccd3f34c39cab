from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mixbit.report import (
    after_allocate,
    after_compare,
    after_demo,
    after_evaluate,
    after_export,
    after_inspect,
    after_search,
    after_train,
)
from tests.report.arenas import comparison


@dataclass
class Named:
    """Stands for `mixbit.runs.Subject`."""

    model: str = "resnet20"
    data: str | None = "digits"
    weights: Path | None = Path("w.safetensors")
    seed: int = 0


SUBJECT: Any = Named()


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_after_inspect_keeps_what_was_named_and_guesses_data_by_shape() -> None:
    assert after_inspect(SUBJECT, (1, 8, 8))[:7] == [
        "mixbit", "search", "limpq", "resnet20", "--data", "digits", "--weights",
    ]  # fmt: skip
    unnamed: Any = Named(data=None)
    assert option(after_inspect(unnamed, (3, 32, 32)), "--data") == "cifar10:DIR"
    assert option(after_inspect(unnamed, (3, 224, 224)), "--data") == "imagefolder:DIR"


def test_each_step_reads_what_the_step_before_it_wrote() -> None:
    policy = Path(option(after_search(Path("runs/s")), "--out"))
    words = after_allocate(SUBJECT, policy)
    assert option(words, "--policy") == str(policy)
    run = Path(option(words, "--run"))
    assert after_train(SUBJECT, run, quantized=True) == ["mixbit", "evaluate", str(run)]


def test_a_float_training_is_followed_by_a_search_with_its_weights() -> None:
    words = after_train(SUBJECT, Path("runs/float"), quantized=False)
    assert words[:2] == ["mixbit", "search"]
    assert option(words, "--weights") == "w.safetensors"


def test_scores_without_a_run_folder_leave_the_model_to_the_user() -> None:
    assert "MODEL" in after_allocate(None, Path("p.json"))


@pytest.mark.parametrize(("policy", "command"), [(None, "search"), (Path("p.json"), "train")])
def test_after_evaluate(policy: Path | None, command: str) -> None:
    assert after_evaluate(SUBJECT, policy=policy)[1] == command


def test_seed_is_repeated_unless_it_is_the_default() -> None:
    seeded: Any = Named(seed=3)
    assert option(after_allocate(seeded, Path("p.json")), "--seed") == "3"
    assert "--seed" not in after_allocate(SUBJECT, Path("p.json"))


def test_after_demo_allocates_on_the_demos_scores() -> None:
    assert after_demo(Path("d"))[2] == str(Path("d") / "search")


def test_after_a_comparison_comes_the_policy_of_the_best_search() -> None:
    found = comparison()
    words = after_compare(found)
    assert words[:3] == ["mixbit", "allocate", "runs/arena/search/fit"]
    assert option(words, "--budget") == "bitops=3x3" and option(words, "--out") == "runs/arena/policy.json"
    only = replace(found, rows=tuple(row for row in found.rows if row.outside or row.reason))
    assert after_compare(only) == ["mixbit", "list", "methods"]


def test_after_export_asks_for_no_more_images_than_there_are() -> None:
    assert option(after_export(Path("net.onnx"), Path("runs/net"), 64), "--images") == "64"
    assert option(after_export(Path("net.onnx"), Path("runs/net"), 50_000), "--images") == "10000"
