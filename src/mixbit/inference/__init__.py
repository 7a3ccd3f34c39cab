"""Logits of a batch, whoever computes them: PyTorch, the integer executor, a runtime, compiled C, a board."""

from mixbit.inference.arrays import ArrayPredictor
from mixbit.inference.predictor import Predictor, TorchPredictor, check_inputs, need_gradients
from mixbit.inference.twin import TwinPredictor

__all__ = ["ArrayPredictor", "Predictor", "TorchPredictor", "TwinPredictor", "check_inputs", "need_gradients"]
