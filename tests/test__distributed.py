"""Several processes: one state, one decision, the gradient of the whole batch, and an end where one of them is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mixbit import _distributed
from mixbit.errors import MixbitError, ProcessLost
from tests import ranks_script

SCRIPT = Path(__file__).parent / "ranks_script.py"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two real processes found, and what rank 0 said on standard error."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder],
            env={**os.environ, **settings, "RANK": str(rank)},
            stderr=subprocess.PIPE if rank == 0 else None,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = processes[0].communicate(timeout=240)[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return {"said": said, **{str(rank): json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)}}


def test_two_processes_train_what_one_trains(two: dict[str, Any]) -> None:
    """From rank 0's weights, with batches that two do not divide, whatever rank 1's clock says."""
    assert two["0"]["apart"] == two["1"]["apart"]
    torch.testing.assert_close(
        torch.tensor(two["0"]["apart"]), torch.tensor(ranks_script.apart(None)), rtol=1e-4, atol=1e-5
    )


def test_targets_that_do_not_count_weigh_nothing_on_any_process(two: dict[str, Any]) -> None:
    assert two["0"]["ignored"] == two["1"]["ignored"]
    torch.testing.assert_close(
        torch.tensor(two["0"]["ignored"]), torch.tensor(ranks_script.ignored()), rtol=1e-4, atol=1e-5
    )


def test_a_gradient_that_one_process_has_is_shared(two: dict[str, Any]) -> None:
    assert two["0"]["left out"] == two["1"]["left out"]


def test_different_networks_are_not_evaluated_as_one(two: dict[str, Any]) -> None:
    for rank in ("0", "1"):
        assert "hold different weights" in two[rank]["refused"] and "one seed" in two[rank]["refused"]


def test_a_stopped_process_is_told_of_and_ends_the_others(two: dict[str, Any]) -> None:
    assert "rank 0 has waited 1 s for the other processes" in two["said"]
    assert "rank 0: another process of this run ended, was stopped or gave no answer for 3 s" in two["0"]["stopped"]


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


def test_one_process_keeps_what_it_has() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    _distributed.take_from_first_([weight], "weights")
    _distributed.check_equal([weight], "weights")
    _distributed.mean_gradients_([weight], torch.ones(1))
    assert weight.grad is None and _distributed.first_decides(True) and not _distributed.all_say(False)
