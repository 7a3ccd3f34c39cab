"""The numbers in prose on topological entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import result
from numbers_arena import joined


def found(grid: bool = False) -> dict[str, Any]:
    """What was measured on ResNet-20."""
    return dict(result("topological_entropy_grid" if grid else "topological_entropy")["resnet20_cifar10"])


def by_images(key: str, *, grid: bool = False, among: tuple[str, ...] = ("32", "128", "512"), digits: int = 2) -> str:
    """A number over the number of images of a search."""
    return joined(*(f"{found(grid)['by_images'][count][key]:.{digits}f}" for count in among))


def like_cats(*labels: str, grid: bool = False, digits: int = 3) -> str:
    """Rank correlation of the entropies from a class with those from cats."""
    return joined(*(f"{found(grid)['spearman_with_cat'][label]:.{digits}f}" for label in labels))


def moves(label: str, *, grid: bool = False) -> str:
    """The most that one layer's entropy moves from cats to a class."""
    return f"{found(grid)['largest_difference_from_cat'][label]:.2f}"


def bits(of: str, *, grid: bool = False) -> list[int]:
    """Weight bits of all layers at weights of an eighth, by the entropies or by those of noise."""
    return list(found(grid)["policies_weight_bytes_8x"]["weight_bits"][of])


def apart(*, grid: bool = False) -> str:
    """Layers that get other bits than from the noise alone."""
    return f"{sum(own != noise for own, noise in zip(bits('te', grid=grid), bits('noise', grid=grid), strict=True))}"


def apart_most(*, grid: bool = False) -> str:
    """By how many bits at most."""
    return (
        f"{max(abs(own - noise) for own, noise in zip(bits('te', grid=grid), bits('noise', grid=grid), strict=True))}"
    )


def blind() -> str:
    """Layers of small maps more than half of whose channels see hardly a hole, with pixels as vertices."""
    small = [one for one in found(grid=True)["layers"] if one["size"] < 32]
    return f"{sum(2 * one['blind'] > one['channels'] for one in small)}"


def large(key: str) -> Any:
    """Of the measure on MobileNetV2."""
    return result("topological_entropy")["mobilenetv2_224"][key]


def ripser(key: str) -> Any:
    """Of the comparison with Ripser."""
    return result("topological_entropy")["ripser"][key]


NUMBERS: dict[str, Callable[[], str]] = {
    "te.size": lambda: f"{found()['spearman_with_size']:.2f}",
    "te.log_size": lambda: f"{found()['pearson_with_log_size']:.2f}",
    "te.dog": lambda: like_cats("dog"),
    "te.bird": lambda: like_cats("bird"),
    "te.airplane": lambda: like_cats("airplane"),
    "te.mixed": lambda: like_cats("mixed"),
    "te.mixed_moves": lambda: moves("mixed"),
    "te.airplane_moves": lambda: moves("airplane"),
    "te.by_images": lambda: by_images("mean_te_at_32"),
    "te.by_images_order": lambda: by_images("spearman_with_128", among=("32", "512")),
    "te.apart": lambda: apart(),
    "te.apart_most": lambda: apart_most(),
    "te.layers": lambda: f"{len(bits('te'))}",
    "te.bits": lambda: f"{min(bits('te')[1:-1])} to {max(bits('te')[1:-1])}",
    "te.maps": lambda: f"{large('maps'):,}",
    "te.convolutions": lambda: f"{large('layers')}",
    "te.wall": lambda: f"{large('te_wall_s'):.1f}",
    "te.cpu": lambda: f"{large('te_cpu_s'):.1f}",
    "te.forward": lambda: f"{large('forward_wall_s'):.1f}",
    "te.memory": lambda: f"{large('map_bytes_peak') / 2**20:.0f}",
    "te.ripser": lambda: f"{ripser('ripser_whole_pass_cpu_s'):,}",
    "te.ripser_ratio": lambda: f"{ripser('ratio'):.0f}",
    "te.load": lambda: f"{result('topological_entropy')['load_average']:.1f}",
    "te.grid_size": lambda: f"{found(grid=True)['spearman_with_size']:.2f}",
    "te.grid_unit": lambda: f"{found(grid=True)['spearman_with_unit']:.2f}",
    "te.grid_blind": lambda: blind(),
    "te.grid_images": lambda: by_images("mean_te_at_32", grid=True),
    "te.grid_order": lambda: by_images("spearman_with_128", grid=True, among=("32", "512")),
    "te.grid_airplane": lambda: like_cats("airplane", grid=True, digits=2),
    "te.grid_mixed": lambda: like_cats("mixed", grid=True, digits=2),
    "te.grid_moves": lambda: moves("mixed", grid=True),
    "te.grid_apart": lambda: apart(grid=True),
    "te.grid_apart_most": lambda: apart_most(grid=True),
}
