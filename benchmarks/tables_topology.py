"""Tables on topological entropy, from results/topological_entropy.json and topological_entropy_grid.json."""

from __future__ import annotations

from collections.abc import Callable

from common import markdown, ran_on, result


def _sizes(name: str) -> str:
    """Entropies by the side of the map, beside those of noise."""
    layers = result(name)["resnet20_cifar10"]["layers"]
    rows = []
    for side in sorted({one["size"] for one in layers}, reverse=True):
        own = [one for one in layers if one["size"] == side]
        entropies, births = ([one[key] for one in own] for key in ("te", "births"))
        noise = sorted({f"{one['null']:.2f}" for one in own})
        rows.append(
            (
                f"{side} x {side}",
                len(own),
                f"{min(entropies):.2f} to {max(entropies):.2f}",
                ", ".join(noise),
                f"{100 * min(births):.0f} to {100 * max(births):.0f} %",
            )
        )
    return markdown(("maps", ">layers", ">entropy (cats)", ">noise", ">images with a hole"), rows)


def topology_unit() -> str:
    """Rows and columns as vertices."""
    return _sizes("topological_entropy")


def topology_grid() -> str:
    """Pixels as vertices."""
    return _sizes("topological_entropy_grid")


def topology_speed() -> str:
    """CPU time of one map with either kind of vertices."""
    found = result("topological_entropy_grid")
    rows = [
        (
            name.replace("x", " x ").replace("resnet20", "ResNet-20,").replace("noise", "noise,"),
            *(f"{one[f'{graph}_us']:.1f} us" for graph in ("unit", "grid")),
            *(f"{one[f'{graph}_maps_per_s']:,}" for graph in ("unit", "grid")),
        )
        for name, one in found["speed"]["cpu_of_a_map"].items()
    ]
    columns = ("maps", ">rows and columns", ">pixels", ">maps a second, rows and columns", ">maps a second, pixels")
    where = ran_on(found, ["speed"])
    note = f"Least CPU time of 7 passes, {found['speed']['threads']} thread; {where}.\n"
    return markdown(columns, rows) + "\n" + note


TABLES: dict[str, Callable[[], str]] = {
    "topology_grid": topology_grid,
    "topology_speed": topology_speed,
    "topology_unit": topology_unit,
}
