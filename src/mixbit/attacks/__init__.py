"""Adversarial attacks on any Predictor: float, fake-quantized, and by black-box attacks the very integers that ship."""

from mixbit.attacks._entries import Access
from mixbit.attacks._norms import NORMS, Norm, norm_of
from mixbit.attacks._target import Target
from mixbit.attacks.apgd import Apgd, ApgdT
from mixbit.attacks.attack import Attack, Found, check_logits, need_access, need_classes
from mixbit.attacks.auto_attack import AutoAttack
from mixbit.attacks.boundary import Boundary
from mixbit.attacks.carlini_wagner import CarliniWagnerL2, CarliniWagnerLinf
from mixbit.attacks.deepfool import DeepFool
from mixbit.attacks.elastic_net import ElasticNet
from mixbit.attacks.fab import Fab
from mixbit.attacks.geoda import GeoDA
from mixbit.attacks.gradients import (
    Alignment,
    Density,
    alignment,
    density,
    estimated_gradients,
    exact_gradients,
)
from mixbit.attacks.input_grid import InputGrid
from mixbit.attacks.jsma import Jsma
from mixbit.attacks.masking import MaskingSign, Trial, masking_signs, missed_points
from mixbit.attacks.measures import ImageResults, Interval, Measures, Spread, interval_of_mean, measure
from mixbit.attacks.pgd import Pgd
from mixbit.attacks.registry import Info, info, make, names, register
from mixbit.attacks.shift import LayerShift, quantization_shift
from mixbit.attacks.square import Square
from mixbit.attacks.transfer import TransferMatrix, classes_of, transfer_matrix
from mixbit.attacks.zoo import Zoo

__all__ = [
    "NORMS",
    "Access",
    "Alignment",
    "Apgd",
    "ApgdT",
    "Attack",
    "AutoAttack",
    "Boundary",
    "CarliniWagnerL2",
    "CarliniWagnerLinf",
    "DeepFool",
    "Density",
    "ElasticNet",
    "Fab",
    "Found",
    "GeoDA",
    "ImageResults",
    "Info",
    "InputGrid",
    "Interval",
    "Jsma",
    "LayerShift",
    "MaskingSign",
    "Measures",
    "Norm",
    "Pgd",
    "Spread",
    "Square",
    "Target",
    "TransferMatrix",
    "Trial",
    "Zoo",
    "alignment",
    "check_logits",
    "classes_of",
    "density",
    "estimated_gradients",
    "exact_gradients",
    "info",
    "interval_of_mean",
    "make",
    "masking_signs",
    "measure",
    "missed_points",
    "names",
    "need_access",
    "need_classes",
    "norm_of",
    "quantization_shift",
    "register",
    "transfer_matrix",
]
