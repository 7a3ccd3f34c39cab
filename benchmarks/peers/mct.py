"""Sony's model-compression-toolkit searches weight bits for our ResNet-20 under our budget.

    python benchmarks/peers/mct.py [--budget 10x] [--images 32 256] [--threads 1] [--fresh | --smoke]

Its defaults (average distance over its interest points, integer programme, greedy refinement) choose among 2, 4 and 8
weight bits at 8-bit activations. What it found is read from its quantized model and written as a mixbit policy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import torchvision_shim  # noqa: F401 (before the toolkit, which imports torchvision)
from torch import Tensor

# isort: split
import model_compression_toolkit as toolkit
from model_compression_toolkit.core import runner
from model_compression_toolkit.core.common.network_editors.node_filters import NodeNameFilter
from subject import BUDGET, Clock, Kept, Subject, float_model, records, silent_solvers

from mixbit.cost import LayerBits
from mixbit.network import Network
from mixbit.policy import Policy

BATCH = 32
PARTS = (
    "images", "pinned", "cpu_seconds", "wall_seconds", "search_cpu_seconds", "search_wall_seconds", "limit_bytes",
)  # fmt: skip
PACKAGES = ("model-compression-toolkit", "mct-quantizers", "pulp", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Found:
    """One run of the toolkit."""

    bits: dict[str, LayerBits]
    weight_bytes: float
    """As the toolkit counts them."""
    whole: Clock
    """Tracing, folding, calibration, search and the building of the quantized model: what its user calls."""
    search: Clock
    """Of that, the search alone: sensitivities, integer programme and refinement."""


def run(subject: Subject, images: list[Tensor], *, pinned: bool = False) -> Found:
    """Search once; `pinned` keeps the first and the last layer at 8 bits."""
    model, whole, search = float_model(), Clock(), Clock()
    settings = toolkit.core.MixedPrecisionQuantizationConfig(num_of_images=sum(len(x) for x in images))
    config = toolkit.core.CoreConfig(mixed_precision_config=settings)
    if pinned:
        names = [layer.name for layer in subject.network.layers]
        # Nodes are found by the names they have after folding: a convolution takes over its batch norm.
        filters = [NodeNameFilter(f"{names[0]}_bn"), NodeNameFilter(names[-1])]
        config.bit_width_config.set_manual_weights_bit_width(filters, 8, "weight")
    limit = toolkit.core.ResourceUtilization(weights_memory=subject.limit_bits / 8)
    with silent_solvers(), _timed_search(search), whole.running():
        quantized, info = toolkit.ptq.pytorch_post_training_quantization(model, _generator(images), limit, config)
    return Found(read_bits(quantized, subject.network), info.final_resource_utilization.weights_memory, whole, search)


def _generator(images: list[Tensor]) -> Any:
    def batches() -> Iterator[list[Tensor]]:
        for batch in images:
            yield [batch]

    return batches


class _timed_search:
    """Measure the toolkit's search within its one public call."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.original = clock, runner.search_bit_width

    def __enter__(self) -> None:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.clock.running():
                return self.original(*args, **kwargs)

        runner.search_bit_width = timed

    def __exit__(self, *_: object) -> None:
        runner.search_bit_width = self.original


def read_bits(quantized: torch.nn.Module, network: Network) -> dict[str, LayerBits]:
    """Layer name -> bits, from the quantizers of the toolkit's model; an error if a layer has none or another shape."""
    own = {layer.name.replace(".", "_"): layer for layer in network.layers}
    found: dict[str, LayerBits] = {}
    for name, module in quantized.named_modules():
        holder = getattr(module, "activation_holder_quantizer", None)
        if holder is not None and holder.num_bits != 8:
            raise SystemExit(f"{name}: {holder.num_bits} activation bits, where 8 are expected.")
        quantizers = getattr(module, "weights_quantizers", None)
        if not quantizers:
            continue
        layer = own.get(name.removesuffix("_bn"))
        if layer is None or tuple(module.layer.weight.shape) != layer.weight_shape:
            raise SystemExit(f"The toolkit's layer {name!r} is no layer of this network.")
        found[layer.name] = LayerBits(quantizers["weight"].num_bits, 8)
    if set(found) != {layer.name for layer in network.layers}:
        raise SystemExit(f"The toolkit quantized {len(found)} of {len(network.layers)} layers: {sorted(found)}.")
    return found


def search(subject: Subject, images: int, *, pinned: bool) -> tuple[Policy, dict[str, Any]]:
    """The policy of one run, and what its result file holds."""
    found = run(subject, [x for x, _ in subject.images(images, BATCH)], pinned=pinned)
    notes = [f"{images} images, average distance, weights 2, 4 or 8 bits, activations 8 bits"]
    notes += ["first and last layer pinned at W8A8"] if pinned else []
    policy = subject.policy(found.bits, method=f"mct {version(PACKAGES[0])}", seed=0, notes=notes)
    if policy.costs["weight_bytes"] != found.weight_bytes:
        raise SystemExit(f"The toolkit counts {found.weight_bytes} bytes, mixbit {policy.costs['weight_bytes']}.")
    return policy, {
        "images": images,
        "pinned": pinned,
        "cpu_seconds": found.whole.cpu,
        "wall_seconds": found.whole.wall,
        "search_cpu_seconds": found.search.cpu,
        "search_wall_seconds": found.search.wall,
        "limit_bytes": subject.limit_bits / 8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default=BUDGET, help="of weight bytes, as mixbit writes it")
    parser.add_argument("--images", type=int, nargs="+", default=[32, 256], help="its default first, larger ones after")
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    few, *more = [BATCH] if given.smoke else given.images
    plan = [("mct", few, False), ("mct-pinned", few, True), *((f"mct-{many}", many, False) for many in more)]
    files = []
    for name, images, pinned in plan[: 1 if given.smoke else None]:
        settings = {"images": images, "pinned": pinned, "threads": given.threads}
        files.append(Kept(name, given.budget, PARTS, PACKAGES, settings, given))
    missing = [one.missing() for one in files]
    subject = Subject.load(given.budget) if any(missing) else None
    for one in files:

        def make(one: Kept = one) -> tuple[Policy, dict[str, Any]]:
            assert subject is not None
            return search(subject, one.settings["images"], pinned=one.settings["pinned"])

        found = one.write(make)
        print(one.file, f"{found['cpu_seconds']:.1f} s CPU", found["costs"], flush=True)


if __name__ == "__main__":
    main()
