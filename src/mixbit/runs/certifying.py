"""Certificates of trained runs: in float, fake-quantized, and of the integers that ship.

All networks are shown the same images with the same noise, so their certificates differ by the networks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mixbit import certification
from mixbit._io import write_json
from mixbit._progress import progress_bar
from mixbit._settings import Count, Positive, Seed, check
from mixbit.certification import Anchor, Certificate, Certified, Incremental, Smoothing, need_cover, need_samples
from mixbit.certification.bounds import Chance
from mixbit.certification.incremental import facts
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger, content_of
from mixbit.runs import _folder
from mixbit.runs._variants import FAKE, FLOAT, HeldRun, Variant, check_on, common_images, option_bits, run_names
from mixbit.runs.exporting import EXECUTOR
from mixbit.runs.subject import metric_facts

__all__ = ["CertifiedRuns", "CertifySettings", "certify"]

FOLDER, RESULT, LEDGER, ANCHORS = "certify", "certify.json", "certificates.jsonl", "anchors.jsonl"
_ANEW = "delete that folder to begin anew"
_OF_SIGMA = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Radii of the table where none are given, in sigmas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifySettings:
    """How which networks are certified.

    Attributes:
        sigma: standard deviation of the noise, in the unit of the input space.
        radii: of the table of certified accuracies; None for 0.5, 1, 1.5, 2 and 3 sigma.
        images: the first ones of a fixed shuffled order of the test images; at most those that there are.
        n0: samples that choose a class.
        n: samples that estimate its chance.
        alpha: chance that a certificate is wrong.
        seed: of the noise.
        batch: samples that go through a network together.
        early: stop an image when each of the radii is certified or out of reach, see `Smoothing.radii`.
        shown: samples that each network but the anchor is shown: certificates begin with those of the float network of
            the first run, see `mixbit.certification.certify_incrementally`. None for all `n`. Each of the two bounds
            has half of `alpha`.
        mode: of these, see `Incremental.mode`; "irs" counts all samples on which networks differ, as published.
        on: runtimes: "float", "fake-quantized", "executor", or an exporter: "onnx", "c", your own.
        variants: bits of a float run, as W8A8: it is quantized without training on images of its training split. A run
            that was trained under a policy has its own bits.
    """

    sigma: Positive
    radii: tuple[Positive, ...] | None = None
    images: Count = 100
    n0: Count = 100
    n: Count = 1000
    alpha: Chance = 0.001
    seed: Seed = 0
    batch: Count = 256
    early: bool = False
    shown: Count | None = None
    mode: Literal["both", "irs"] = "both"
    on: tuple[str, ...] = (FLOAT, FAKE, EXECUTOR)
    variants: tuple[str, ...] = ("W8A8",)

    def __post_init__(self) -> None:
        check(self)
        for name in ("on", "radii"):
            if getattr(self, name) == ():
                raise MixbitError(f"{name}=() is illegal. Legal: one or more.")
        check_on(self.on)
        if self.shown is not None:
            self._check_shown(self.shown)
        for one in self.variants:
            option_bits(one)
        self.smoothing()
        if self.incremental is not None:
            need_samples(self.n, self.incremental)

    def _check_shown(self, shown: int) -> None:
        if self.early:
            raise MixbitError("early does not go with shown: the anchor is asked for all samples. Give one of them.")
        if shown > self.n:
            raise MixbitError(
                f"shown={shown} is more than the n={self.n} samples of the anchor. Legal: at most as many."
            )
        if FLOAT not in self.on:
            raise MixbitError(
                f"shown={shown}: the anchor is the float network, and on={self.on}. Give {FLOAT} as well."
            )

    @property
    def incremental(self) -> Incremental | None:
        """How networks other than the anchor are certified, where that is from its certificates."""
        if self.shown is None:
            return None
        half = self.alpha / 2
        disparity: Literal["harmful", "all"] = "harmful" if self.mode == "both" else "all"
        return Incremental(samples=self.shown, mode=self.mode, disparity=disparity, alpha=half, alpha_z=half)

    @property
    def shown_radii(self) -> tuple[float, ...]:
        """The radii of the table, given or from sigma."""
        return self.radii or tuple(self.sigma * one for one in _OF_SIGMA)

    def smoothing(self) -> Smoothing:
        """The same for one image.

        Raises:
            MixbitError: samples that certify nothing.
        """
        return Smoothing(
            sigma=self.sigma,
            n0=self.n0,
            n=self.n,
            alpha=self.alpha,
            seed=self.seed,
            batch=self.batch,
            radii=self.shown_radii if self.early else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CertifiedRuns:
    """What certificates came to.

    Attributes:
        runs: folders of the trainings.
        settings: as they were given.
        certified: certificates of each network, by its name.
        notes: what there is to know of the numbers.
        files: where they are.
    """

    runs: tuple[Path, ...]
    settings: CertifySettings
    certified: dict[str, Certified]
    notes: tuple[str, ...] = ()
    files: dict[Path, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `certify.json`."""
        return {
            "format": "mixbit-certify",
            "version": 1,
            "runs": [str(run) for run in self.runs],
            "settings": asdict(self.settings),
            "networks": {name: self._of(one) for name, one in self.certified.items()},
            "notes": list(self.notes),
        }

    def _of(self, found: Certified) -> dict[str, Any]:
        radii = (0.0, *self.settings.shown_radii)
        return {
            "images": len(found.certificates),
            "accuracy": [{"radius": radius, **asdict(found.accuracy(radius))} for radius in radii],
            "average_radius": asdict(found.average_radius),
            "abstention": asdict(found.abstention),
            "share_of_class": [{"quantile": q, "share": share} for q, share in found.chances().items()],
            "passes": found.passes,
            "certificates": [asdict(one) for one in found.certificates],
        }


