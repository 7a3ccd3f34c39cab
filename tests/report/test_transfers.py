"""What the tables of a transfer say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mixbit.cost import costs, float_costs, uniform_bits
from mixbit.policy import LayerBits, Policy, PolicyDistance
from mixbit.report import agreement_table, transfer_notes, transfer_table
from mixbit.runs import Agreement, Outcome, Reached, Transferred
from tests.support import chain

NETWORK = chain((100, 1000), (200, 2000), (100, 1000))
AGREEMENT = Agreement(
    spearman={"weight": {4: 0.5, 2: 1.0}, "activation": {4: None}},
    distance=PolicyDistance(mean_bits=0.75, equal_share=0.25, layers=4),
    harm=1.5,
    own_harm=1.2,
)


def reached(name: str, trained: float | None, calibrated: float, bits: int) -> Reached:
    used = costs(NETWORK, uniform_bits(NETWORK, LayerBits(bits, 4), {}))
    policy = Policy.uniform(NETWORK, bits, 4, {})
    return Reached(name=name, policy=policy, costs=used, calibrated=calibrated, trained=trained)


def transferred(
    agreement: Agreement | None, *, trained: float | None = 0.9, dropped: tuple[str, ...] = ()
) -> Transferred:
    return Transferred(
        method="fit",
        float32=Outcome(name="float32", accuracy=0.95, costs=float_costs(NETWORK)),
        reached=[reached("transferred", trained, 0.8125, 4), reached("own", trained, 0.75, 2)],
        agreement=agreement,
        dropped=list(dropped),
        files={Path("a"): "b"},
    )


def test_accuracies_stand_beside_costs() -> None:
    table = transfer_table(transferred(AGREEMENT))
    assert table.title == "Transfer of fit"
    assert table.rows[0][:3] == ("float32", "95.00 %", "")
    assert table.rows[1] == ("transferred", "81.25 %", "90.00 %", "64.00 k", "200 B")
    assert table.rows[2] == ("own", "75.00 %", "90.00 %", "32.00 k", "100 B")


def test_no_fine_tuning_no_number() -> None:
    assert [row[2] for row in transfer_table(transferred(AGREEMENT, trained=None)).rows] == ["", "", ""]


def test_notes_name_distance_regret_and_what_was_left_out() -> None:
    notes = transfer_notes(transferred(AGREEMENT, dropped=("fc: 10x4 in the source, 5x4 in the target",)))
    assert notes[0] == "No scores transferred: fc: 10x4 in the source, 5x4 in the target."
    assert "25.00 % of 4 free layers have equal bits, mean difference 0.75 bits" in notes[1]
    assert "regret 0.3 (25.00 % of it)" in notes[2]


def test_unknown_harm_is_said() -> None:
    assert "its harm is not known" in transfer_notes(transferred(replace(AGREEMENT, harm=None)))[-1]


def test_unknown_agreement_is_said() -> None:
    assert transfer_notes(transferred(None)) == ["The target's own search was left out, so agreement is not known."]


def test_correlations_by_bits_from_the_most() -> None:
    assert agreement_table(AGREEMENT).rows == (("4", "0.500", "-"), ("2", "1.000", "-"))
