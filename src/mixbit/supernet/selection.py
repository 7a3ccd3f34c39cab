"""Which bits a network of many bit-widths uses: one call moves the banks of quantizers and the norms behind layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError, did_you_mean, shown
from mixbit.quantization import quantized_layers
from mixbit.quantization.norms import take_off_rows
from mixbit.quantizers import Quantizer, SampleRows
from mixbit.supernet.norms import SwitchableBatchNorm

__all__ = ["Mixture", "PerLayer", "PerSample", "Selection", "Uniform", "select", "settle"]


@dataclass(frozen=True, slots=True)
class Uniform:
    """One bit-width for all layers that have a choice; what has none, as pinned layers, stays at what it has.

    >>> Uniform(4)
    Uniform(weight_bits=4, activation_bits=None)
    """

    weight_bits: int
    activation_bits: int | None = None
    """None: those of the weights."""


@dataclass(frozen=True, slots=True)
class PerLayer:
    """Each named layer its own bits, as a policy has them; a side that is None, and a layer without a name, stay."""

    bits: Mapping[str, LayerBits]


@dataclass(frozen=True, slots=True, eq=False)
class PerSample:
    """Each sample of the coming batches its own bits in each named layer.

    A batch is then quantized by one call a layer for its activations, and the layer itself runs once for each
    weight bit-width that occurs, as norms do for each row. Samples of equal bits beside each other spare copies.
    """

    layers: Sequence[str]
    bits: Tensor
    """`(N, L)` for weights and activations alike, or `(N, L, 2)`: weight bits, activation bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Each named layer the weighted sum of all its bit-widths; gradients reach the probabilities."""

    probabilities: Mapping[str, tuple[Tensor | None, Tensor | None]]
    """Layer -> `(n,)` of the weight's bit-widths and of the activation's, in the order of the banks; None stays. One
    number more, at the end, is the share of the tensor as it is, in float."""
    latents: Mapping[str, Tensor] | None = None
    """Layer -> `(n, *shape)`: a weight of its own for each bit-width; gradients reach them. None shares the layer's."""


Selection: TypeAlias = Uniform | PerLayer | PerSample | Mixture


def select(model: nn.Module, selection: Selection | int | Mapping[str, LayerBits]) -> None:
    """Put bits into use in banks and norms; no module is rebuilt, and a compiled network is not compiled again.

    What ran before keeps the bits that it ran with: one backward may go through passes under several selections. A
    compiled network keeps the selection itself for its backward, so there call `backward()` before the next `select`;
    PyTorch says that a tensor was modified in place otherwise.

    Args:
        model: with quantizers on, and with switchable norms or without.
        selection: see the four kinds; a whole number is short for `Uniform`, a mapping (a policy's `layers`) for
            `PerLayer`.

    Raises:
        MixbitError: a layer without a bank, bits that a bank or a norm lacks, or a shape that does not fit. Nothing was
            moved then.

    >>> from mixbit.network import capture
    >>> from mixbit.quantization import attach
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> network = capture(model, torch.zeros(2, 4))
    >>> _ = attach(model, network, {"0": ([2, 4], [2, 4]), "2": ([8], [8])})
    >>> select(model, 4)
    >>> [bank.selected for bank in (model[0].weight_quantizer, model[2].weight_quantizer)]
    [4, 8]
    """
    wanted = selection
    if isinstance(selection, int):
        wanted = Uniform(selection)
    elif isinstance(selection, Mapping):
        wanted = PerLayer(selection)
    places = _places(model)
    if isinstance(wanted, Uniform):
        moves = list(_uniform(places, wanted))
    elif isinstance(wanted, PerLayer):
        moves = list(_per_layer(places, wanted))
    elif isinstance(wanted, PerSample):
        return _select_samples(places, wanted)
    elif isinstance(wanted, Mixture):
        return _mix(places, wanted)
    else:
        raise MixbitError(
            f"{type(selection).__name__} is no selection. Legal: Uniform, PerLayer, PerSample, Mixture, a bit-width, "
            "or a policy's layers."
        )
    for part, row in moves:  # found first, all of them, so that a mistake moves nothing
        part.use_row(row)


