"""What capture learned of a model: layers, MACs, shapes, and which tensors layers share."""

from __future__ import annotations

from mixbit.network._capture import ExampleInputs, capture
from mixbit.network._consistency import check_network
from mixbit.network._layer_maps import LayerMap, LayerMaps, layer_maps
from mixbit.network._records import FloatParameter, Join, Layer, LayerKind, Network, Skipped, Tensor

__all__ = [
    "ExampleInputs",
    "FloatParameter",
    "Join",
    "Layer",
    "LayerKind",
    "LayerMap",
    "LayerMaps",
    "Network",
    "Skipped",
    "Tensor",
    "capture",
    "check_network",
    "layer_maps",
]
