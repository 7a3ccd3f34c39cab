"""Adversarial attacks on any Predictor: float, fake-quantized, and by black-box attacks the very integers that ship."""

from mixbit.attacks._entries import Access
from mixbit.attacks._norms import NORMS, Norm, norm_of
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack, Found, need_access
from mixbit.attacks.deepfool import DeepFool
from mixbit.attacks.measures import ImageResults, Interval, Measures, Spread, interval_of_mean, measure
from mixbit.attacks.pgd import Pgd
from mixbit.attacks.registry import Info, info, make, names, register
from mixbit.attacks.transfer import TransferMatrix, is_fooled, transfer_matrix

__all__ = [
    "NORMS",
    "Access",
    "Attack",
    "DeepFool",
    "Found",
    "ImageResults",
    "Info",
    "Interval",
    "Measures",
    "Norm",
    "Pgd",
    "Spread",
    "Target",
    "TransferMatrix",
    "info",
    "interval_of_mean",
    "is_fooled",
    "make",
    "measure",
    "names",
    "need_access",
    "norm_of",
    "register",
    "transfer_matrix",
]
