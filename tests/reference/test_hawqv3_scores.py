"""HAWQ-V3's `Omega` from its released ResNet-18 arrays: a score table with the objectives of its published policies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixbit.cost import LayerBits
from mixbit.methods.hawq import omega
from mixbit.policy import LayerScores, Program, Scores
from tests.support import shared

# Gain over 4 bits everywhere, of the published policies with the fixture's rounded arrays.
OBJECTIVES = {
    ("0.25", "size"): -1.189414,
    ("0.25", "bops"): -0.847289,
    ("0.25", "latency"): -0.847289,
    ("0.50", "size"): -1.233207,
    ("0.50", "bops"): -1.092024,
    ("0.50", "latency"): -1.105039,
    ("0.75", "size"): -1.274273,
    ("0.75", "bops"): -1.227748,
    ("0.75", "latency"): -1.227748,
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(shared("fixtures", "hawqv3_resnet18.json").read_text())
    return content


@pytest.fixture(scope="module")
def table(arrays: dict[str, Any]) -> Scores:
    columns = (arrays[key] for key in ("trace_over_n", "perturbation_8bit_sq", "perturbation_4bit_sq"))
    return Scores(
        fingerprint="sha256:0123456789abcdef",
        method="hawq-v3",
        program=Program(coupled=True),
        layers={
            name: LayerScores(weight={8: omega(trace, d8), 4: omega(trace, d4)}, activation={8: 0.0, 4: 0.0})
            for name, trace, d8, d4 in zip(arrays["layers"], *columns, strict=True)
        },
    )


@pytest.mark.parametrize(("budget", "kind"), OBJECTIVES)
def test_published_policies_have_their_objective(arrays: dict[str, Any], table: Scores, budget: str, kind: str) -> None:
    policy = dict(zip(arrays["layers"], arrays["policies"][budget][kind], strict=True))
    gain = sum(
        table.harm(name, LayerBits(int(bits), int(bits))) - table.harm(name, LayerBits(4, 4))
        for name, bits in policy.items()
    )
    assert gain == pytest.approx(OBJECTIVES[budget, kind], abs=1e-6)


def test_fewer_bits_never_do_less_harm(table: Scores) -> None:
    assert all(one.weight[4] > one.weight[8] > 0 for one in table.layers.values())