def certify(
    run: Sequence[Path],
    settings: CertifySettings,
    *,
    data: str | None = None,
    out: Path | None = None,
    keep: Sequence[Path] | None = None,
) -> CertifiedRuns:
    """Certify the networks of one run or of several; every certificate is kept in `RUN/certify`, and not made twice.

    Args:
        run: folders of finished trainings, in float or under a policy, of the same data.
        settings: noise, samples, images and networks.
        data: another data set than the runs' own.
        out: folder for certify.json; default `RUN/certify` of the first run.
        keep: folders for the certificates, one a run; default `RUN/certify` of each.

    Raises:
        MixbitError: no finished training, a network whose input quantizer cuts the noise, runs of other test images, or
            a task without classes.
        StaleRun: a folder holds certificates of other weights, data or images, or with other noise or samples.
    """
    held = [HeldRun(one, data, name) for one, name in zip(run, run_names(run), strict=True)]
    variants = [one for each in held for one in each.variants(settings.variants, settings.on)]
    if not variants:
        raise MixbitError("there is nothing to certify. Give one run or more, and float or a variant of it.")
    x, y, fewer = common_images(held, settings.images)
    for one in variants:
        _need_cover(one, settings.sigma)
    folders = [one.run / FOLDER for one in held] if keep is None else keep
    known = {one.run: _kept(one, folder, settings, x, y) for one, folder in zip(held, folders, strict=True)}
    found, before = {}, None if settings.shown is None else _Anchors(held[0], folders[0], settings, x, y)
    with progress_bar("certify", len(variants) * len(x)) as advance:
        for one in variants:
            ways = _Ways(one, known[one.run], settings, before)
            found[one.name] = ways.certified(x, y, lambda n=one.name: advance(1, n))  # type: ignore[misc]
    classes = held[0].opened.task.test.num_classes or int(y.max()) + 1
    notes = [f"{name}: {note}" for name, one in found.items() for note in one.notes(classes)]
    made = CertifiedRuns(
        runs=tuple(run), settings=settings, certified=found, notes=(*((fewer,) if fewer else ()), *notes)
    )
    path = (run[0] / FOLDER if out is None else out) / RESULT
    write_json(path, made.to_json())
    return replace(made, files={path: "certified accuracies, radii and every certificate, for scripts"})


