"""The robustness profile of a run: bad data, other quantizers and bits; attacks and certificates if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from mixbit import _io
from mixbit._progress import Advance, progress_bar
from mixbit._settings import Bits, Count, Positive, Seed, check
from mixbit.cost import LayerBits
from mixbit.data import IndexedSplit
from mixbit.data.corruption import CLEAN, SEVERITIES, STANDARD_KINDS, default_scale
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger
from mixbit.policy import Policy, resolve_pins
from mixbit.ptq import PTQConfig, ptq
from mixbit.robustness import (
    CorruptionCell,
    CorruptionReport,
    ShiftPoint,
    ShiftSummary,
    ShiftSweep,
    evaluate_corruptions,
    evaluator,
    power_of_two,
    ptq_bit_sweep,
    qat_bit_sweep,
    static_bits,
    step_sweep,
    summarise,
)
from mixbit.runs import _folder
from mixbit.runs._trained import TrainedRun, open_run
from mixbit.runs._variants import FAKE, FLOAT
from mixbit.runs.attacking import Attacked, AttackSettings, attack
from mixbit.runs.certifying import CertifiedRuns, CertifySettings, certify
from mixbit.runs.exporting import predictor_of
from mixbit.runs.subject import metric_facts

__all__ = ["PARTS", "Part", "Profile", "StressSettings", "stress"]

Part = Literal["corruption", "steps", "bits", "attacks", "certificates"]
PARTS: tuple[Part, ...] = ("corruption", "steps", "bits")
"""Those of a profile that says nothing of them; attacks and certificates take longer, and must be asked for."""

_WEIGHT_BITS = 4
"""Of a float run, where no others are asked for."""

FOLDER, PROFILE, FIGURES, ATTACKS, CERTIFICATES = "stress", "profile.json", "figures.jsonl", "attack", "certify"
_CORRUPTED = "corruption"
_BEFORE = ("points.json", "corruptions.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class StressSettings:
    """What a profile is made of.

    Attributes:
        parts: "corruption" (bad data), "steps" (other step sizes and powers of two), "bits" (other weight bits),
            "attacks" (adversarial inputs, see `AttackSettings`), "certificates" (see `CertifySettings`).
        images: test images behind every figure, the same ones everywhere; None for all, and for attacks and
            certificates 100.
        kinds: corruptions, see `mixbit.data.corruption.KINDS`.
        severities: of every kind, out of 1 to 5.
        ptq: method of `mixbit.ptq.PTQConfig` that quantizes a float run, which has no quantizers of its own; None for
            "lp". A run that was trained under a policy keeps its own, and a note says so where this was given.
        weight_bits: of a float run, for "steps"; activations stay in float. None for 4.
        seed: of the noise, of attacks and of certificates.
        on: what the part "corruption" is measured on: None for the network in PyTorch; "executor", "onnx", "c" or an
            exporter of your own for what ships of it, see `mixbit.export.Exporter`. Attacks and certificates are then
            made of it beside the networks in PyTorch, else of the executor. The other parts change quantizers, which
            only PyTorch's network has.
        attacks: of the part "attacks", with their settings: `pgd?steps=40`; None for "pgd".
        sigma: of the part "certificates", which needs it: standard deviation of the noise.
    """

    parts: tuple[Part, ...] = PARTS
    images: Count | None = None
    kinds: tuple[str, ...] = STANDARD_KINDS
    severities: tuple[int, ...] = SEVERITIES
    ptq: str | None = None
    weight_bits: Bits | None = None
    seed: Seed = 0
    on: str | None = None
    attacks: tuple[str, ...] | None = None
    sigma: Positive | None = None

    def __post_init__(self) -> None:
        check(self)
        if not self.parts:
            raise MixbitError(f"parts={self.parts} is illegal. Legal: one or more of {', '.join(get_args(Part))}.")
        self.ptq_config()
        self._check_read()
        if "attacks" in self.parts:
            self.attack_settings()
        if "certificates" in self.parts:
            self.certify_settings()

    def ptq_config(self) -> PTQConfig:
        """Settings of the quantization; its own error where there is no such method."""
        return PTQConfig() if self.ptq is None else PTQConfig(method=self.ptq)  # type: ignore[arg-type]

    def attack_settings(self) -> AttackSettings:
        """Settings of the attacks; their own errors where there is no such attack or runtime."""
        given: dict[str, Any] = {"images": self.images, "attacks": self.attacks}
        if self.on is not None:
            given["on"] = (FLOAT, FAKE, self.on)
        return AttackSettings(seed=self.seed, **{name: value for name, value in given.items() if value is not None})

    def certify_settings(self) -> CertifySettings:
        """Settings of the certificates.

        Raises:
            MixbitError: without sigma.
        """
        if self.sigma is None:
            raise MixbitError("the part 'certificates' needs sigma, the standard deviation of the noise: sigma=0.25.")
        given: dict[str, Any] = {} if self.images is None else {"images": self.images}
        if self.on is not None:
            given["on"] = (FLOAT, FAKE, self.on)
        return CertifySettings(sigma=self.sigma, seed=self.seed, **given)

    def _check_read(self) -> None:
        """Raise where a setting was given, and no part that was asked for reads it."""
        readers: dict[str, tuple[Part, ...]] = {
            "ptq": ("steps", "bits"),
            "weight_bits": ("steps",),
            "on": ("corruption", "attacks", "certificates"),
            "attacks": ("attacks",),
            "sigma": ("certificates",),
        }
        for name, parts in readers.items():
            if getattr(self, name) is not None and set(parts).isdisjoint(self.parts):
                raise MixbitError(
                    f"{name}={getattr(self, name)!r} is of the part {' and '.join(map(repr, parts))} alone, and "
                    f"parts={list(self.parts)}. Leave it out, or ask for such a part."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one run holds up; parts that were not asked for are None."""

    run: Path
    quantized: bool
    """Trained under a policy; else it was quantized after training, for `steps` and `bits`."""
    corruption: CorruptionReport | None = None
    steps: ShiftSweep | None = None
    power_of_two: ShiftSweep | None = None
    bits: ShiftSweep | None = None
    attacks: Attacked | None = None
    certificates: CertifiedRuns | None = None
    notes: tuple[str, ...] = ()
    files: dict[Path, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.run.name

    @property
    def summary(self) -> ShiftSummary | None:
        """The few numbers of the quantizer's part, if its steps were asked for."""
        return None if self.steps is None else summarise(self.steps, power_of_two=self.power_of_two, bits=self.bits)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `profile.json`."""
        parts = {"steps": self.steps, "power_of_two": self.power_of_two, "bits": self.bits, "summary": self.summary}
        return {
            "format": "mixbit-stress",
            "version": 1,
            "quantized": self.quantized,
            "attacks": None if self.attacks is None else self.attacks.to_json(),
            "certificates": None if self.certificates is None else self.certificates.to_json(),
            "corruption": None if self.corruption is None else json.loads(self.corruption.to_json()),
            **{key: None if found is None else found.to_json() for key, found in parts.items()},
            "notes": list(self.notes),
        }


def stress(
    run: Path, settings: StressSettings | None = None, *, data: str | None = None, out: Path | None = None
) -> Profile:
    """Make the profile of a run; every figure is written as soon as it is known, and is not measured twice.

    Args:
        run: folder of a finished training, in float or under a policy.
        settings: what to measure.
        data: another data set than the run's own.
        out: folder for profile.json and what is known so far; default `RUN/stress`.

    Raises:
        MixbitError: no finished training.
        StaleRun: the folder holds a profile of other weights, images or noise.
    """
    settings = StressSettings() if settings is None else settings
    opened = open_run(run, data=data)
    opened.fold()  # it is what ships
    folder = run / FOLDER if out is None else out
    known = _known(opened, settings, run)
    _folder.begin(folder, {"command": "stress", "subject": replace(opened.subject, weights=None).to_json(), **known})
    content = {"data": opened.subject.content()["data"], **known}
    before = [folder / name for name in _BEFORE]
    figures = Ledger(folder / FIGURES, "figures of a robustness profile", content, before=before)
    profile = _Stress(opened, settings, figures, run).profile()
    if "attacks" in settings.parts:
        made = attack([run], settings.attack_settings(), data=data, out=folder, keep=[folder / ATTACKS])
        profile = replace(profile, attacks=made, notes=(*profile.notes, *made.notes), files=made.files)
    if "certificates" in settings.parts:
        sure = certify([run], settings.certify_settings(), data=data, out=folder, keep=[folder / CERTIFICATES])
        notes, files = (*profile.notes, *sure.notes), {**profile.files, **sure.files}
        profile = replace(profile, certificates=sure, notes=notes, files=files)
    _io.write_json(folder / PROFILE, profile.to_json())
    return replace(profile, files={folder / PROFILE: "the robustness profile, for scripts", **profile.files})


def _known(opened: TrainedRun, settings: StressSettings, run: Path) -> dict[str, Any]:
    """What every figure in the folder depends on beside the data; parts, kinds and bits may come later."""
    weights = _io.digest(run / _folder.WEIGHTS).partition(":")[2]  # as older folders have it
    return {"weights": weights, "images": settings.images, "noise_seed": settings.seed} | metric_facts(opened.task)


_NO_BYTES = (
    "only data that --data names hold images as bytes; a Dataset or DataLoader of your own has made tensors of them"
)


class _Points:
    """Points of one model in a ledger that several share."""

    def __init__(self, figures: Ledger, section: str, advance: Advance) -> None:
        self.figures, self.section, self.advance = figures, section, advance

    def __contains__(self, key: object) -> bool:
        return f"{self.section}/{key}" in self.figures

    def __getitem__(self, key: str) -> ShiftPoint:
        return self.figures.read(f"{self.section}/{key}", ShiftPoint)

    def __setitem__(self, key: str, point: ShiftPoint) -> None:
        self.figures.put(f"{self.section}/{key}", point.to_json())
        self.advance(1, key)


class _Stress:
    """The parts of one profile."""

    def __init__(self, opened: TrainedRun, settings: StressSettings, figures: Ledger, run: Path) -> None:
        self.task, self.policy, self.settings = opened.task, opened.policy, settings
        shipped = settings.on if "corruption" in settings.parts else None
        self.shipped = None if shipped is None else predictor_of(opened, run, shipped)
        self.figures, self.run = figures, run
        self.evaluate = evaluator(self.task.test, images=settings.images, loss=self.task.objective)
        self.edges = tuple(resolve_pins(self.task.network))

    @property
    def _weight_bits(self) -> int:
        return _WEIGHT_BITS if self.settings.weight_bits is None else self.settings.weight_bits

    def profile(self) -> Profile:
        """All parts that were asked for."""
        parts = self.settings.parts
        corruption = self._corruption() if "corruption" in parts and self._has_bytes() else None
        steps, powers, bits = None, None, None
        if "steps" in parts:
            with progress_bar("stress: steps", None) as advance:
                steps, powers = self._steps(advance)
        if "bits" in parts:
            with progress_bar("stress: bits", None) as advance:
                bits = self._bits(advance)
        return Profile(
            run=self.run,
            quantized=self.policy is not None,
            corruption=corruption,
            steps=steps,
            power_of_two=powers,
            bits=bits,
            notes=tuple(self._notes()),
        )

    def _has_bytes(self) -> bool:
        """Whether the test data have image bytes to corrupt; where nothing else was asked for, they must."""
        if isinstance(self.task.test, IndexedSplit):
            return True
        if self.settings.parts == ("corruption",):
            raise MixbitError(f"{_NO_BYTES}. Ask for the other parts: --parts steps,bits.")
        return False

    def _notes(self) -> Iterator[str]:
        if "corruption" in self.settings.parts and not self._has_bytes():
            yield f"corruption was left out: {_NO_BYTES}."
        if self.shipped is not None:
            yield f"corruption was measured on {self.shipped.name}; steps and bits are of the network in PyTorch."
        given = {"ptq": self.settings.ptq, "weight_bits": self.settings.weight_bits}
        given = {name: value for name, value in given.items() if value is not None}
        if self.policy is not None and given:
            shown = " and ".join(f"{name}={value!r}" for name, value in given.items())
            yield f"it was trained under a policy and keeps its own quantizers: {shown} is of float runs alone."
        if self.policy is None and {"steps", "bits"} & set(self.settings.parts):
            bits, method = self._weight_bits, self.settings.ptq_config().method
            yield (
                f"a float run: quantized after training by {method!r}, weights alone, {' and '.join(self.edges)} at "
                f"8 bits; steps are scaled at W{bits}."
            )

    def _points(self, section: str, advance: Advance) -> _Points:
        return _Points(self.figures, section, advance)

    def _corruption(self) -> CorruptionReport:
        test = cast(IndexedSplit, self.task.test)
        count = len(test) if self.settings.images is None else min(self.settings.images, len(test))
        known = self._cells(test, count)
        asked = {(kind, severity) for kind in self.settings.kinds for severity in self.settings.severities}
        asked = {pair for pair in asked if pair[0] != CLEAN} | {(CLEAN, 0)}  # which is always measured
        done = sum((cell.kind, cell.severity) in asked for cell in known.cells)
        with progress_bar("stress: corruption", len(asked), done=done) as advance:

            def keep(report: CorruptionReport) -> None:
                for cell in report.cells:
                    self.figures.put(f"{self._corrupted}{cell.kind}/{cell.severity}", asdict(cell))
                advance(1, "")

            return evaluate_corruptions(
                self.task.model if self.shipped is None else self.shipped,
                test,
                kinds=self.settings.kinds,
                severities=self.settings.severities,
                seed=self.settings.seed,
                fraction=count / len(test),
                loss=self.task.objective,
                # What ships has the bits of the network that it was made of.
                measure_bits=lambda _: static_bits(self.task.model, self.task.network),
                known=known,
                on_cell=keep,
            )

    @property
    def _corrupted(self) -> str:
        """Before the keys of figures: those of one runtime are not those of another."""
        on = self.settings.on
        return f"{_CORRUPTED}/" if on is None else f"{_CORRUPTED} on {on}/"

    def _cells(self, test: IndexedSplit, count: int) -> CorruptionReport:
        """Those that are known, of whatever kinds and severities."""
        image, _ = next(test.batches(1))
        cells = [self.figures.read(key, CorruptionCell) for key in self.figures if key.startswith(self._corrupted)]
        scale = default_scale(*image.shape[2:])
        return CorruptionReport(
            kinds=(), severities=(), seed=self.settings.seed, scale=scale, samples=count, cells=tuple(cells)
        )

    def _steps(self, advance: Advance) -> tuple[ShiftSweep, ShiftSweep]:
        model, section = self.task.model, "as trained"
        if self.policy is None:
            bits, config = self._weight_bits, self.settings.ptq_config()
            policy = Policy.uniform(self.task.network, bits, None, dict.fromkeys(self.edges, LayerBits(8, None)))
            model, section = ptq(self.task, policy, config, quiet=True).model, f"W{bits} by {config.method}"
        points = self._points(section, advance)
        return step_sweep(model, self.evaluate, cache=points), power_of_two(model, self.evaluate, cache=points)

    def _bits(self, advance: Advance) -> ShiftSweep:
        if self.policy is None:
            config = self.settings.ptq_config()
            return ptq_bit_sweep(self.task, images=self.evaluate, config=config, cache=self._points("float", advance))
        points = self._points("as trained", advance)
        return qat_bit_sweep(self.task.model, self.evaluate, pinned=self.edges, cache=points)
