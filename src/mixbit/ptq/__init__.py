"""Post-training quantization: step sizes found on a few images, without training."""

__all__: list[str] = []
