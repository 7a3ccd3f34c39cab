"""What happens to a quantized network when quantizer, bits or data are not those that it was trained for."""

__all__: list[str] = []
