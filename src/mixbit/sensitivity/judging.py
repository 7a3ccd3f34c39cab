"""What a policy is worth before any training: loss and metrics after calibration, on images that it did not see.

The measure of methods that try whole policies. Test images are never read: those that judge are of the training split.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mixbit import _batch
from mixbit._bits import read_option
from mixbit._progress import progress_bar
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics, evaluate
from mixbit.ledger import Ledger, content_of
from mixbit.metric import LOSS, MetricInfo
from mixbit.network import Network
from mixbit.policy import Measured, Policy
from mixbit.quantization import QuantizeConfig, calibrate, quantize
from mixbit.sensitivity.measuring import calibration_images as training_images
from mixbit.sensitivity.measuring import contents
from mixbit.task import Task

__all__ = ["Judge", "bits_of", "bits_text"]


class Judge:
    """Puts policies onto copies of the task's float network, calibrates, and measures.

    A shuffled pass over the training images, without augmentation, gives both parts: its first `calibration_images`
    set the steps of activations, the next `images` are measured on. Where there are fewer, both shrink alike.

    Args:
        task: the user's problem.
        images: training images to measure on.
        calibration_images: training images for the steps of activations.
        batch_size: images that go through the network together while it is measured.
        seed: of the pass, and of what the model draws while it is calibrated.
        tune: what is done to a network between calibration and the measurement, such as a short training on images
            that are none of these; what it depends on is its caller's to say to the ledger.

    Raises:
        MixbitError: there are fewer than two training images.
    """

    def __init__(
        self,
        task: Task,
        *,
        images: int,
        calibration_images: int,
        batch_size: int,
        seed: int,
        tune: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self._task, self._seed, self._batch_size, self._tune = task, seed, batch_size, tune
        x, y = training_images(task, images + calibration_images, seed)
        count = _batch.samples(x)
        if count < 2:
            raise MixbitError(
                f"{count} training image cannot both calibrate and measure. Give training data with at least 2."
            )
        steps = min(count - 1, max(1, count * calibration_images // (images + calibration_images)))
        self._calibration = _batch.cut(x, None, count, slice(steps))[0]
        self._x, self._y = _batch.cut(x, y, count, slice(steps, None))
        self.images, self.calibration_images = count - steps, steps
        self._of = contents(task.model, [(x, y)])

    @property
    def measured(self) -> Measured:
        """What the numbers are, for the file of a front."""
        on = f"{self.images} training images, after calibration on {self.calibration_images} others (seed {self._seed})"
        return Measured(
            metrics=self.metrics, on=on, data=content_of([*_batch.tensors(self._x), *_batch.tensors(self._y)])
        )

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """What is measured beside the loss, which stands alone where the task has no metric."""
        return tuple(one.info for one in self._task.objective.metrics or ()) or (LOSS,)

    def __call__(self, policy: Policy) -> Metrics:
        """Loss and metrics of the float weights under the policy.

        Raises:
            MixbitError: the loss or a metric is no finite number.
        """
        model, config = copy.deepcopy(self._task.model), QuantizeConfig()
        quantize(model, policy, self._task.network, config)
        calibrate(model, [self._calibration], config.activation_rule, seed=self._seed)
        if self._tune is not None:
            self._tune(model)
        return self._measured(model)

    def floats(self) -> Metrics:
        """The same of the float network itself, on the same images."""
        return self._measured(self._task.model)

    def _measured(self, model: nn.Module) -> Metrics:
        return evaluate(model, list(self._batches()), batch_size=self._batch_size, loss=self._task.objective)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        return _batch.cut_all(self._x, self._y, self._batch_size)

    def quality(self, policies: Sequence[Policy], ledger: Ledger, *, label: str, quiet: bool) -> list[dict[str, float]]:
        """Metrics and loss of each policy; what the ledger has already is not measured again.

        Args:
            policies: to be measured; equal ones are measured once.
            ledger: see `ledger`.
            label: of the progress bar.
            quiet: no progress bar.
        """
        found = []
        with progress_bar(label, len(policies), quiet=quiet) as advance:
            for policy in policies:
                key = bits_text(policy.layers)
                if key not in ledger:
                    measured = self(policy)
                    ledger.put(key, {**measured.values, LOSS.name: measured.loss})
                found.append(ledger.read(key, dict[str, float]))
                advance(1, "")
        return found

    def ledger(self, run: Path | None, name: str, settings: Mapping[str, Any]) -> Ledger:
        """Where measurements of these settings are kept, in a run folder or in memory alone.

        Raises:
            StaleRun: the folder holds measurements of other settings, another model or other images.
        """
        path = None if run is None else run / f"{name}.jsonl"
        return Ledger(path, f"measurements of {name}", self.depends(settings))

    def depends(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a ledger of measurements: these, and the content of weights and images."""
        return {**settings, **self._of}


def bits_text(layers: Mapping[str, LayerBits]) -> str:
    """Bits of all layers in their order: what a policy is known by.

    >>> bits_text({"conv": LayerBits(3, 4), "fc": LayerBits(8, None)})
    'W3A4 W8A32'
    """
    return " ".join(map(str, layers.values()))


def bits_of(text: str, network: Network) -> dict[str, LayerBits]:
    """Bits of all layers of a network from their text.

    >>> from types import SimpleNamespace
    >>> bits_of("W3A4 W8A32", SimpleNamespace(layers=[SimpleNamespace(name="conv"), SimpleNamespace(name="fc")]))
    {'conv': LayerBits(weight_bits=3, activation_bits=4), 'fc': LayerBits(weight_bits=8, activation_bits=None)}
    """
    pairs = [LayerBits(*read) for word in text.split() if (read := read_option(word)) is not None]
    return {layer.name: bits for layer, bits in zip(network.layers, pairs, strict=True)}
