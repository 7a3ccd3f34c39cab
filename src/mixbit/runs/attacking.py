"""Attacks on trained runs: in float, fake-quantized, and on the integers that ship; and how points pass between them.

White-box attacks are made on the networks in PyTorch, and their points are tried on all others; black-box attacks are
made on every one. All networks are shown the same images, of which each is attacked on those that it has right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbit import attacks
from mixbit._io import write_json
from mixbit._progress import Advance, progress_bar
from mixbit._settings import Count, Positive, Seed, check, read_named
from mixbit.attacks import (
    Attack,
    Found,
    ImageResults,
    Interval,
    MaskingSign,
    Measures,
    TransferMatrix,
    Trial,
    classes_of,
    interval_of_mean,
    masking_signs,
    measure,
    transfer_matrix,
)
from mixbit.errors import MixbitError
from mixbit.inference import Predictor
from mixbit.ledger import content_of
from mixbit.runs import _folder
from mixbit.runs._attack_pieces import Pieces
from mixbit.runs._variants import FAKE, FLOAT, HeldRun, Variant, check_on, common_images, option_bits, run_names
from mixbit.runs.exporting import EXECUTOR
from mixbit.runs.subject import metric_facts

__all__ = ["AttackResult", "AttackSettings", "Attacked", "Picture", "attack"]

FOLDER, RESULT = "attack", "attack.json"
PICTURES = 6
_CHUNK = 32
"""Images of a piece: what a killed run has to do again is at most one attack on so many."""
_ANEW = "delete that folder to begin anew"
"""What is said beside the old value: a run keeps its attacks in one place, whatever --out is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSettings:
    """Which attacks are made on which networks.

    Attributes:
        attacks: names with their settings, `pgd?steps=20`; see `mixbit.attacks.names`.
        eps: radii of the attacks within a ball, in the unit of the input space, each an attack of its own; None for
            what each attack has.
        images: the first ones of a fixed shuffled order of the test images; at most those that there are.
        queries: points that an image may ask for in each attack; None for any number.
        seed: of all that is random in attacks.
        on: runtimes: "float", "fake-quantized", "executor", or an exporter: "onnx", "c", your own.
        variants: bits of a float run, as W8A8, weight bits and activation bits up to 8 and 16: it is quantized without
            training on images of its training split, the first and the last layer at 8 bits or more. A run that was
            trained under a policy has its own bits.
        twins: make white-box attacks on integers too: each step follows the gradients of their fake-quantized network,
            and is judged by the integers (`TwinPredictor`). Else they are shown the points of that network.
    """

    attacks: tuple[str, ...] = ("pgd",)
    eps: tuple[Positive, ...] | None = None
    images: Count = 100
    queries: Count | None = None
    seed: Seed = 0
    on: tuple[str, ...] = (FLOAT, FAKE, EXECUTOR)
    variants: tuple[str, ...] = ("W8A16", "W8A8")
    twins: bool = False

    def __post_init__(self) -> None:
        check(self)
        for name in ("attacks", "on"):
            if not getattr(self, name):
                raise MixbitError(f"{name}={getattr(self, name)} is illegal. Legal: one or more.")
        if self.eps is not None and not self.eps:
            raise MixbitError("eps=() is illegal. Legal: one radius or more, or None for what each attack has.")
        check_on(self.on)
        for one in self.variants:
            option_bits(one)
        self.chosen()

    def chosen(self) -> dict[str, Attack]:
        """The attacks, by the names of their rows.

        Raises:
            MixbitError: an unknown attack or setting, an attack twice, or radii for attacks that have none.
        """
        found = dict[str, Attack]()
        for text in self.attacks:
            for name, one in self._of(text):
                if name in found or one in found.values():
                    raise MixbitError(f"attack {name!r} is asked for twice. Give it once.")
                found[name] = one
        if self.eps is not None and all(one.radius is None for one in found.values()):
            legal = [one for one in attacks.names() if attacks.make(one).radius is not None]
            raise MixbitError(
                f"eps={self.eps} is of attacks within a ball, and there is none among {', '.join(self.attacks)}. Legal "
                f"with eps: {', '.join(legal)}. Add one of them, or leave eps out."
            )
        return found

    def _of(self, text: str) -> Iterator[tuple[str, Attack]]:
        name, given = read_named(text, what="attack")
        made = attacks.make(name, given)
        within = made.radius is not None and "eps" in {one.name for one in fields(made)}
        if self.eps is None or not within:
            yield text.strip(), made
            return
        if "eps" in given:
            raise MixbitError(f"attack {text!r} has its own eps, and eps={self.eps} is given too. Give one of them.")
        shown = [f"{eps:.4g}" for eps in self.eps]
        for eps, short in zip(self.eps, shown, strict=True):
            radius = short if shown.count(short) == 1 else repr(eps)  # as short as tells them apart
            yield f"{text.strip()} at {radius}", attacks.make(name, {**given, "eps": eps})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What one attack came to on one network."""

    attack: str
    """As it was asked for, with its radius where several were."""
    family: str
    """The same without the radius."""
    norm: attacks.Norm
    radius: float | None
    target: str
    source: str
    """The network on which the points were made: the target itself, or one in PyTorch."""
    measures: Measures
    by: dict[str, int] = field(default_factory=dict)
    """Of an attack that is made of several: images that each of these broke, on the network they were made on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """An image, and the point that fooled a network, in the unit of the input space `(C, H, W)`."""

    attack: str
    target: str
    image: Tensor
    point: Tensor
    label: int
    called: int
    """The class that the network gives the point."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attacked:
    """What attacks came to.

    Attributes:
        runs: folders of the trainings.
        networks: names of all networks, in order.
        images: test images that all were shown.
        clean: accuracy of each network on them.
        results: a row for each attack and network.
        transfers: attack -> how its points pass between networks.
        signs: network -> signs that an attack on it was led astray, see `mixbit.attacks.masking_signs`.
        pictures: a few points that fooled the network that they were made on.
        notes: what there is to know of the numbers.
        files: where they are.
    """

    runs: tuple[Path, ...]
    networks: tuple[str, ...]
    images: int
    clean: dict[str, Interval]
    results: tuple[AttackResult, ...]
    transfers: dict[str, TransferMatrix]
    signs: dict[str, tuple[MaskingSign, ...]] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    files: dict[Path, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `attack.json`."""
        return {
            "format": "mixbit-attack",
            "version": 1,
            "runs": [str(run) for run in self.runs],
            "networks": list(self.networks),
            "images": self.images,
            "clean": {name: asdict(one) for name, one in self.clean.items()},
            "results": [asdict(one) for one in self.results],
            "transfers": {name: asdict(one) for name, one in self.transfers.items()},
            "signs": {name: [asdict(one) for one in signs] for name, signs in self.signs.items()},
            "notes": list(self.notes),
        }