def _need_cover(one: Variant, sigma: float) -> None:
    """Raise if the input quantizer of a network cuts the noise."""
    grid = one.grid
    if grid is not None:
        try:
            need_cover(grid, sigma)
        except MixbitError as cause:
            raise MixbitError(
                f"{one.name}: {cause} A run whose data are named with ?noise={sigma:g} is trained and calibrated so."
            ) from None


def _kept(held: HeldRun, folder: Path, settings: CertifySettings, x: Tensor, y: Tensor) -> Ledger:
    """What is known of a run; begun with all that each certificate depends on."""
    subject = held.opened.subject
    smoothing = asdict(settings.smoothing())
    del smoothing["batch"]  # nothing hangs on it
    content = {"weights": held.weights, "images": settings.images, **smoothing} | metric_facts(held.opened.task)
    facts = {"command": "certify", "subject": replace(subject, weights=None).to_json(), **content}
    _folder.begin(folder, facts, _ANEW)
    begun = {"data": subject.content()["data"], "pixels": content_of([x, y]), **content}
    return Ledger(folder / LEDGER, "certificates of a run", begun)


class _Anchors:
    """What the anchor, the float network of a run, said of every sample."""

    def __init__(self, held: HeldRun, folder: Path, settings: CertifySettings, x: Tensor, y: Tensor) -> None:
        self.run, self.settings, self.x, self.y = held.run, settings, x, y
        self.of, self._network = held.weights[:16], held.predictor("", FLOAT)
        begun = {"weights": held.weights, "pixels": content_of([x, y]), **facts(settings.smoothing())}
        self._kept = Ledger(folder / ANCHORS, "samples of an anchor", begun)

    def __call__(self, image: int) -> Anchor:
        """Of an image; asked where it is not known."""
        key, part = f"image {image}", slice(image, image + 1)
        if key not in self._kept:
            smoothing = self.settings.smoothing()
            (new,) = certification.anchor(self._network, self.x[part], self.y[part], smoothing, images=[image])
            self._kept.put(key, new.to_json())
        return Anchor.from_json(self._kept[key])

    def need_certified(self) -> None:
        """Raise where there is nothing to pass on."""
        certification.need_certified([self(image) for image in range(len(self.x))], self.settings.smoothing())


@dataclass(frozen=True, slots=True)
class _Ways:
    """How one network is certified: by itself, or from an anchor, or as the anchor."""

    network: Variant
    known: Ledger
    settings: CertifySettings
    before: _Anchors | None

    def certified(self, x: Tensor, y: Tensor, advance: Callable[[], None]) -> Certified:
        """All images; those that are known are not asked again."""
        made = list[Certificate]()
        for image in range(len(x)):
            if self._key(image) not in self.known:
                self.known.put(self._key(image), asdict(self._new(x[image : image + 1], y[image : image + 1], image)))
            made.append(self.known.read(self._key(image), Certificate))
            advance()
        if self.before is not None and self._is_anchor:
            self.before.need_certified()
        return Certified(sigma=self.settings.sigma, alpha=self.settings.alpha, certificates=tuple(made))

    @property
    def _is_anchor(self) -> bool:
        return self.before is not None and (self.network.on, self.network.run) == (FLOAT, self.before.run)

    def _key(self, image: int) -> str:
        """A certificate from an anchor is another one than the network's own."""
        if self.before is None or self._is_anchor:
            return f"{self.network.key}, image {image}"
        how = f"{self.settings.mode} by {self.settings.shown} samples of {self.before.of}"
        return f"{self.network.key}, {how}, image {image}"

    def _new(self, x: Tensor, y: Tensor, image: int) -> Certificate:
        smoothing, how = self.settings.smoothing(), self.settings.incremental
        if self.before is None or how is None:
            return certification.certify(self.network, x, y, smoothing, images=[image])[0]
        if self._is_anchor:
            return self.before(image).certificate(smoothing)
        return certification.certify_incrementally(self.network, [self.before(image)], x, smoothing, how)[0]
