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
    after_latency,
    after_search,
    after_stress,
    after_train,
)
from mixbit.runs import Profile
from tests.report.compared import comparison
from tests.support import chain, latency_table


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


def test_every_command_is_whole() -> None:
    """Word by word: what is typed of it must run as it stands."""
    subject = ["resnet20", "--data", "digits", "--weights", "w.safetensors"]
    search = ["mixbit", "search", "limpq", *subject, "--run"]
    assert after_inspect(SUBJECT, (3, 32, 32)) == [*search, "runs/search"]
    out = ["--out", "runs/s/policy.json"]
    assert after_search(Path("runs/s")) == ["mixbit", "allocate", "runs/s", "--budget", "bitops=3x3", *out]
    trained = ["--policy", "a/p.json", "--run", "a/p-trained"]
    assert after_allocate(SUBJECT, Path("a/p.json")) == ["mixbit", "train", *subject, *trained]
    assert after_allocate(None, Path("a/p.json")) == ["mixbit", "train", "MODEL", "--data", "DATA", *trained]
    assert after_train(SUBJECT, Path("runs/float"), quantized=False) == [*search, "runs/search"]
    assert after_evaluate(SUBJECT, policy=None, run=Path("r")) == [*search, "runs/search"]
    longer = ["--policy", "p.json", "--epochs", "20", "--run", "runs/longer"]
    assert after_evaluate(SUBJECT, policy=Path("p.json")) == ["mixbit", "train", *subject, *longer]
    assert after_evaluate(SUBJECT, policy=Path("p.json"), run=Path("r")) == ["mixbit", "export", "r"]
    verify = ["mixbit", "verify", "n.onnx", "--run", "r", "--images", "9"]
    assert after_export(Path("n.onnx"), Path("r"), 9) == verify
    assert after_demo(Path("d")) == [
        "mixbit",
        "allocate",
        "d/search",
        "--budget",
        "bitops=2x2",
        "--out",
        "d/policy-2x2.json",
    ]


def test_data_are_guessed_by_shape_where_nobody_named_them() -> None:
    unnamed: Any = Named(data=None, weights=None)
    usual = {(1, 8, 8): "digits", (3, 32, 32): "cifar10:DIR", (1, 28, 28): "fashion-mnist:DIR", (): "imagefolder:DIR"}
    assert {shape: option(after_inspect(unnamed, shape), "--data") for shape in usual} == usual
    assert "--data" not in after_inspect(unnamed, (1, 8, 8), own_data=True)


def test_after_latency_comes_a_limit_halfway() -> None:
    """Layers of 1 to 3 and of 10 to 30 ms beside 5 ms of all else: 16 to 38, and 27 in the middle."""
    times = {"l0": {"W4A8": 3_000_000, "W8A8": 1_000_000}, "l1": {"W4A8": 10_000_000, "W8A8": 30_000_000}}
    table = latency_table(chain((10, 100), (10, 100)), times, rest=5_000_000)
    words = ["--budget", "latency=27ms", "--latency", "t.json"]
    assert after_latency(Path("t.json"), table) == ["mixbit", "allocate", "runs/search", *words]
    counted = replace(table, unit="instructions")
    assert option(after_latency(Path("t.json"), counted), "--budget") == "instructions=27M"


def test_after_stress() -> None:
    quantized, floating = Profile(run=Path("q"), quantized=True), Profile(run=Path("f"), quantized=False)
    assert after_stress([quantized, floating]) == ["mixbit", "export", "q"]
    assert after_stress([floating]) == ["mixbit", "stress", "f", "OTHER_RUN"]
    assert after_stress([floating, quantized]) == ["mixbit", "list", "methods"]


def test_the_best_search_of_the_first_budget_is_recommended_with_all_its_limits() -> None:
    found = comparison()
    first = replace(found.rows[2], name="sqnr", budget="a=1,b=2", tuned=0.5)
    rows = (first, replace(first, name="fit", tuned=0.6), replace(first, name="mct", outside=True, tuned=0.9))
    out = ["--out", "runs/arena/policy.json"]
    assert after_compare(replace(found, rows=rows)) == [
        "mixbit", "allocate", "runs/arena/search/fit", "--budget", "a=1", "--budget", "b=2", *out,
    ]  # fmt: skip
