"""The small zoo of networks, and how to bring your own."""

from __future__ import annotations

from mixbit.models.digits import digits_resnet
from mixbit.models.loading import load_model, load_object, source_file
from mixbit.models.mlperf_tiny import autoencoder, dscnn, mobilenetv1
from mixbit.models.mobilenet_cifar import mobilenetv1_cifar
from mixbit.models.mobilenet_v2 import mobilenetv2
from mixbit.models.registry import ModelInfo, build, info, names, register
from mixbit.models.resnet import resnet18, resnet50
from mixbit.models.resnet_cifar import resnet20, resnet32, resnet56
from mixbit.models.vit import vit_tiny
from mixbit.models.weights import load_weights, read_weights, write_weights

__all__ = [
    "ModelInfo",
    "autoencoder",
    "build",
    "digits_resnet",
    "dscnn",
    "info",
    "load_model",
    "load_object",
    "load_weights",
    "mobilenetv1",
    "mobilenetv1_cifar",
    "mobilenetv2",
    "names",
    "read_weights",
    "register",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet50",
    "resnet56",
    "source_file",
    "vit_tiny",
    "write_weights",
]