def attack(
    run: Sequence[Path],
    settings: AttackSettings | None = None,
    *,
    data: str | None = None,
    out: Path | None = None,
    keep: Sequence[Path] | None = None,
) -> Attacked:
    """Attack the networks of one run or of several; every piece is kept in `RUN/attack`, and is not made twice.

    Args:
        run: folders of finished trainings, in float or under a policy, of the same data.
        settings: attacks and networks.
        data: another data set than the runs' own.
        out: folder for attack.json; default `RUN/attack` of the first run.
        keep: folders for the pieces, one a run; default `RUN/attack` of each.

    Raises:
        MixbitError: no finished training, a task whose inputs or labels cannot be attacked, runs of other test images,
            or attacks that need gradients where no network has any.
        StaleRun: a folder holds attacks on other weights, data or images, or of another seed.
    """
    settings = AttackSettings() if settings is None else settings
    held = [HeldRun(one, data, name) for one, name in zip(run, run_names(run), strict=True)]
    if not held:
        raise MixbitError("there is nothing to attack. Give one run or more.")
    variants = [one for each in held for one in each.variants(settings.variants, settings.on)]
    x, y, fewer = common_images(held, settings.images)
    _check_attackable(settings, variants, x, y)
    folders = [one.run / FOLDER for one in held] if keep is None else keep
    known = {one.run: _pieces(one, folder, settings, x, y) for one, folder in zip(held, folders, strict=True)}
    found = _Attacking(settings, held, variants, known, x, y).result()
    found = replace(found, notes=(*((fewer,) if fewer else ()), *found.notes))
    path = (run[0] / FOLDER if out is None else out) / RESULT
    write_json(path, found.to_json())
    return replace(found, files={path: "accuracies, distances and transfer, for scripts"})


def _check_attackable(settings: AttackSettings, variants: Sequence[Variant], x: Tensor, y: Tensor) -> None:
    """Raise, before anything is written, what the attacks would say."""
    if not variants:
        raise MixbitError(
            f"on={list(settings.on)} and variants={list(settings.variants)} leave no network. Add float to on, or give "
            "a variant: W8A8."
        )
    chosen = settings.chosen().values()
    if any(one.least_classes > 2 for one in chosen):  # a network says how many it has when it is asked
        classes = variants[0].logits(x[:1]).shape[1]
        for one in chosen:
            attacks.need_classes(one, variants[0], classes)
    for one in chosen:
        able = [each for each in variants if _can_attack(one, each, settings)]
        asked = _asked(one, able[0]) if able else variants[0]
        one.check(asked, x, y, seed=settings.seed, queries=settings.queries)


