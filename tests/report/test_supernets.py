"""Sub-networks as a table."""

from __future__ import annotations

from dataclasses import replace

from mixbit.cost import Costs, LayerBits
from mixbit.evaluation import Metrics
from mixbit.metric import LOSS
from mixbit.report import subnets_table
from mixbit.runs import Subnet

COSTS = Costs(bitops=2048, weight_bits=16, activation_bytes=64, peak_step="fc")
HELD = Metrics(values={"accuracy": 0.75, "hit": 0.5}, loss=0.25, samples=8)
ONE = Subnet(name="W2A2", layers={"fc": LayerBits(2, 2)}, costs=COSTS, held_out=HELD)


def test_every_metric_of_every_split_with_the_costs() -> None:
    table = subnets_table([ONE, replace(ONE, name="W4A4")])
    assert table.columns[:4] == ("sub-network", ">BitOps", ">weight bytes", ">peak activation bytes")
    assert table.columns[4:] == (">accuracy, held out", ">hit, held out", ">loss, held out")
    assert table.rows[0] == ("W2A2", "2.048 k", "2 B", "64 B", "75.00 %", "0.5000", "0.2500")
    assert table.rows[1][0] == "W4A4" and len(table.notes) == 1 and "8 training samples" in table.notes[0]
    both = subnets_table([replace(ONE, test=replace(HELD, loss=0.5, samples=4))])
    assert both.columns[-1] == ">loss, test" and both.rows[0][-3:] == ("75.00 %", "0.5000", "0.5000")
    assert "Test: 4 samples" in both.notes[1]


def test_a_task_that_has_the_loss_alone() -> None:
    bare = replace(ONE, held_out=Metrics(values={LOSS.name: 0.25}, loss=0.25, samples=8, info=LOSS))
    table = subnets_table([bare])
    assert table.columns[4:] == (">loss, held out",) and table.rows[0][4:] == ("0.25",)
