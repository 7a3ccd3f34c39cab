"""A sub-network of a front as a run folder of its own: what `evaluate`, `export`, `stress` and `train` take."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mixbit import _io
from mixbit.errors import MixbitError
from mixbit.methods.qfa import settings_of, subnet
from mixbit.models import write_weights
from mixbit.policy import Policy
from mixbit.runs import _folder
from mixbit.runs.picking import Picked
from mixbit.runs.subject import metric_facts
from mixbit.supernet import SupernetTraining
from mixbit.supernet.training import statistics_batch

__all__ = ["take"]


def take(found: Picked, run: Path) -> dict[Path, str]:
    """Write the picked network with the front's weights, and statistics of its own; nothing is trained.

    Args:
        found: what `mixbit.runs.pick` picked from a front whose weights are a network of many bit-widths.
        run: the folder.

    Returns:
        The files, and what each holds.

    Raises:
        MixbitError: nothing was picked, or a front of other weights: its points have to be trained on their own.
        StaleRun: the folder belongs to another run.
    """
    policy = found.policy
    if policy is None:
        raise MixbitError("nothing was picked. Give a budget: --budget bitops=4x4.")
    if found.front.method != "qfa" or found.weights is None or found.subject is None:
        raise MixbitError(
            f"the front is of {found.front.method!r}, and not of a network that serves many bit-widths. Write the "
            "policy (--out) and train under it: mixbit train --policy."
        )
    # The supernet's weights replace the float ones that it started from, so that file need not exist any more.
    bare = replace(found.subject, weights=None)
    task, floats = bare.task()[0], found.subject.weights
    settings = settings_of(found.front)
    facts: dict[str, Any] = {
        "command": "train",
        "subject": found.subject.to_json(),
        "content": (found.subject if floats is None or floats.is_file() else bare).content(),
        "settings": _settings(settings, statistics_batch(found.weights.parent)),
        "bits": {name: [bits.weight_bits, bits.activation_bits] for name, bits in policy.layers.items()},
    }
    model = subnet(task, found.front, found.weights, policy.layers)
    _folder.begin(run, facts | metric_facts(task))
    _io.write_text(run / _folder.NETWORK, task.network.to_json())
    Policy.save(policy, run / _folder.POLICY)
    write_weights(run / _folder.WEIGHTS, model.state_dict())
    return {
        run / _folder.WEIGHTS: "the sub-network's weights, step sizes and statistics",
        run / _folder.POLICY: "its bits",
    }


def _settings(settings: SupernetTraining, batch: int) -> dict[str, Any]:
    """How its layers are quantized, where that is not the usual; and the batches of its statistics, as it had them."""
    given, usual = asdict(settings.quantizers()), asdict(SupernetTraining().quantizers())
    own = {name: value for name, value in given.items() if value != usual[name]}
    return {"quantize": own, "batch_size": batch, "bn_samples": settings.statistics_images}
