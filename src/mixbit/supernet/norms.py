"""Batch norm with one copy a bit-width, for networks that train several bit-widths at once.

Activation statistics differ between bit-widths, so each needs batch-norm parameters of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit.errors import MixbitError, WeightsError
from mixbit.quantization import QuantizedLayer, quantized_layers
from mixbit.quantization.norms import KEY_BITS, RowsOfNorms, layers_before_norms, put_in_place
from mixbit.quantizers import Quantizer, SampleRows

__all__ = ["NormRows", "SwitchableBatchNorm", "make_switchable"]

NormRows: TypeAlias = Literal["shared", "bits", "pair"]
"""How many copies a batch norm has: one for all, one a bit-width, or one a pair of weight and activation bits."""

Key: TypeAlias = tuple[int, ...]
"""What a copy is of: (bits,), or (weight bits, activation bits)."""


class SwitchableBatchNorm(RowsOfNorms):
    """Batch norm with parameters and statistics in `n` rows, of which one is in use, or one a sample.

    Beside the tensors of batch norm, whose first dimension is the rows here, the state holds `row`, the layer that the
    norm stands behind and the bit-widths of the rows, so that it cannot be loaded into another place.

    A row that no sample of a step uses gets gradients of zero, as the rows of a bank of quantizers do.

    Args:
        norm: what every row is a copy of.
        layer: name of the quantized layer before it.
        keys: what each row is of, none twice: `(bits,)`, or `(weight_bits, activation_bits)`.

    Raises:
        MixbitError: a norm whose class computes in its own way (`SyncBatchNorm`), of which there is no row a bit-width.

    >>> norm = SwitchableBatchNorm(nn.BatchNorm1d(2), "fc", [(4,), (2,)])
    >>> norm.weight.shape, norm.row_of(2, 4)
    (torch.Size([2, 2]), 1)
    """

    row: Tensor
    layer_name: Tensor
    key_bits: Tensor

    def __init__(self, norm: _BatchNorm, layer: str, keys: Sequence[Key]) -> None:
        if type(norm).forward is not _BatchNorm.forward:
            raise MixbitError(
                f"{type(norm).__name__} has a forward of its own, and no copies a bit-width. Legal: PyTorch's "
                "BatchNorm1d, 2d and 3d. Replace it, or share norms."
            )
        self._float_class = type(norm)
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.layer, self.keys = layer, tuple(keys)
        self.rows: SampleRows | None = None
        self.train(norm.training)
        for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            stacked = tensor.detach().clone().expand(len(self.keys), *tensor.shape).contiguous()
            if isinstance(tensor, nn.Parameter):
                setattr(self, name, nn.Parameter(stacked, requires_grad=tensor.requires_grad))
            else:
                self.register_buffer(name, stacked)
        device = next((t.device for t in (*norm.parameters(), *norm.buffers())), None)
        self.register_buffer("row", torch.zeros(1, dtype=torch.long, device=device))
        self.register_buffer("layer_name", torch.tensor(list(layer.encode()), dtype=torch.uint8, device=device))
        self.register_buffer("key_bits", torch.tensor(self.keys, dtype=torch.long, device=device))

    def extra_repr(self) -> str:
        """Rows and place, for `print(model)`."""
        return f"{self.num_features}, after={self.layer!r}, keys={list(self.keys)}"

    def row_of(self, weight_bits: int | None, activation_bits: int | None) -> int:
        """The row of a layer's bits; of one key for both, that of the coarser, which moves the statistics most (ours).

        Raises:
            MixbitError: there is none.
        """
        given = tuple(bits for bits in (weight_bits, activation_bits) if bits is not None)
        key = given if len(self.keys[0]) == 2 else (min(given),) if given else ()
        if key not in self.keys:
            raise MixbitError(f"the norm behind layer {self.layer!r} has no row of {key}. Legal: {list(self.keys)}.")
        return self.keys.index(key)

    def use_row(self, row: int) -> None:
        """Use that row from now on, for all samples."""
        if self.rows is not None:  # setting an attribute of a module takes a while
            self.rows = None
        self.row.fill_(row)

    def select_samples(self, rows: SampleRows) -> None:
        """Give every sample of the coming batches the norm of its own row."""
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the row in use, each group of samples of one row by itself."""
        if self.rows is None:
            return self._normalise(x, self.row.clone())  # gradients need it as it is now
        return self.rows.each(x, self._of_row)

    def _of_row(self, part: Tensor, row: int) -> Tensor:
        if part.numel() == part.shape[1] and (self.training or self.running_mean is None):
            raise MixbitError(
                f"the norm behind layer {self.layer!r} sees one sample alone with bits {self.keys[row]}, of which "
                "there is no variance to train with. Legal: two samples or more of the same bits, or share norms."
            )
        return self._normalise(part, torch.full_like(self.row, row))

    def _normalise(self, x: Tensor, row: Tensor) -> Tensor:
        mean, var, weight, bias = (
            None if rows is None else rows.index_select(0, row).squeeze(0)
            for rows in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        if not self.training or mean is None or var is None:
            by_batch = self.training or mean is None
            return F.batch_norm(x, mean, var, weight, bias, by_batch, 0.0, self.eps)
        y = F.batch_norm(x, mean, var, weight, bias, True, self._count(row), self.eps)
        with torch.no_grad():
            for rows, now in ((self.running_mean, mean), (self.running_var, var)):
                assert rows is not None
                rows.index_copy_(0, row, now.unsqueeze(0))
        return y

    def _count(self, row: Tensor) -> float:
        """Note the batch, and say with which weight it enters the statistics."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.index_add_(0, row, torch.ones_like(row))
        if self.momentum is not None:
            return self.momentum
        return 1.0 / float(self.num_batches_tracked.index_select(0, row))

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Begin the statistics of the rows in use anew; the others stay as they are."""
        if not self.track_running_stats or self.running_mean is None or self.running_mean.dim() < 2:
            return super().reset_running_stats()
        assert self.running_var is not None and self.num_batches_tracked is not None
        used = self.row if self.rows is None else torch.tensor(self.rows.found, device=self.row.device)
        self.running_mean.index_fill_(0, used, 0.0)
        self.running_var.index_fill_(0, used, 1.0)
        self.num_batches_tracked.index_fill_(0, used, 0)

    def plain(self) -> _BatchNorm:
        """A batch norm of its own with the row in use, for a network that has one bit-width a layer."""
        found = self._float_class(self.num_features, self.eps, self.momentum, self.affine, self.track_running_stats)
        found.train(self.training)
        own = dict([*self.named_parameters(), *self.named_buffers()])
        for name, tensor in (*found.named_parameters(), *found.named_buffers()):
            tensor.data = own[name].detach()[int(self.row)].clone()
        return found

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self._refuse_one_for_all(state_dict, prefix)
        for name, own in (("layer_name", self.layer_name), (KEY_BITS, self.key_bits)):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and (saved.shape != own.shape or not torch.equal(saved.to(own.device), own)):
                theirs = bytes(saved.tolist()).decode() if name == "layer_name" else saved.tolist()
                ours = self.layer if name == "layer_name" else [list(key) for key in self.keys]
                raise WeightsError(
                    f"the state does not fit: {prefix.rstrip('.')} is of {ours!r} here and of {theirs!r} in the state. "
                    "Make the norms of the model switchable as they were when the state was saved."
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _refuse_one_for_all(self, state: Mapping[str, Any], prefix: str) -> None:
        """An ordinary norm's state has no rows."""
        ordinary = [state.get(prefix + name) for name in ("weight", "bias", "running_mean", "running_var")]
        if prefix + KEY_BITS not in state and any(isinstance(one, Tensor) and one.dim() == 1 for one in ordinary):
            raise WeightsError(
                f"the state does not fit: {prefix.rstrip('.')} has a row for each of {[list(k) for k in self.keys]} "
                "here, and the state has one norm for all bits. Legal: norms that were made as those of the state. "
                "Load it before mixbit.supernet.make_switchable, which copies the norm into every row."
            )


def make_switchable(model: nn.Module, example: Any, norms: NormRows = "bits") -> dict[str, str]:
    """Give the batch norm behind every layer with a choice of bits a row for each, in place.

    Which norm stands behind which layer is found once, here, by one forward pass; the norms keep it, and so does their
    state. One that is called behind several layers follows the last of them, with a warning that lists them.

    Args:
        model: with banks on.
        example: inputs of one batch.
        norms: "shared" changes nothing; "bits" gives a row a bit-width, that of the coarser side where weight and
            activation differ; "pair" one for each pair of weight and activation bits.

    Returns:
        Batch-norm name -> name of the layer, of those that were replaced.

    Raises:
        MixbitError: another word, or a norm that has no copies.
    """
    if norms not in ("shared", "bits", "pair"):
        raise MixbitError(f"norms={norms!r} is unknown. Legal: shared, bits, pair.")
    if norms == "shared":
        return {}
    layers, replaced = quantized_layers(model), dict[str, str]()
    for name, before in layers_before_norms(model, example).items():
        layer = before[-1]
        keys = _keys(layers[layer], norms) if layer in layers else []
        if len(keys) > 1:
            norm = model.get_submodule(name)
            assert isinstance(norm, _BatchNorm)
            if len(before) > 1:
                warnings.warn(
                    f"the norm {name!r} is called behind {len(before)} layers: {', '.join(before)}. Its rows follow "
                    f"the bits of the last one, {layer}. Give each layer a norm of its own, or share norms.",
                    stacklevel=2,
                )
            put_in_place(model, norm, SwitchableBatchNorm(norm, layer, keys))
            replaced[name] = layer
    return replaced


def _keys(layer: QuantizedLayer, norms: NormRows) -> list[Key]:
    """What a norm behind a layer has rows of."""
    weight, activation = _bits(layer.weight_quantizer), _bits(layer.input_quantizer)
    if norms == "pair" and weight and activation:
        return [(w, a) for w in weight for a in activation]
    return [(bits,) for bits in dict.fromkeys((*weight, *activation))]


def _bits(bank: Quantizer | None) -> tuple[int, ...]:
    return () if bank is None else bank.bits
