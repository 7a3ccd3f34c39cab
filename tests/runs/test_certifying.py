"""Certificates of runs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixbit import certification, runs
from mixbit.errors import MixbitError, StaleRun
from mixbit.runs import CertifiedRuns, CertifySettings, _variants
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower, unlike
from tests.cli import tiny
from tests.runs.test_attacking import copied, opened_once  # noqa: F401  # a fixture of the module

SIGMA = 0.02
"""Small enough that a network that was not trained for noise stands it."""
BOTH = ("float", "executor")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copied(tiny.fitted_runs()[0], tmp_path / "fitted")


def few(**settings: Any) -> CertifySettings:
    return CertifySettings(**{"sigma": SIGMA, "images": 4, "n0": 10, "n": 40, "on": ("float",), **settings})


def certified(**settings: Any) -> CertifiedRuns:
    """In a folder that nobody has used."""
    place = copied(tiny.fitted_runs()[0], tiny.place() / f"run-{time.monotonic_ns()}")
    return runs.certify([place], few(**settings))


def passes(**settings: Any) -> int:
    return certified(**settings).certified["float"].passes


def radius(**settings: Any) -> float:
    return float(certified(**settings).certified["float"].radii.max())


def batches(batch: int) -> int:
    asked = list[int]()
    logits = _variants.Variant.logits

    def listening(self: Any, x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return logits(self, x)

    with mock.patch.object(_variants.Variant, "logits", listening):
        certified(batch=batch)
    return max(asked)


class TestCertifyOptions(OptionCases):
    owner = CertifySettings
    options = fields_of(CertifySettings)
    rows = (
        OptionRow("sigma", (0.02, 0.04), seen=lambda it: certified(sigma=it).certified["float"].sigma, holds=higher),
        OptionRow("radii", (None, (0.01,)), seen=lambda it: certified(radii=it).settings.shown_radii,
                  holds=lambda a, b: (len(a), b) == (5, (0.01,))),
        OptionRow("images", (2, 5), seen=lambda it: passes(images=it), holds=lambda a, b: (a, b) == (100, 250)),
        OptionRow("n0", (10, 20), seen=lambda it: passes(n0=it), holds=lambda a, b: (a, b) == (200, 240)),
        OptionRow("n", (40, 60), seen=lambda it: passes(n=it), holds=lambda a, b: (a, b) == (200, 280)),
        OptionRow("alpha", (0.001, 0.2), seen=lambda it: radius(alpha=it), holds=higher),
        OptionRow("seed", (0, 1), seen=lambda it: certified(seed=it, sigma=0.2).to_json()["networks"], holds=unlike),
        OptionRow("batch", (8, 16), seen=batches, holds=lambda a, b: (a, b) == (8, 16)),
        OptionRow("early", (False, True), holds=lower,
                  seen=lambda it: passes(early=it, n=400, radii=(0.001,), batch=20)),
        OptionRow("shown", (None, 20), holds=lambda a, b: (a, b) == (50, 20),
                  seen=lambda it: certified(shown=it, on=BOTH).certified["W8A8 executor"].passes // 4),
        OptionRow("mode", ("both", "irs"), holds=unlike,
                  seen=lambda it: certified(mode=it, shown=20, on=BOTH).to_json()["networks"]["W8A8 executor"]),
        OptionRow("on", (("float",), ("float", "fake-quantized")), seen=lambda it: [*certified(on=it).certified],
                  holds=lambda a, b: a == ["float"] and b == ["float", "W8A8 fake-quantized"]),
        OptionRow("variants", (("W8A8",), ("W4A8",)),
                  holds=lambda a, b: (a, b) == (["W8A8 executor"], ["W4A8 executor"]),
                  seen=lambda it: [*certified(on=("executor",), variants=it).certified]),
    )  # fmt: skip


def test_certificates_are_those_of_the_network_on_the_shared_images(run: Path) -> None:
    found = runs.certify([run], few(on=("float", "executor", "onnx")))
    assert [*found.certified] == ["float", "W8A8 executor", "W8A8 onnx"]
    held = _variants.HeldRun(run, None, "")
    x, y, _ = _variants.images_of(held, 4)
    for bits, on in (("", "float"), ("W8A8", "executor"), ("W8A8", "onnx")):
        wanted = certification.certify(held.predictor(bits, on), x, y, few().smoothing())
        assert found.certified[" ".join(filter(None, (bits, on)))].certificates == wanted
    written = json.loads((run / "certify" / "certify.json").read_text())
    assert written == json.loads(json.dumps(found.to_json())) and [*found.files] == [run / "certify" / "certify.json"]
    one = written["networks"]["float"]
    assert (
        one["accuracy"][0]["radius"] == 0 and one["accuracy"][0]["value"] == found.certified["float"].accuracy(0).value
    )
    assert [one["certificates"][at]["image"] for at in range(4)] == [0, 1, 2, 3] and one["passes"] == 200


def test_a_killed_run_goes_on_and_nothing_is_asked_twice(run: Path, tmp_path: Path) -> None:
    whole = runs.certify([copied(run, tmp_path / "other")], few())
    asked = certification.certify

    def killed(*given: Any, **how: Any) -> Any:
        if how["images"] == [2]:
            raise KeyboardInterrupt
        return asked(*given, **how)

    with mock.patch.object(certification, "certify", killed), pytest.raises(KeyboardInterrupt):
        runs.certify([run], few())
    with mock.patch.object(certification, "certify", side_effect=asked) as again:
        found = runs.certify([run], few(batch=7))
    assert again.call_count == 2 and found.certified == whole.certified
    with mock.patch.object(certification, "certify", side_effect=AssertionError("asked again")):
        assert runs.certify([run], few()).certified == whole.certified


@pytest.mark.parametrize("mode", ["both", "irs"])
def test_certificates_from_those_of_the_anchor(run: Path, mode: Any) -> None:
    other = copied(run, run.parent / "incremental")
    plain = runs.certify([run], few(on=BOTH))
    settings = few(on=BOTH, shown=20, mode=mode, alpha=0.01)
    found = runs.certify([other], settings)
    assert found.certified["float"].certificates == tuple(
        replace(one, chance=new.chance, radius=new.radius)  # of another alpha
        for one, new in zip(plain.certified["float"].certificates, found.certified["float"].certificates, strict=True)
    )
    held = _variants.HeldRun(other, None, "")
    x, y, _ = _variants.images_of(held, 4)
    anchors = certification.anchor(held.predictor("", "float"), x, y, settings.smoothing())
    assert found.certified["float"].certificates == tuple(one.certificate(settings.smoothing()) for one in anchors)
    disparity: Any = {"both": "harmful", "irs": "all"}[mode]
    how = certification.Incremental(samples=20, mode=mode, disparity=disparity, alpha=0.005, alpha_z=0.005)
    network = held.predictor("W8A8", "executor")
    wanted = certification.certify_incrementally(network, anchors, x, settings.smoothing(), how)
    assert found.certified["W8A8 executor"].certificates == wanted
    with mock.patch.object(certification, "anchor", side_effect=AssertionError("asked again")):
        again = runs.certify([other], replace(settings, shown=15))
    assert {one.passes for one in again.certified["W8A8 executor"].certificates} == {15}
    whole = runs.certify([other], few(on=BOTH, alpha=0.01)).certified["W8A8 executor"]  # none is taken for its own
    assert {one.passes for one in whole.certificates} == {50}


def test_how_certificates_are_passed_on() -> None:
    for mode, disparity in (("both", "harmful"), ("irs", "all")):
        found = few(shown=20, mode=mode).incremental
        assert found == certification.Incremental(
            samples=20, mode=mode, disparity=disparity, alpha=0.0005, alpha_z=0.0005  # type: ignore[arg-type]
        )  # fmt: skip
    assert few().incremental is None


def test_the_anchor_is_of_the_first_run(run: Path) -> None:
    other = copied(run, run.parent / "other")
    found = runs.certify([run, other], few(shown=20))
    assert [one.certificates[0].passes for one in found.certified.values()] == [50, 20]
    assert (run / "certify" / "anchors.jsonl").exists() and not (other / "certify" / "anchors.jsonl").exists()


def test_a_killed_anchor_goes_on(run: Path) -> None:
    asked = certification.anchor

    def killed(*given: Any, **how: Any) -> Any:
        if how["images"] == [2]:
            raise KeyboardInterrupt
        return asked(*given, **how)

    with mock.patch.object(certification, "anchor", killed), pytest.raises(KeyboardInterrupt):
        runs.certify([run], few(on=BOTH, shown=20))
    with mock.patch.object(certification, "anchor", side_effect=asked) as again:
        runs.certify([run], few(on=BOTH, shown=20))
    assert [call.kwargs["images"] for call in again.call_args_list] == [[2], [3]]


def test_anchors_of_another_network_or_other_noise_are_refused(run: Path) -> None:
    runs.certify([run], few(on=BOTH, shown=20))
    kept = run / "certify" / "anchors.jsonl"
    for path in (run / "certify").iterdir():
        if path != kept:
            path.unlink()
    for changed in ({"sigma": 0.03}, {"n": 41}, {"n0": 11}, {"seed": 1}):
        with pytest.raises(StaleRun, match=rf"anchors\.jsonl was begun with {next(iter(changed))}="):
            runs.certify([copied(run, run.parent / f"with-{next(iter(changed))}")], few(on=BOTH, shown=20, **changed))
    other = copied(run, run.parent / "network")
    weights = load_file(other / "model.safetensors")
    save_file({name: one * 0.5 for name, one in weights.items()}, other / "model.safetensors")
    with pytest.raises(StaleRun, match=r"anchors\.jsonl was begun with weights="):
        runs.certify([other], few(on=BOTH, shown=20))


def test_an_anchor_without_a_radius_is_refused_before_others_are_asked(run: Path) -> None:
    with (
        mock.patch.object(certification, "need_certified", side_effect=MixbitError("radius is 0")) as asked,
        mock.patch.object(certification, "certify_incrementally", side_effect=AssertionError("asked")),
        pytest.raises(MixbitError, match="radius is 0"),
    ):
        runs.certify([run], few(on=BOTH, shown=20))
    ((anchors, smoothing), _) = asked.call_args
    assert [one.image for one in anchors] == [0, 1, 2, 3] and smoothing == few().smoothing()


def test_what_does_not_go_with_an_anchor() -> None:
    for wrong, says in (
        ({"shown": 41}, "shown=41 is more than the n=40 samples"),
        ({"shown": 20, "early": True}, "early does not go with shown"),
        ({"shown": 20, "on": ("executor",)}, "Give float as well"),
        ({"mode": "fast"}, "mode"),
        ({"shown": 10}, "10 samples of a changed network certify nothing beside the 40 of the anchor.*: 11 to 40"),
    ):
        with pytest.raises(MixbitError, match=says):
            few(**wrong)


@pytest.mark.parametrize(
    "changed", [{"sigma": 0.03}, {"n": 41}, {"n0": 11}, {"seed": 1}, {"alpha": 0.01}, {"images": 5}]
)
def test_other_noise_or_samples_are_refused_in_the_same_folder(run: Path, changed: dict[str, Any]) -> None:
    runs.certify([run], few())
    with pytest.raises(StaleRun, match=f"{next(iter(changed))}=.*delete that folder to begin anew"):
        runs.certify([run], few(**changed))


def test_a_network_that_cuts_the_noise_is_refused_before_anything_is_asked(run: Path) -> None:
    with (
        mock.patch.object(certification, "certify", side_effect=AssertionError("asked")),
        pytest.raises(MixbitError, match=r"W8A8 executor: the input quantizer covers .*\?noise=5"),
    ):
        runs.certify([run], few(sigma=5.0, on=("float", "executor")))
    assert not (run / "certify").exists()


def test_a_network_that_stands_no_noise_is_told(run: Path) -> None:
    (note,) = runs.certify([run], few(sigma=5.0)).notes
    assert note.startswith("float: smoothed accuracy is") and "not trained for noise of sigma 5" in note


def test_what_cannot_be_certified(run: Path) -> None:
    with pytest.raises(MixbitError, match="there is nothing to certify"):
        runs.certify([], few())
    with pytest.raises(MixbitError, match="n=5 certifies nothing"):
        few(n=5)
    for wrong in ({"radii": ()}, {"on": ()}, {"sigma": 0.0}, {"sigma": -1.0}, {"on": ("onx",)}, {"variants": ("W9",)}):
        with pytest.raises(MixbitError, match=r"[Ll]egal|Write W8A8"):
            few(**wrong)


def test_two_runs_have_their_names_and_one_file(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "second")
    found = runs.certify([run, other], few(images=2), out=tmp_path / "out")
    assert [*found.certified] == ["fitted float", "second float"]
    assert [*found.files] == [tmp_path / "out" / "certify.json"]
    assert (other / "certify" / "certificates.jsonl").exists() and replace(found, files={}).runs == (run, other)
