"""A network of five layers whose best policies can be found by looking at each."""

from __future__ import annotations

from mixbit.cost import LayerBits
from mixbit.policy import LayerScores, Scores
from tests.support import layer, network

# `left` and `right` read one tensor.
NETWORK = network(
    [
        layer("first", "x", "a", weights=50, macs=500),
        layer("left", "a", "b", weights=300, macs=2000, limpq=5000),
        layer("right", "a", "c", weights=100, macs=3000, limpq=3000),
        layer("deep", "b", "d", weights=200, macs=1500, limpq=1000),
        layer("last", "d", "e", weights=40, macs=400),
    ]
)
ENDS = {name: LayerBits(8, 8) for name in ("first", "last")}


def curves(**steep: float) -> dict[str, LayerScores]:
    """Harms of weights and of activations that no two layers share."""
    found = {}
    for place, name in enumerate(("first", "left", "right", "deep", "last"), start=2):
        harms, more = {8: 0.0, 4: 0.1 * place, 2: 0.7 + 0.3 * place}, steep.get(name, 1.0)
        found[name] = LayerScores(weight=harms, activation={8: 0.0, 4: 0.11 * more, 2: 0.53 * more})
    return found


SCORES = Scores(
    fingerprint=NETWORK.fingerprint, method="by hand", alpha=1.5, layers=curves(left=6.0, right=0.05, deep=2.0)
)
