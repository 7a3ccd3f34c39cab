"""Adversarial attacks on any Predictor: float, fake-quantized, and by black-box attacks the very integers that ship."""

from mixbit.attacks._entries import Access
from mixbit.attacks._norms import NORMS, Norm, norm_of
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack, Found, need_access
from mixbit.attacks.pgd import Pgd
from mixbit.attacks.registry import Info, info, make, names, register

__all__ = [
    "NORMS",
    "Access",
    "Attack",
    "Found",
    "Info",
    "Norm",
    "Pgd",
    "Target",
    "info",
    "make",
    "names",
    "need_access",
    "norm_of",
    "register",
]
