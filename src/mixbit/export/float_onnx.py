"""The float network in the same runtime, to compare with."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from mixbit.errors import ExportError
from mixbit.quantization import detach

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["float_onnx"]


def float_onnx(model: nn.Module, example: torch.Tensor) -> bytes:
    """A model without its quantizers as a float32 ONNX file, by PyTorch's own exporter.

    Args:
        model: with quantizers or without; it stays as it was.
        example: one input `(1, ...)`, whose batch size the file has.

    Raises:
        ExportError: PyTorch cannot write the model.
    """
    import torch

    plain = copy.deepcopy(model).cpu().eval()
    detach(plain)
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            logging.disable(logging.CRITICAL)
            program = torch.onnx.export(plain, (example[:1].cpu(),), dynamo=True, verbose=False)
            if program is None:
                raise ExportError("PyTorch wrote no ONNX program of the float model.")
            return bytes(program.model_proto.SerializeToString())
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(
                f"PyTorch cannot write the float model as ONNX: {str(error).splitlines()[0]}. "
                "Leave the comparison with the float model out."
            ) from error
        finally:
            logging.disable(disabled)
