"""An exported network on an emulated microcontroller: compiled, run under QEMU, compared, counted in instructions."""

from mixbit.export.mcu.boards import BOARDS, Board, Region, find_board
from mixbit.export.mcu.emulator import Run, run
from mixbit.export.mcu.image import Image, Sizes, build
from mixbit.export.mcu.model import BoardVerification, Counts, LayerCount, build_model, count, verify_board
from mixbit.export.mcu.predictor import BoardPredictor

__all__ = [
    "BOARDS",
    "Board",
    "BoardPredictor",
    "BoardVerification",
    "Counts",
    "Image",
    "LayerCount",
    "Region",
    "Run",
    "Sizes",
    "build",
    "build_model",
    "count",
    "find_board",
    "run",
    "verify_board",
]