@dataclass(frozen=True, slots=True)
class _Place:
    """A layer with its banks, and the norms behind it."""

    name: str
    weight: Quantizer | None
    inputs: Quantizer | None
    norms: tuple[SwitchableBatchNorm, ...]

    def moves(self, weight_bits: int | None, activation_bits: int | None) -> Iterator[tuple[_Part, int]]:
        """What is to be moved for these bits; None leaves a side as it is."""
        for bank, bits in ((self.weight, weight_bits), (self.inputs, activation_bits)):
            if bits is not None:
                yield self.bank(bank), self.row(bank, bits)
        if self.norms:
            now = (self.now(self.weight, weight_bits), self.now(self.inputs, activation_bits))
            yield from ((norm, norm.row_of(*now)) for norm in self.norms)

    def now(self, bank: Quantizer | None, bits: int | None) -> int | None:
        """The bits that a side will have, for the norms."""
        if bits is not None or bank is None:
            return bits
        if bank.rows is not None or bank.mixture is not None:
            raise MixbitError(
                f"layer {self.name!r} has several bits in use at once on the side that is to stay, and norms behind it "
                "that need to know one. Give both sides their bits."
            )
        return bank.selected

    def bank(self, bank: Quantizer | None) -> Quantizer:
        if bank is None:
            raise MixbitError(f"layer {self.name!r} has no quantizer on that side: it stays in float. Leave it out.")
        return bank

    def row(self, bank: Quantizer | None, bits: int) -> int:
        own = self.bank(bank)
        if bits not in own.bits:
            raise MixbitError(f"layer {self.name!r} has no {bits} bits. Legal: {', '.join(map(str, own.bits))}.")
        return own.row_of(bits)


_Part: TypeAlias = Quantizer | SwitchableBatchNorm


def _places(model: nn.Module) -> dict[str, _Place]:
    """Layer -> its banks and norms; found once a model, since a walk over all modules costs more than the switch."""
    known = _KNOWN.get(model)
    if known is not None and known.stands():
        return known.places
    layers = quantized_layers(model)
    if not layers:
        raise MixbitError("the model carries no quantizers. Call mixbit.quantize, or attach banks, first.")
    norms: dict[str, list[SwitchableBatchNorm]] = {}
    for path, module in model.named_modules():
        if isinstance(module, SwitchableBatchNorm):
            norms.setdefault(_layer_before(path, module, layers), []).append(module)
    places = {
        name: _Place(name, layer.weight_quantizer, layer.input_quantizer, tuple(norms.get(name, ())))
        for name, layer in layers.items()
    }
    _KNOWN[model] = _Found(places, tuple(_children(model)))
    return places


def _layer_before(path: str, norm: SwitchableBatchNorm, layers: Mapping[str, object]) -> str:
    """The layer of a norm, which knows its name in the model of `make_switchable`; that may be a part of this one."""
    parts = path.split(".")
    for length in range(len(parts)):
        name = ".".join([*parts[:length], norm.layer])
        if name in layers:
            return name
    raise MixbitError(
        f"the norm {path!r} stands behind layer {norm.layer!r}, which carries no quantizers here. Legal: the model "
        "that was given to make_switchable, or one around it; a part of it has norms without their layers."
    )


_Child: TypeAlias = tuple[Mapping[str, nn.Module | None], str, nn.Module | None, type]


@dataclass(frozen=True, slots=True)
class _Found:
    """What a walk found, and the children of all modules then: they tell whether the model is still the same."""

    places: dict[str, _Place]
    children: tuple[_Child, ...]

    def stands(self) -> bool:
        """Whether every module has the children, of the classes, that it had."""
        return all(own.get(name) is child and child.__class__ is kind for own, name, child, kind in self.children)


_KNOWN: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()
"""What was found of models that live: beside them, so that they are copied and saved as they were."""


def _children(model: nn.Module) -> Iterator[_Child]:
    for module in model.modules():
        for name, child in module._modules.items():
            yield module._modules, name, child, child.__class__


def _uniform(places: Mapping[str, _Place], wanted: Uniform) -> Iterator[tuple[_Part, int]]:
    weight = wanted.weight_bits
    activation = weight if wanted.activation_bits is None else wanted.activation_bits
    for place in places.values():
        yield from place.moves(_choice(place.weight, weight), _choice(place.inputs, activation))


def _choice(bank: Quantizer | None, bits: int) -> int | None:
    """The bits for a bank that has a choice, and the only ones of another: no samples of an older batch stay in it."""
    return None if bank is None else bits if len(bank.bits) > 1 else bank.bits[0]


def _per_layer(places: Mapping[str, _Place], wanted: PerLayer) -> Iterator[tuple[_Part, int]]:
    _check_names(places, wanted.bits)
    for name, bits in wanted.bits.items():
        if not isinstance(bits, LayerBits):
            raise MixbitError(f"layer {name!r}: {bits!r} are no bits. Legal: LayerBits(weight_bits, activation_bits).")
        yield from places[name].moves(bits.weight_bits, bits.activation_bits)


