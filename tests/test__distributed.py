"""Several processes: one state, one decision, the gradient of the whole batch, and an end where one of them is gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from mixbit import _distributed
from mixbit.errors import MixbitError, ProcessLost


def test_a_gradient_that_one_process_has_is_shared(two_processes: dict[str, Any]) -> None:
    assert two_processes["0"]["left out"] == two_processes["1"]["left out"]


def test_exchanges_are_the_sums_and_means_of_both(two_processes: dict[str, Any]) -> None:
    """Of 1 + rank, 10 * rank and the like; a gradient that one rank has not counts as 0, one that none has stays."""
    for rank in ("0", "1"):
        found = two_processes[rank]["exchanged"]
        assert found["mean"] == [[1.5, 7.5], [0.5], True]  # whole numbers have no mean, and stay
        assert found["sum"] == [[[3, 10]], 2.0]
        assert found["gradients"] == [[1.5, 1.5], [3.0, 3.0], [2.0, 1.0]]


def test_the_first_process_decides_and_gives_what_it_has(two_processes: dict[str, Any]) -> None:
    for rank in ("0", "1"):
        found = two_processes[rank]["exchanged"]
        assert found["taken"] == [[7.0, 7.0], [True, False], 3]
        assert found["unlike"] == [1, 2]
        assert found["first decides"] == [True, False] and found["all say"] == [True, False, False]
        assert "hold weights of different numbers or shapes" in found["unlike shapes"]
        assert "hold different numbers" in found["unlike numbers"] and "hold different numbers" in found["permuted"]
        assert found["alike"] == ""


def test_different_networks_are_not_evaluated_as_one(two_processes: dict[str, Any]) -> None:
    for rank in ("0", "1"):
        assert (
            "hold different weights" in two_processes[rank]["refused"] and "one seed" in two_processes[rank]["refused"]
        )


def test_a_stopped_process_is_told_of_and_ends_the_others(two_processes: dict[str, Any]) -> None:
    assert "rank 0 has waited 1 s for the other processes" in two_processes["said"]
    assert (
        "rank 0: another process of this run ended, was stopped or gave no answer for 3 s"
        in two_processes["0"]["stopped"]
    )


def test_a_lost_connection_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("[pair.cc:1] Connection closed by peer [127.0.0.1]:1\nmore")

    monkeypatch.setattr(_distributed, "is_active", lambda: True)
    monkeypatch.setattr(dist, "barrier", lost)
    with pytest.raises(ProcessLost, match=r"Connection closed by peer \[127.0.0.1\]:1\). Its own output says why"):
        _distributed.barrier()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK is not set. Start several processes with torchrun"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", _distributed.TIMEOUT: "0"},
            "MIXBIT_RANK_TIMEOUT is 0",
        ),
    ],
)
def test_an_environment_of_no_group(settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MixbitError, match=message):
        _distributed.start()


def test_rows_that_end_elsewhere_are_other_rows() -> None:
    """Shapes of tensors without elements: (2, 0) is not (2,) and ()."""
    rows = ([[2, 0]], [[2], []], [[2, 0, 0]], [[2, 0], []], [[0, 2]], [[2, -1]], [[2], [0]])
    assert len({_distributed._mixed(row) for row in rows if row != [[2, -1]]}) == len(rows) - 1


def test_one_process_keeps_what_it_has() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    _distributed.take_from_first_([weight], "weights")
    _distributed.check_equal([weight], "weights")
    _distributed.mean_gradients_([weight], torch.ones(1))
    assert _distributed.unlike([weight]) == []
    assert weight.grad is None and _distributed.first_decides(True) and not _distributed.all_say(False)
