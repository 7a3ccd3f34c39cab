"""A vision transformer made by the transformers package from a config."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from mixbit.errors import MissingExtra
from mixbit.models.registry import ModelInfo, register

__all__ = ["vit_tiny"]


@cache
def _logits_class() -> Any:
    """ViTForImageClassification that returns its logits; made at first use, for transformers is slow to import."""
    try:
        from transformers import ViTForImageClassification
    except ImportError as cause:
        raise MissingExtra("vit-tiny-hf needs the transformers package: pip install 'mixbit[zoo]'.") from cause

    class ViTLogits(ViTForImageClassification):  # type: ignore[misc]
        """The state_dict keys stay those of transformers."""

        def forward(self, pixel_values: Tensor) -> Tensor:
            """Map images (N, 3, H, W) to logits (N, num_classes)."""
            logits: Tensor = super().forward(pixel_values).logits
            return logits

    return ViTLogits


@register(
    ModelInfo(
        name="vit-tiny-hf",
        paper="Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; size Ti of Touvron et al., ICML 2021, 2012.12877",
        reference="huggingface/transformers, ViTForImageClassification",
        licence="Apache-2.0",
        input_shape=(3, 224, 224),
        num_classes=1000,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        summary="ViT-Ti/16, 5.7 M parameters; needs transformers",
    )
)
def vit_tiny(
    num_classes: int = 1000,
    image_size: int = 224,
    patch_size: int = 16,
    hidden_size: int = 192,
    layers: int = 12,
    heads: int = 3,
) -> nn.Module:
    """ViT-Ti/16 with random weights; smaller ones by the arguments, images are (N, 3, image_size, image_size).

    Raises:
        MissingExtra: transformers is not installed.
    """
    model_class = _logits_class()
    from transformers import ViTConfig

    config = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_labels=num_classes,
        attn_implementation="sdpa",
    )
    model: nn.Module = model_class(config)
    return model