def _can_attack(one: Attack, on: Variant, settings: AttackSettings) -> bool:
    """Whether an attack is made on a network, and not shown points of another."""
    return on.differentiable or one.access != "gradients" or settings.twins


def _asked(one: Attack, on: Variant) -> Predictor:
    """What the attack is given of the network."""
    return on.with_gradients if one.access == "gradients" else on


def _pieces(held: HeldRun, folder: Path, settings: AttackSettings, x: Tensor, y: Tensor) -> Pieces:
    """What is known of a run; begun with all that each piece depends on."""
    subject = held.opened.subject
    content = {"weights": held.weights, "images": settings.images, "seed": settings.seed} | metric_facts(
        held.opened.task
    )
    _folder.begin(folder, {"command": "attack", "subject": replace(subject, weights=None).to_json(), **content}, _ANEW)
    return Pieces(folder, {"data": subject.content()["data"], "pixels": content_of([x, y]), **content})


class _Attacking:
    """The attacks of one call."""

    def __init__(
        self,
        settings: AttackSettings,
        held: Sequence[HeldRun],
        variants: Sequence[Variant],
        known: Mapping[Path, Pieces],
        x: Tensor,
        y: Tensor,
    ) -> None:
        self.settings, self.held, self.variants, self.known, self.x, self.y = settings, held, variants, known, x, y
        self.attacks = settings.chosen()
        self.chunks = [slice(at, min(at + _CHUNK, len(x))) for at in range(0, len(x), _CHUNK)]
        self.weights = {one.run: one.weights for one in held}

    def result(self) -> Attacked:
        """All attacks and transfers, and what they say."""
        made = [(name, source) for name, one in self.attacks.items() for source in self._sources(one)]
        pieces = len(self.chunks) * (len(self.variants) * (1 + len(made)) + len(made))
        with progress_bar("attack", pieces) as advance:
            clean = {one.name: self._classes(one, "the images", self.x, advance) for one in self.variants}
            found = {(name, one.name): self._attacked(name, one, advance) for name, one in made}
            seen = {
                (name, source.name, target.name): self._transferred(name, source, target, found, advance)
                for name, source in made
                for target in self.variants
            }
        right = {name: classes == self.y for name, classes in clean.items()}
        wrong = {key: classes != self.y for key, classes in seen.items()}
        return Attacked(
            runs=tuple(one.run for one in self.held),
            networks=tuple(one.name for one in self.variants),
            images=len(self.x),
            clean={name: interval_of_mean(one) for name, one in right.items()},
            results=tuple(self._results(found, right, wrong)),
            transfers=dict(self._transfers(right, wrong)),
            signs=dict(self._signs(found)),
            pictures=tuple(self._pictures(found, seen)),
            notes=(*self._notes(right), *self._unasked(found)),
        )

    # -- pieces

    def _sources(self, one: Attack) -> list[Variant]:
        """The networks that an attack is made on."""
        return [each for each in self.variants if _can_attack(one, each, self.settings)]

    def _settings_of(self, name: str) -> str:
        """An attack with all its settings, for the keys of pieces: other defaults make other points."""
        one = self.attacks[name]
        values = {key.name: getattr(one, key.name) for key in fields(one)}
        if self.settings.queries is not None:
            values["queries"] = self.settings.queries
        return f"{one.name} {values}"

    def _attacked(self, name: str, on: Variant, advance: Advance) -> Found:
        """One attack on one network, of all images."""
        one, parts = self.attacks[name], list[Found]()
        for chunk in self.chunks:
            images = range(chunk.start, chunk.stop)

            def make(chunk: slice = chunk, images: range = images) -> Found:
                return one.run(
                    _asked(one, on),
                    self.x[chunk],
                    self.y[chunk],
                    seed=self.settings.seed,
                    images=images,
                    queries=self.settings.queries,
                )

            key = f"{self._settings_of(name)} on {on.key}, {_shown(images)}"
            parts.append(self.known[on.run].attack(key, one.name, make))
            advance(1, f"{name} on {on.name}")
        return Found.joined(parts)

    def _transferred(
        self, name: str, source: Variant, target: Variant, found: Mapping[tuple[str, str], Found], advance: Advance
    ) -> Tensor:
        """The classes that the target gives the source's points."""
        place = source.key if source.run == target.run else f"{source.key} of {self.weights[source.run]}"
        return self._classes(target, f"{self._settings_of(name)} on {place}", found[name, source.name].points, advance)

    def _classes(self, target: Variant, of: str, points: Tensor, advance: Advance) -> Tensor:
        parts = []
        for chunk in self.chunks:
            part = points[chunk]

            def make(part: Tensor = part) -> Tensor:
                return classes_of(target, part)

            key = f"classes of {target.key}: {of}, {_shown(range(chunk.start, chunk.stop))}"
            parts.append(self.known[target.run].classes(key, part, make))
            advance(1, f"classes of {target.name}")
        return torch.cat(parts)

    # -- what they say

    def _results(
        self,
        found: Mapping[tuple[str, str], Found],
        right: Mapping[str, Tensor],
        wrong: Mapping[tuple[str, str, str], Tensor],
    ) -> Iterator[AttackResult]:
        for name, one in self.attacks.items():
            for target in self.variants:
                source = self._source_of(one, target)
                made = found[name, source.name]
                if source is not target:
                    success = right[target.name] & wrong[name, source.name, target.name]
                    made = replace(made, right=right[target.name], success=success)
                results = ImageResults.of(made, self.x, target.snap)
                measures = measure(results, nearest=one.norm if one.radius is None else None)
                yield AttackResult(
                    attack=name,
                    family=name.partition(" at ")[0],
                    norm=one.norm,
                    radius=one.radius,
                    target=target.name,
                    source=source.name,
                    measures=measures if source is target else replace(measures, queries=None),
                    by=dict(Counter(filter(None, made.by))) if source is target else {},
                )

    def _source_of(self, one: Attack, target: Variant) -> Variant:
        """The network itself; else its own fake-quantized one, else the first of its run, else the first of all."""
        sources = self._sources(one)
        same = [each for each in sources if each.run == target.run]
        twins = [each for each in same if each.bits == target.bits and each.on == FAKE]
        return target if target in sources else (twins + same + sources)[0]

    def _transfers(
        self, right: Mapping[str, Tensor], wrong: Mapping[tuple[str, str, str], Tensor]
    ) -> Iterator[tuple[str, TransferMatrix]]:
        flags = {name: one.tolist() for name, one in right.items()}
        for name in self.attacks:
            pairs = {(source, target): one.tolist() for (of, source, target), one in wrong.items() if of == name}
            yield name, transfer_matrix(flags, pairs)

    def _signs(self, found: Mapping[tuple[str, str], Found]) -> Iterator[tuple[str, tuple[MaskingSign, ...]]]:
        """Of networks on which several attacks were made; a few points more are asked for."""
        for one in self.variants:
            trials = {
                name: Trial(attack=self.attacks[name], found=made)
                for (name, on), made in found.items()
                if on == one.name
            }
            if len(trials) > 1 and (signs := masking_signs(one, self.x, self.y, trials)):
                yield one.name, tuple(signs)

    def _pictures(
        self, found: Mapping[tuple[str, str], Found], seen: Mapping[tuple[str, str, str], Tensor]
    ) -> Iterator[Picture]:
        """Of inputs that are images, points that fooled their own network: the first of each attack, then the next."""
        if self.x.dim() != 4:
            return
        candidates = [(key, place) for key, one in found.items() for place in one.success.nonzero().flatten().tolist()]
        ranks = [sum(key == other for other, _ in candidates[:at]) for at, (key, _) in enumerate(candidates)]
        order = sorted(range(len(candidates)), key=lambda at: (ranks[at], at))
        for (name, network), place in [candidates[at] for at in order[:PICTURES]]:
            yield Picture(
                attack=name,
                target=network,
                image=self.x[place],
                point=found[name, network].points[place],
                label=int(self.y[place]),
                called=int(seen[name, network, network][place]),
            )

    def _notes(self, right: Mapping[str, Tensor]) -> Iterator[str]:
        if any(each.bits for each in self.variants):
            yield (
                f"{', '.join(self.settings.variants)}: the float network quantized without training, on images of its "
                "training split, the first and the last layer at 8 bits or more."
            )
        own = [one.run.name for one in self.held if one.quantized]
        if own and self.settings.variants != AttackSettings().variants:
            yield f"{', '.join(own)}: trained under a policy, with bits of its own; variants are of float runs alone."
        if any(one.access == "gradients" for one in self.attacks.values()) and not all(
            each.differentiable for each in self.variants
        ):
            yield "integers have no gradients: " + (
                "white-box attacks follow those of their fake-quantized networks, and are judged by the integers."
                if self.settings.twins
                else "their points of white-box attacks are those of the network named beside."
            )
        for name, one in right.items():
            if not one.any():
                yield f"{name} has all {len(one)} images wrong, so there was nothing to attack."

    def _unasked(self, found: Mapping[tuple[str, str], Found]) -> Iterator[str]:
        """Attacks that had images to attack, and may not ask for what their first step takes."""
        for (name, on), one in found.items():
            if one.right.any() and not one.queries.any():
                yield (
                    f"{name} on {on} asked for nothing: its first step takes more than "
                    f"queries={self.settings.queries}, so its success says nothing. Give more queries."
                )


def _shown(images: range) -> str:
    return f"images {images.start} to {images.stop - 1}"
