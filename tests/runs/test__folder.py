"""A run folder knows what it was begun with: settings by value, weights and data by content."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mixbit import runs
from mixbit.errors import MixbitError, StaleRun
from mixbit.models import load_model
from mixbit.runs import Subject, _folder


def weights(path: Path, seed: int) -> Path:
    """A state of digits-resnet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file(load_model("digits-resnet", 10, 1).state_dict(), path)
    return path


def facts(subject: Subject, **other: Any) -> dict[str, Any]:
    return {"command": "train", **subject.facts(), "settings": {}, "bits": None, **other}


def test_new_weights_under_the_old_name_are_another_run(tmp_path: Path) -> None:
    subject = Subject(model="digits-resnet", data="digits", weights=weights(tmp_path / "a.safetensors", 0))
    _folder.begin(tmp_path / "run", facts(subject))
    _folder.begin(tmp_path / "run", facts(subject))
    weights(tmp_path / "a.safetensors", 1)
    with pytest.raises(StaleRun, match="begun with other weights: those of .*a.safetensors' now have"):
        _folder.begin(tmp_path / "run", facts(subject))


def test_the_same_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    paths = [weights(tmp_path / place / "w.safetensors", 0) for place in ("a", "b")]
    one, two = (Subject(model="digits-resnet", data="digits", weights=path) for path in paths)
    _folder.begin(tmp_path / "run", facts(one))
    _folder.begin(tmp_path / "run", facts(two))
    with pytest.raises(StaleRun, match="subject.seed=0, now subject.seed=1"):
        _folder.begin(tmp_path / "run", facts(Subject(model="digits-resnet", data="digits", weights=paths[1], seed=1)))
    with pytest.raises(StaleRun, match="subject.weights="):
        _folder.begin(tmp_path / "run", facts(Subject(model="digits-resnet", data="digits")))


def images(folder: Path, byte: int = 0) -> Path:
    """A tiny image folder; nothing here decodes it."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            (folder / part / name / "0.png").write_bytes(bytes([byte]))
    return folder


def test_data_in_files_are_known_by_content(tmp_path: Path) -> None:
    one, two = images(tmp_path / "one"), images(tmp_path / "two")
    of = {path: Subject(model="resnet20", data=f"imagefolder:{path}?size=32") for path in (one, two)}
    _folder.begin(tmp_path / "run", facts(of[one]))
    (one / "notes.txt").write_text("not read as data")
    _folder.begin(tmp_path / "run", facts(of[one]))
    _folder.begin(tmp_path / "run", facts(of[two]))
    with pytest.raises(StaleRun, match=r"subject.data='imagefolder:.*one.size=32', now .*two.size=64'"):
        _folder.begin(tmp_path / "run", facts(Subject(model="resnet20", data=f"imagefolder:{two}?size=64")))
    images(one, byte=1)
    with pytest.raises(StaleRun, match="begun with other data"):
        _folder.begin(tmp_path / "run", facts(of[one]))


def test_other_code_in_a_file_is_told_and_goes_on(tmp_path: Path) -> None:
    """A run that fell by a mistake in that file must be able to go on; what is finished must not pass as new."""
    file = tmp_path / "mine.py"
    subject = Subject(model=f"{file}:task")
    file.write_text("classes = 3")
    _folder.begin(tmp_path / "run", facts(subject))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _folder.begin(tmp_path / "run", facts(subject))
    file.write_text("classes = 4")
    with pytest.warns(UserWarning, match="mine.py:task' is not the code that .*run was begun with"):
        _folder.begin(tmp_path / "run", facts(subject))


def test_folders_without_digests_are_still_read_and_that_is_told(tmp_path: Path) -> None:
    subject = Subject(model="digits-resnet", data="digits", weights=weights(tmp_path / "a.safetensors", 0))
    old = {key: value for key, value in facts(subject).items() if key != "content"}
    _folder.begin(tmp_path / "run", old)
    with pytest.warns(UserWarning, match="kept no digests"):
        _folder.begin(tmp_path / "run", facts(subject))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = Subject(model="digits-resnet", data="digits")
        _folder.begin(tmp_path / "new", {k: v for k, v in facts(plain).items() if k != "content"})
        _folder.begin(tmp_path / "new", facts(plain))  # there are no files to be sure of


def test_a_finished_search_is_not_that_of_new_weights(tmp_path: Path) -> None:
    """The whole way: what was scored for one network must not come back for another."""
    subject = Subject(model="digits-resnet", data="digits", weights=weights(tmp_path / "a.safetensors", 0))
    runs.search(subject, "weight-entropy", {}, tmp_path / "run", quiet=True)
    weights(tmp_path / "a.safetensors", 1)
    with pytest.raises(StaleRun, match="begun with other weights"):
        runs.search(subject, "weight-entropy", {}, tmp_path / "run", quiet=True)


def edited(path: Path, *keys: str, to: Any = None, drop: bool = False) -> None:
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if drop:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("command",), []),
        (("command",), None),
        (("subject",), None),
        (("subject",), []),
        (("subject", "model"), 5),
        (("subject", "model"), None),
        (("subject", "data"), ["digits"]),
        (("subject", "weights"), 5),
        (("subject", "seed"), "x"),
        (("subject", "seed"), -1),
        (("subject", "seed"), 2**70),
        (("subject", "seed"), 1.5),
        (("subject", "seed"), True),
        (("subject", "colour"), 1),
        (("settings",), None),
        (("settings",), [1]),
        (("bits",), {"conv1": 4}),
        (("bits",), {"conv1": ["4", 4]}),
        (("content",), {"weights": 5}),
        (("version",), True),
        (("version",), "1"),
        (("format",), 5),
    ],
)
def test_a_configuration_is_read_by_its_schema(tmp_path: Path, keys: tuple[str, ...], value: Any) -> None:
    _folder.begin(tmp_path, facts(Subject(model="digits-resnet", data="digits")))
    edited(tmp_path / "config.json", *keys, to=value)
    with pytest.raises(MixbitError, match=r"config\.json.*(Give|Update)"):
        _folder.read(tmp_path)


@pytest.mark.parametrize("keys", [("command",), ("subject",), ("subject", "model"), ("settings",), ("bits",)])
def test_no_key_of_a_configuration_may_be_missing(tmp_path: Path, keys: tuple[str, ...]) -> None:
    _folder.begin(tmp_path, facts(Subject(model="digits-resnet", data="digits")))
    edited(tmp_path / "config.json", *keys, drop=True)
    with pytest.raises(MixbitError, match=r"config\.json.*Field required"):
        _folder.read(tmp_path)
