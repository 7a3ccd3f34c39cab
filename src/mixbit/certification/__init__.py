"""Guarantees by noise: randomized smoothing of any network, float or integers."""

from mixbit.certification.anytime import ConfidenceSequence
from mixbit.certification.bounds import chance_of, least_samples, lower_bound, radius_of, upper_bound
from mixbit.certification.certificate import Certificate, Certified
from mixbit.certification.covering import need_cover
from mixbit.certification.incremental import (
    Anchor,
    Incremental,
    anchor,
    certify_incrementally,
    need_certified,
    need_samples,
)
from mixbit.certification.smoothing import Smoothing, certify, most_radius, predict

__all__ = [
    "Anchor",
    "Certificate",
    "Certified",
    "ConfidenceSequence",
    "Incremental",
    "Smoothing",
    "anchor",
    "certify",
    "certify_incrementally",
    "chance_of",
    "least_samples",
    "lower_bound",
    "most_radius",
    "need_certified",
    "need_cover",
    "need_samples",
    "predict",
    "radius_of",
    "upper_bound",
]
