"""Settings of a training: what is legal, and what each of them does, by hand or counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from mixbit.data.order import samples_of
from mixbit.errors import MixbitError
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.training import TrainConfig
from tests.seen_in_training import (
    as_by_hand,
    both_close,
    chosen,
    expects,
    first_draw,
    notes_of,
    rates_of_steps,
    saved_at,
    statistics,
    validated,
)


def test_defaults_are_those_that_are_told() -> None:
    """Who changes one changes every training that does not name it: here, in the docstring and in the changelog."""
    assert asdict(TrainConfig()) == {
        "epochs": 5, "batch_size": 128, "optimizer": "sgd", "lr": 0.01, "step_lr": None, "momentum": 0.9,
        "weight_decay": 1e-4, "warmup_epochs": 0.0, "final_lr": 0.0, "schedule": "step", "label_smoothing": 0.0,
        "distill": 0.0, "temperature": 4.0, "clip_value": None, "drop_zero_gradients": False, "ema": None,
        "bn_samples": 6000, "fraction": 1.0, "augment": True, "precision": "float32", "channels_last": True,
        "compile": False, "seed": 0, "checkpoint_seconds": 60.0, "validate_every": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5 is illegal. Legal: a whole number from 1 to 1000000"),
        ({"epochs": True}, "epochs=True is illegal"),
        ({"epochs": 10**24}, "Legal: a whole number from 1 to 1000000"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"lr": float("inf")}, "lr=inf is illegal. Legal: a number above 0"),
        ({"momentum": -5}, "momentum=-5"),
        ({"label_smoothing": -1}, "label_smoothing=-1"),
        ({"temperature": 0}, "temperature=0"),
        ({"step_lr": "nan"}, "step_lr='nan'"),
        ({"compile": 5}, "compile=5 is illegal. Legal: true or false"),
        ({"bn_samples": -5}, "bn_samples=-5"),
        ({"clip_value": 0}, "clip_value=0"),
        ({"seed": 2**63}, "seed="),
    ],
)
def test_illegal_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_unknown_setting_offers_the_nearest() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'epochs'"):
        TrainConfig.from_dict({"epoch": 3})


@pytest.mark.parametrize(
    ("name", "legal", "illegal"),
    [
        ("momentum", (0, 0.999), (-0.01, 1.0)),
        ("ema", (1e-9, 0.999), (0.0, 1.0)),
        ("fraction", (1e-9, 1.0), (0.0, 1.01)),
        ("label_smoothing", (0, 1), (-0.01, 1.01)),
        ("distill", (0, 1), (-0.01, 1.01)),
        ("final_lr", (0, 1), (-0.01, 1.01)),
        ("temperature", (1e-9, 100.0), (0.0, -1.0)),
        ("lr", (1e-9, 100.0), (0.0, float("nan"))),
        ("step_lr", (None, 1e-9), (0.0, -1.0)),
        ("weight_decay", (0, 10.0), (-1e-9, float("inf"))),
        ("warmup_epochs", (0, 99.5), (-0.5, float("nan"))),
        ("epochs", (1, 1_000_000), (0, 1_000_001)),
        ("batch_size", (1, 10**9), (0, 2.0)),
        ("bn_samples", (0, 10**9), (-1, 1.5)),
        ("validate_every", (0, 1_000_000), (-1, 1_000_001)),
        ("checkpoint_seconds", (0, 1e9), (-1.0, float("inf"))),
        ("seed", (0, 2**63 - 1), (-1, 2**63)),
    ],
)
def test_bounds_of_settings(name: str, legal: tuple[Any, ...], illegal: tuple[Any, ...]) -> None:
    for value in legal:
        assert getattr(TrainConfig(**{name: value}), name) == value
    for value in illegal:
        with pytest.raises(MixbitError, match=f"{name}=.* is illegal. Legal: "):
            TrainConfig(**{name: value})


class TestTrainConfigOptions(OptionCases):
    """Every setting of the loop against a training written by hand, or by what it counts."""

    owner = TrainConfig
    options = fields_of(TrainConfig)
    rows = (
        as_by_hand("epochs", 2, 3),
        as_by_hand("batch_size", 8, 6),
        as_by_hand("optimizer", "sgd", "adamw", lr=0.01, weight_decay=0.1),
        as_by_hand("lr", 0.05, 0.02),
        as_by_hand("lr", 0.01, 0.02, optimizer="adamw"),
        OptionRow("step_lr", (None, 0.003), seen=rates_of_steps, holds=expects({(0.02, 0.02)}, {(0.003, 0.02)})),
        as_by_hand("momentum", 0.9, 0.0),
        as_by_hand("weight_decay", 1e-4, 0.3),
        as_by_hand("warmup_epochs", 0.0, 1.5),
        as_by_hand("warmup_epochs", 1.0, 2.5, schedule="epoch", epochs=3),
        as_by_hand("final_lr", 0.0, 0.5),
        as_by_hand("final_lr", 0.0, 0.5, warmup_epochs=1.0),
        as_by_hand("schedule", "step", "epoch"),
        as_by_hand("label_smoothing", 0.0, 0.4),
        as_by_hand("distill", 0.0, 0.3),
        as_by_hand("distill", 0.3, 1.0, label_smoothing=0.2),
        as_by_hand("temperature", 4.0, 1.5, distill=0.7),
        as_by_hand("clip_value", None, 0.02),
        as_by_hand("drop_zero_gradients", False, True, momentum=0.8, weight_decay=0.1),
        as_by_hand("ema", None, 0.6),
        as_by_hand("ema", 0.1, 0.3, epochs=4),
        OptionRow("bn_samples", (8, 20), seen=statistics, holds=both_close, says="of the first batches"),
        as_by_hand("fraction", 1.0, 0.7),
        OptionRow(
            "fraction", (1.0, 0.5), seen=chosen, says="the same images in every epoch",
            holds=expects([list(range(30))] * 2, [samples_of(30, 0.5, 2).tolist()] * 2),
        ),
        as_by_hand("augment", True, False),
        as_by_hand("precision", "float32", "bf16", lr=0.2, channels_last=False),
        OptionRow(
            "precision", ("float32", "bf16"), seen=lambda value: notes_of(precision=value, validate_every=0).types,
            holds=expects({torch.float32}, {torch.float32, torch.bfloat16}), says="in training alone",
        ),
        OptionRow(
            "channels_last", (True, False), holds=expects({True}, {False}),
            seen=lambda value: notes_of(channels_last=value, bn_samples=8).layouts,
        ),
        OptionRow("compile", (False, True), seen=lambda value: notes_of(compile=value).compiled, holds=expects(0, 6)),
        as_by_hand("seed", 0, 1),
        OptionRow(
            "seed", (0, 7), seen=lambda value: notes_of(seed=value).drawn[:2], says="of random draws, and told",
            holds=lambda one, other: (one, other) == ([first_draw(0), 0.0], [first_draw(7), 7.0]),
        ),
        OptionRow("checkpoint_seconds", (1e6, 25.0), seen=saved_at, holds=expects([0], [3, 0])),
        OptionRow("validate_every", (1, 2), seen=validated, holds=expects([1, 2, 3, 4, 5], [2, 4, 5])),
        OptionRow("validate_every", (0, 3), seen=validated, holds=expects([5], [3, 5]), says="the last always"),
    )  # fmt: skip
