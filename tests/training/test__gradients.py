"""Gradients of several processes are those of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests import ranks_script
from tests.by_hand import by_hand
from tests.nets import colours, quantized_net, small_net, tiny_split
from tests.seen_in_training import (
    close,
)


def tensors_of(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in state.items()}


def test_two_processes_train_by_the_mean_of_both_parts(two_processes: dict[str, Any]) -> None:
    """Weights, statistics and their average, by hand: batch norm sees the parts one by one."""
    first, second = (two_processes[rank]["normed"] for rank in ("0", "1"))
    assert first == second
    wanted = by_hand(small_net(), colours(), ranks_script.NORMED, parts=2)
    assert close(tensors_of(first), wanted)
    assert not close(by_hand(small_net(), colours(), ranks_script.NORMED), wanted)


def test_two_processes_train_the_steps_of_quantizers(two_processes: dict[str, Any]) -> None:
    first, second = (two_processes[rank]["quantized"] for rank in ("0", "1"))
    assert first == second
    start = dict(quantized_net().state_dict())
    wanted = by_hand(quantized_net(), tiny_split(), ranks_script.QUANTIZED, parts=2)
    for name, values in tensors_of(first).items():
        if not values.is_floating_point():
            assert torch.equal(values, wanted[name])
            continue
        # A weight at the edge of two integers may go either way: far less than a tenth of the way.
        way = float((wanted[name] - start[name]).abs().max())
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=0.1 * way + 1e-6)


def test_two_processes_train_what_one_trains(two_processes: dict[str, Any]) -> None:
    """From rank 0's weights, with batches that two do not divide, whatever rank 1's clock says."""
    assert two_processes["0"]["apart"] == two_processes["1"]["apart"]
    found, wanted = torch.tensor(two_processes["0"]["apart"]), torch.tensor(ranks_script.apart(None))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_targets_that_do_not_count_weigh_nothing_on_any_process(two_processes: dict[str, Any]) -> None:
    assert two_processes["0"]["ignored"] == two_processes["1"]["ignored"]
    found, wanted = torch.tensor(two_processes["0"]["ignored"]), torch.tensor(ranks_script.ignored())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_process_counts_by_its_samples_where_the_loss_says_nothing_else(two_processes: dict[str, Any]) -> None:
    assert two_processes["0"]["weighed"] == two_processes["1"]["weighed"]
    found, wanted = torch.tensor(two_processes["0"]["weighed"]), torch.tensor(ranks_script.weighed())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_each_process_reads_its_part_of_every_batch(two_processes: dict[str, Any]) -> None:
    """Five samples: two and three."""
    parts = [two_processes[rank]["images read"] for rank in ("0", "1")]
    assert {len(one) for one in parts[0]} == {2} and {len(one) for one in parts[1]} == {3}
    assert [one + other for one, other in zip(*parts, strict=True)] == ranks_script.images_read()
