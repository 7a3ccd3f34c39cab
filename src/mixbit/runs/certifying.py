"""Certificates of trained runs: in float, fake-quantized, and of the integers that ship.

All networks are shown the same images with the same noise, so their certificates differ by the networks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mixbit import certification
from mixbit._io import write_json
from mixbit._progress import progress_bar
from mixbit._settings import Count, Positive, Seed, check
from mixbit.certification import Certificate, Certified, Smoothing, need_cover
from mixbit.certification.bounds import Chance
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger, content_of
from mixbit.runs import _folder
from mixbit.runs._variants import FAKE, FLOAT, HeldRun, Variant, check_on, common_images, option_bits, run_names
from mixbit.runs.exporting import EXECUTOR
from mixbit.runs.subject import metric_facts

__all__ = ["CertifiedRuns", "CertifySettings", "certify"]

FOLDER, RESULT, LEDGER = "certify", "certify.json", "certificates.jsonl"
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
    on: tuple[str, ...] = (FLOAT, FAKE, EXECUTOR)
    variants: tuple[str, ...] = ("W8A8",)

    def __post_init__(self) -> None:
        check(self)
        for name in ("on", "radii"):
            if getattr(self, name) == ():
                raise MixbitError(f"{name}=() is illegal. Legal: one or more.")
        check_on(self.on)
        for one in self.variants:
            option_bits(one)
        self.smoothing()

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
    found = {}
    with progress_bar("certify", len(variants) * len(x)) as advance:
        for one in variants:
            found[one.name] = _certified(one, known[one.run], settings, x, y, lambda n=one.name: advance(1, n))  # type: ignore[misc]
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


def _certified(
    one: Variant, known: Ledger, settings: CertifySettings, x: Tensor, y: Tensor, advance: Callable[[], None]
) -> Certified:
    """All images of one network; those that are known are not asked again."""
    smoothing, made = settings.smoothing(), list[Certificate]()
    for image in range(len(x)):
        key = f"{one.key}, image {image}"
        if key not in known:
            (new,) = certification.certify(one, x[image : image + 1], y[image : image + 1], smoothing, images=[image])
            known.put(key, asdict(new))
        made.append(known.read(key, Certificate))
        advance()
    return Certified(sigma=settings.sigma, alpha=settings.alpha, certificates=tuple(made))