def _check_names(places: Mapping[str, _Place], names: Mapping[str, object] | Sequence[str]) -> None:
    for name in names:
        if name not in places:
            hint = did_you_mean(name, places)
            raise MixbitError(f"layer {name!r} carries no quantizers here.{hint} Legal: {', '.join(places)}.")


def _select_samples(places: Mapping[str, _Place], wanted: PerSample) -> None:
    _check_names(places, wanted.layers)
    bits = _each_side(wanted)
    known: dict[tuple[int, ...], SampleRows] = {}  # layers of equal bits share what is found of them
    moves = [
        move
        for at, name in enumerate(wanted.layers)
        for move in _sample_moves(places[name], bits[:, at].tolist(), known)
    ]
    for part, rows in moves:
        part.select_samples(rows)


def _each_side(wanted: PerSample) -> Tensor:
    """`(N, L, 2)`: weight bits, activation bits."""
    given, count = wanted.bits, len(wanted.layers)
    twice = [name for at, name in enumerate(wanted.layers) if name in wanted.layers[:at]]
    if twice:
        raise MixbitError(f"layer {twice[0]!r} is named twice. Legal: each layer once.")
    if isinstance(given, Tensor):
        bits = given if given.dim() == 3 else given.unsqueeze(-1).expand(*given.shape, 2)
        whole = not (bits.is_floating_point() or bits.is_complex() or bits.dtype is torch.bool)
        if bits.dim() == 3 and bits.shape[1:] == (count, 2) and len(bits) and whole:
            return bits
    what = f"shape {tuple(given.shape)} and dtype {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
    raise MixbitError(
        f"bits of {what} for {count} layers. "
        f"Legal: whole numbers (N, {count}) or (N, {count}, 2) in a tensor, N at least 1."
    )


def _sample_moves(
    place: _Place, pairs: list[list[int]], known: dict[tuple[int, ...], SampleRows]
) -> Iterator[tuple[_Part, SampleRows]]:
    """What is to be moved for the bits of each sample in one layer."""

    def shared(rows: list[int]) -> SampleRows:
        key = tuple(rows)
        if key not in known:
            known[key] = SampleRows.of(torch.tensor(rows))
        return known[key]

    for side, bank in enumerate((place.weight, place.inputs)):
        yield place.bank(bank), shared([place.row(bank, pair[side]) for pair in pairs])
    for norm in place.norms:
        yield norm, shared([norm.row_of(*pair) for pair in pairs])


def _mix(places: Mapping[str, _Place], wanted: Mixture) -> None:
    _check_names(places, wanted.probabilities)
    _check_names(places, wanted.latents or {})
    moves = []
    for name, sides in wanted.probabilities.items():
        place = places[name]
        if place.norms:
            raise MixbitError(
                f"layer {name!r} has norms a bit-width behind it, of which no mixture is made. Share the norms: "
                'make_switchable(..., norms="shared").'
            )
        if not isinstance(sides, tuple) or len(sides) != 2 or not all(isinstance(p, Tensor | None) for p in sides):
            raise MixbitError(
                f"layer {name!r}: {shown(sides)} are no probabilities. Legal: a pair of tensors, for the weight's "
                "bit-widths and the activation's, or None in the place of one that stays."
            )
        latents = None if wanted.latents is None else wanted.latents.get(name)
        each = zip((place.weight, place.inputs), sides, (latents, None), strict=True)
        for bank, probabilities, own in each:
            if probabilities is not None:
                problem = place.bank(bank).unmixable(probabilities, own)
                if problem is not None:
                    raise MixbitError(f"layer {name!r}: {problem}")
                moves.append((place.bank(bank), probabilities, own))
    for bank, probabilities, own in moves:
        bank.mix(probabilities, own)


def settle(model: nn.Module) -> None:
    """Make a network of one bit-width a layer of what is selected, in place: plain norms, and banks of one row.

    It is then evaluated, trained, exported and stressed as any other quantized network.

    Raises:
        MixbitError: bits are selected a sample, or mixed.
    """
    places = _places(model)
    for place in places.values():
        banks = [b for b in (place.weight, place.inputs) if b is not None]
        if any(bank.rows is not None or bank.mixture is not None for bank in banks):
            raise MixbitError(f"layer {place.name!r} has several bits in use at once. Select one a layer first.")
    take_off_rows(model)
    for place in places.values():
        for bank in (place.weight, place.inputs):
            if bank is not None:
                bank.keep_row()
    _KNOWN.pop(model, None)
