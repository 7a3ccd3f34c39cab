"""Import this before anything that imports torchvision beside a CPU torch.

torchvision's compiled part, which declares two operators, is built for CUDA and cannot load there; with the two
declared here, models and transforms work.
"""

from __future__ import annotations

import torch

LIBRARY = None if torch.version.cuda else torch.library.Library("torchvision", "DEF")
"""Kept: the declarations go with it."""

if LIBRARY is not None:
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
