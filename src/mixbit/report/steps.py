"""The command to type next: complete, so that it can be pasted, as far as the user has said what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mixbit.cost import show_amount
from mixbit.policy import Front, Policy

if TYPE_CHECKING:
    from mixbit.cost import LatencyTable
    from mixbit.runs import Attacked, CertifiedRuns, Comparison, Picked, Profile, Searched, Subject

__all__ = [
    "after_allocate",
    "after_attack",
    "after_compare",
    "after_demo",
    "after_evaluate",
    "after_export",
    "after_front",
    "after_inspect",
    "after_latency",
    "after_search",
    "after_stress",
    "after_supernet",
    "after_train",
]

# Input shape (C, H, W) -> the data set that has it. Only a guess for a user who has not named data yet.
_USUAL_DATA: dict[tuple[int, ...], str] = {
    (1, 8, 8): "digits",
    (3, 32, 32): "cifar10:DIR",
    (1, 28, 28): "fashion-mnist:DIR",
}


def subject_words(subject: Subject, data: str | None = None) -> list[str]:
    """Model, data, weights and seed as they are typed.

    >>> from types import SimpleNamespace
    >>> subject_words(SimpleNamespace(model="digits-resnet", data="digits", weights=None, seed=3))
    ['digits-resnet', '--data', 'digits', '--seed', '3']
    """
    named = subject.data or data
    # What comes this far without data is a task of the user's, which brings its own.
    words = [subject.model] if named is None else [subject.model, "--data", named]
    words += [] if subject.weights is None else ["--weights", str(subject.weights)]
    return words if subject.seed == 0 else [*words, "--seed", str(subject.seed)]


def after_inspect(subject: Subject, input_shape: Sequence[int], *, own_data: bool = False) -> list[str]:
    """Search; the data are a guess from the shape of the input where none were named and the model has none."""
    guess = None if own_data else _USUAL_DATA.get(tuple(input_shape), "imagefolder:DIR")
    return ["mixbit", "search", "limpq", *subject_words(subject, guess), "--run", "runs/search"]


def after_search(run: Path, found: Searched | None = None) -> list[str]:
    """Allocate at the BitOps of the uniform W3A3 network, or pick; a policy is fine-tuned."""
    if found is not None and isinstance(found.result, Policy):
        return after_allocate(found.subject, run / "policy.json")
    if found is not None and isinstance(found.result, Front):
        return _pick(run, run, found.result, "bitops=3x3")
    return ["mixbit", "allocate", str(run), "--budget", "bitops=3x3", "--out", str(run / "policy.json")]


def after_front(source: Path, found: Picked) -> list[str]:
    """Pick at the BitOps of the uniform W4A4 network; fine-tune what was picked."""
    if found.policy is not None and found.files:
        return after_allocate(found.subject, next(iter(found.files)))
    return _pick(source, source if source.is_dir() else source.parent, found.front, "bitops=4x4")


def _pick(source: Path, folder: Path, front: Front, budget: str) -> list[str]:
    """With its weights where the front has some, into a run folder of its own."""
    to = ["--out", str(folder / "policy.json")] if front.weights is None else ["--take", f"{folder}-taken"]
    return ["mixbit", "front", str(source), "--budget", budget, *to]


def after_allocate(subject: Subject | None, out: Path) -> list[str]:
    """Fine-tune under the policy; a scores file without a run folder does not say which model."""
    words = ["MODEL", "--data", "DATA"] if subject is None else subject_words(subject)
    return ["mixbit", "train", *words, "--policy", str(out), "--run", str(out.parent / f"{out.stem}-trained")]


def after_train(subject: Subject, run: Path, *, quantized: bool) -> list[str]:
    """Evaluate a fine-tuned network; search on a float one."""
    if quantized:
        return ["mixbit", "evaluate", str(run)]
    words = subject_words(subject)
    return ["mixbit", "search", "limpq", *words, "--run", str(run.parent / "search")]


def after_evaluate(subject: Subject, *, policy: Path | None, run: Path | None = None) -> list[str]:
    """Export a run that was trained under a policy; search where there is no policy yet; else train under it."""
    if run is not None and policy is not None:
        return ["mixbit", "export", str(run)]
    words = subject_words(subject)
    if policy is None:
        return ["mixbit", "search", "limpq", *words, "--run", "runs/search"]
    return ["mixbit", "train", *words, "--policy", str(policy), "--epochs", "20", "--run", "runs/longer"]


def after_export(file: Path, run: Path, most_images: int) -> list[str]:
    """Verify on more images, as far as there are."""
    images = str(min(10_000, most_images))
    return ["mixbit", "verify", str(file), "--run", str(run), "--images", images]


def after_latency(out: Path, table: LatencyTable) -> list[str]:
    """Allocate within the time halfway between the fastest and the slowest choice of options."""
    options = [[one.median for one in found.options.values()] for found in table.layers.values()]
    middle = table.rest + (sum(map(min, options)) + sum(map(max, options))) // 2
    kind = "latency" if table.unit == "ns" else "instructions"
    limit = f"{kind}={show_amount(kind, middle)}"
    return ["mixbit", "allocate", "runs/search", "--budget", limit, "--latency", str(out)]


def after_stress(profiles: Sequence[Profile]) -> list[str]:
    """Export a quantized run; train a float one towards weights that are easier to quantize; compare where both are."""
    first = profiles[0]
    if first.quantized:
        return ["mixbit", "export", str(first.run)]
    return ["mixbit", "stress", str(first.run), "OTHER_RUN"] if len(profiles) == 1 else ["mixbit", "list", "methods"]


def after_attack(found: Attacked) -> list[str]:
    """The same run beside another one, which shares the images; after several, their profiles.

    >>> from types import SimpleNamespace
    >>> " ".join(after_attack(SimpleNamespace(runs=(Path("runs/float"),))))
    'mixbit attack runs/float OTHER_RUN'
    """
    if len(found.runs) == 1:
        return ["mixbit", "attack", str(found.runs[0]), "OTHER_RUN"]
    return ["mixbit", "stress", *map(str, found.runs)]


def after_certify(found: CertifiedRuns) -> list[str]:
    """Attacks on the same runs: what certificates leave open, from the other side.

    >>> from types import SimpleNamespace
    >>> " ".join(after_certify(SimpleNamespace(runs=(Path("runs/float"),))))
    'mixbit attack runs/float'
    """
    return ["mixbit", "attack", *map(str, found.runs)]


def after_supernet(run: Path) -> list[str]:
    """The front of its sub-networks, in a folder beside it.

    >>> " ".join(after_supernet(Path("runs/supernet")))
    'mixbit search qfa runs/supernet --run runs/front'
    """
    return ["mixbit", "search", "qfa", str(run), "--run", str(run.parent / "front")]


def after_compare(found: Comparison) -> list[str]:
    """Allocate with the most accurate method of the first budget that has one, as it was done in the comparison."""
    for budget in found.budgets:
        for one in found.results(budget):
            if one.accuracy is not None and not one.outside:
                limits = [word for limit in budget.split(",") for word in ("--budget", limit)]
                out = str(found.folder / "policy.json")
                return ["mixbit", "allocate", str(found.search_folder(one.name, budget)), *limits, "--out", out]
    return ["mixbit", "list", "methods"]


def after_demo(run: Path) -> list[str]:
    """Another budget on the same scores: no training."""
    return ["mixbit", "allocate", str(run / "search"), "--budget", "bitops=2x2", "--out", str(run / "policy-2x2.json")]
