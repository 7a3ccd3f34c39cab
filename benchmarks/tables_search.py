"""Tables on agents: in a toy, from results/ddpg.json, and of real networks, from results/rl_policies.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from common import markdown, result, when_run
from toy_bits import BEST


@when_run("ddpg", "rows")
def ddpg() -> str:
    """Best of each seed, and what the last episodes are worth."""
    rows = result("ddpg")["rows"]
    table = []
    for name in dict.fromkeys(row["agent"] for row in rows):
        mine = sorted((row for row in rows if row["agent"] == name), key=lambda row: int(row["seed"]))
        best = ", ".join(f"{row['best']:.3f}" for row in mine)
        last, seconds = (statistics.fmean(row[key] for row in mine) for key in ("last", "cpu_s"))
        table.append((name, mine[0]["episodes"], best, f"{last:.2f}", f"{seconds:.0f} s"))
    columns = ("agent", ">episodes", ">best of each seed", ">mean of the last 20", ">CPU time")
    return markdown(columns, table) + f"\nThe best that there is: {BEST:.3f}.\n"


RL = "rl_policies"
Rows = list[dict[str, Any]]


def _groups(part: str, *keys: str) -> dict[tuple[Any, ...], Rows]:
    """Rows of a part by the values of some keys, in their order."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in result(RL)[part]:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _points(rows: Rows, key: str) -> str:
    """Each seed in percent, and their mean."""
    values = [100 * row[key] for row in sorted(rows, key=lambda row: int(row["seed"]))]
    shown = ", ".join(f"{value:.2f}" for value in values)
    return shown if len(values) == 1 else f"{statistics.fmean(values):.2f} ({shown})"


@when_run(RL, "haq")
def rl_haq() -> str:
    """Test accuracy after equal training."""
    table = [
        (*of, _points(rows, "accuracy"), f"{statistics.fmean(row['loss'] for row in rows):.3f}", rows[0]["evaluations"])
        for of, rows in _groups("haq", "network", "budget", "name").items()
    ]
    return markdown(("network", "budget", "policy", ">accuracy, seeds", ">loss", ">evaluations"), table)


@when_run(RL, "arq")
def rl_arq() -> str:
    """Average radius and certified accuracies, each with its interval over images."""
    radii = list(result(RL)["arq"][0]["certified"])
    table = [
        (
            row["network"], row["name"], row["seed"], f"{100 * row.get('bitops_share', 1.0):.2f} %",
            "{:.3f} [{:.3f}, {:.3f}]".format(*row["average_radius"]),
            *("{:.1f} [{:.1f}, {:.1f}]".format(*(100 * one for one in row["certified"][radius])) for radius in radii),
            f"{100 * row['noisy']:.2f}",
        )
        for row in result(RL)["arq"]
    ]  # fmt: skip
    at = (f">certified at {radius}" for radius in radii)
    return markdown(("network", "policy", ">seed", ">BitOps", ">average radius", *at, ">accuracy under noise"), table)


@when_run(RL, "episode")
def rl_episode() -> str:
    """What surrounds the passes of an episode."""
    table = [
        (
            row["network"], f"{row['episode_s']:.1f} s", f"{row['passes_s']:.1f} s",
            f"{row['episode_s'] / row['passes_s']:.2f}", f"{100 * row['agent_s'] / row['episode_s']:.2f} %",
        )
        for row in result(RL)["episode"]
    ]  # fmt: skip
    return markdown(("network", ">episode", ">its passes alone", ">ratio", ">the agent's share"), table)


TABLES: dict[str, Callable[[], str]] = {"ddpg": ddpg, "rl_arq": rl_arq, "rl_episode": rl_episode, "rl_haq": rl_haq}
