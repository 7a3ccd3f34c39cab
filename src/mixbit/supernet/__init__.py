"""Many bit-widths in one network: one selection moves the banks of quantizers and the norms behind the layers."""

from mixbit.supernet.norms import (
    SwitchableBatchNorm,
    make_switchable,
    norms_after_layers,
    norms_fed_by_layers,
    select_norms,
)

__all__ = [
    "SwitchableBatchNorm",
    "make_switchable",
    "norms_after_layers",
    "norms_fed_by_layers",
    "select_norms",
]
