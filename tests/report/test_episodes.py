"""Episodes as a table and as a picture, against numbers by hand."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mixbit.errors import MissingExtra
from mixbit.methods import EpisodeRecord
from mixbit.report import episodes_plot, episodes_table


def episode(number: int, reward: float, *, delta: float | None = None, new: bool = True) -> EpisodeRecord:
    return EpisodeRecord(
        number=number, bits="W8A8 W3A4", actions=[0.5, 0.25], delta=delta, reward=reward, quality={"accuracy": 0.5},
        costs={"bitops": 1250}, new=new, seconds=2.0, agent_seconds=0.05,
    )  # fmt: skip


FOUND = [
    episode(0, -2.0),
    episode(1, -1.0),
    episode(2, -3.0, delta=0.5),
    episode(3, -0.5, delta=0.25, new=False),
    episode(4, -0.75, delta=0.125),
]


def test_rewards_are_shown_some_episodes_at_a_time() -> None:
    table = episodes_table(FOUND)
    assert table.rows == (
        ("0 to 1", "random", "-1.5000", "-1.0000", "2"),
        ("2 to 2", "0.500", "-3.0000", "-1.0000", "1"),
        ("3 to 3", "0.250", "-0.5000", "-0.5000", "0"),
        ("4 to 4", "0.125", "-0.7500", "-0.5000", "1"),
    )
    (note,) = table.notes
    assert "The best is that of episode 3." in note and "0.050 s of 2.000 s an episode" in note
    assert re.search(r"itself took 2\.50? ?%", note)


def test_many_episodes_share_rows() -> None:
    many = [episode(at, at / 100, delta=1 / (at + 1)) for at in range(100)]
    rows = episodes_table(many).rows
    assert len(rows) == 8 and rows[0][0] == "0 to 12" and rows[-1][0] == "91 to 99" and rows[-1][3] == "0.9900"
    assert rows[1][2] == "0.1900"


def test_the_picture_has_every_episode_and_the_best_so_far(tmp_path: Path) -> None:
    path = episodes_plot(FOUND, tmp_path / "episodes.html", "haq")
    text = path.read_text()
    assert '"x":[0,1,2,4],"y":[-2.0,-1.0,-3.0,-0.75]' in _data(text) and '"x":[3],"y":[-0.5]' in _data(text)
    assert '"y":[-2.0,-1.0,-1.0,-0.5,-0.5]' in _data(text)
    assert "Episodes of haq" in text and "1.250 k BitOps" in text and "W8A8 W3A4" in text and "accuracy 0.5" in text
    assert '"x1":1.5' in _data(text)
    learned = [replace(one, delta=0.1) for one in FOUND]
    assert '"x1"' not in _data(episodes_plot(learned, path, "haq").read_text())


def _data(text: str) -> str:
    """The numbers, in the order x, y."""
    plain = text[text.index("Plotly.newPlot") :]
    parts = re.findall(r'"(x|y)":(\[[^\]]*\])', plain)
    pairs = [f'"x":{x},"y":{y}' for (_, x), (_, y) in zip(parts[::2], parts[1::2], strict=False)]
    return " ".join(pairs) + " ".join(re.findall(r'"x1":[0-9.]+', plain))


def test_without_plotly_there_is_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra, match=r"mixbit\[report\]"):
        episodes_plot(FOUND, tmp_path / "e.html", "haq")
