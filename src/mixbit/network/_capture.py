"""The entry: a model and example inputs in, a `Network` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from mixbit.errors import CaptureError
from mixbit.network._records import Layer, Network, Skipped

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from mixbit.network._inputs import Inputs
    from mixbit.network._layers import Found, LayerFinder
    from mixbit.network._names import Names
    from mixbit.network._program import Program
    from mixbit.network._tensors import Schedule

ExampleInputs: TypeAlias = Union["torch.Tensor", tuple[Any, ...], list[Any], Mapping[str, Any]]
"""A tensor, positional arguments as a tuple, or keyword arguments as a mapping; the batch is the first dimension."""


def capture(model: nn.Module, example_inputs: ExampleInputs) -> Network:
    """Learn a model's layers, MACs, shapes and shared tensors from one example, without running it.

    The model is traced by torch.export (non-strict) in evaluation mode; it is not copied and comes back as it was:
    training flags, parameters, gradients, buffers. All figures are those of one sample.

    A model whose branches, loops or shapes depend on values has no one graph. It is run once on the example instead:
    layers and MACs are right for it, every layer reads a tensor of its own, and `Network.skipped` says so in its first
    entry.

    Args:
        model: any module; parameters may be on any device, the example on the same one.
        example_inputs: see `ExampleInputs`; one sample is enough, e.g. `torch.randn(1, 3, 224, 224)`. Its values matter
            only in this: if some are positive and none is negative, the first layer's input counts as unsigned.

    Raises:
        CaptureError: not a module, inputs that the model does not accept, outputs without a tensor, or code that
            torch.export cannot follow; the message names the line of the model's code.

    A 3x3 convolution from 3 to 8 channels at 6x6, padded, takes 6 * 6 * 8 * 3 * 9 = 7776 MACs:

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    >>> network = capture(net, torch.randn(1, 3, 6, 6))
    >>> [(layer.name, layer.macs, layer.input_signed) for layer in network.layers]
    [('0', 7776, True), ('3', 2880, False)]
    >>> [tensor.name for tensor in network.tensors]
    ['input', '0', '3']
    """
    from mixbit._batch import as_arguments
    from mixbit.network._errors import cannot_export, running
    from mixbit.network._hooks import observe
    from mixbit.network._inputs import read_inputs
    from mixbit.network._sizes import DataDependent
    from mixbit.network.program import Unfollowable, evaluating, follow, is_data_dependent

    _check_model(model)
    inputs = read_inputs(as_arguments(model, example_inputs))
    with evaluating(model):
        try:
            return _assemble(follow(model, inputs), inputs)
        except (DataDependent, Unfollowable) as error:
            with running(model, inputs):
                model(*inputs.args, **inputs.kwargs)
            if is_data_dependent(error):
                return observe(model, inputs)
            raise cannot_export(model, error.__cause__ or error) from error


def _check_model(model: object) -> None:
    from torch import nn

    if not isinstance(model, nn.Module):
        hint = " Call the class first: Model()." if isinstance(model, type) else ""
        raise CaptureError(f"model is {model!r}, legal is an instance of torch.nn.Module.{hint}")
    wrapped = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    name = type(model).__name__
    if name in wrapped:
        raise CaptureError(f"model is a {name}, legal is the model inside it. Capture model.{wrapped[name]}.")
    for parameter, value in model.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise CaptureError(f"parameter {parameter!r} has no shape yet. Run the model once, then capture it.")


def _assemble(program: Program, inputs: Inputs) -> Network:
    from mixbit.network._floats import float_parameters
    from mixbit.network._joins import find_joins
    from mixbit.network._layers import LayerFinder
    from mixbit.network._macs import macs
    from mixbit.network._names import Names
    from mixbit.network._signs import can_be_negative, example_negative
    from mixbit.network._tensors import Schedule

    if not program.outputs:
        raise CaptureError(
            "the model returns no tensor that depends on its inputs (None, or numbers alone). Legal: a tensor, or a "
            "tuple, list or dict of tensors."
        )
    finder = LayerFinder(program)
    nodes = {node: found.name for node, found in finder.layers.items()}
    names = Names(program, nodes.values())
    schedule = Schedule(program, nodes, names)
    signed = can_be_negative(program, dict(zip(program.inputs, map(example_negative, inputs.tensors()), strict=True)))
    counts = {node: macs(node, program.sizes) for node in program.calls}
    layers = tuple(
        _layer(program, node, found, counts[node], schedule, signed[found.source])
        for node, found in finder.layers.items()
    )
    return Network(
        layers=layers,
        tensors=schedule.tensors(),
        steps=tuple(schedule.steps),
        joins=tuple(find_joins(program, nodes, schedule)),
        skipped=tuple(_skipped(program, finder, names, counts)),
        other_macs=sum(counts.values()) - sum(layer.macs for layer in layers),
        float_parameters=tuple(float_parameters(program, finder, counts)),
    )


def _layer(program: Program, node: fx.Node, found: Found, exact: int, schedule: Schedule, input_signed: bool) -> Layer:
    from mixbit.network._layers import groups, result
    from mixbit.network._macs import limpq_macs

    return Layer(
        name=found.name,
        kind=found.kind,
        parameter=found.parameter,
        weight_shape=tuple(program.model.get_parameter(found.parameter).shape),
        groups=groups(node),
        macs=exact,
        macs_limpq=limpq_macs(node, program.sizes, exact),
        input_shape=program.sizes.sample(result(found.source)),
        output_shape=program.sizes.sample(result(node)),
        input_tensor=schedule.buffer(found.source),
        output_tensor=schedule.buffer(node),
        input_signed=input_signed,
    )


def _skipped(program: Program, finder: LayerFinder, names: Names, counts: dict[fx.Node, int]) -> list[Skipped]:
    """One entry a name; the MACs of an operator are told once."""
    from mixbit.network._macs import is_unknown
    from mixbit.network._ops import op_name

    entries: dict[str, Skipped] = {}
    told: set[fx.Node] = set(finder.layers)
    for name, reason, products in finder.left_out():
        count = sum(counts[node] for node in products if node not in told)
        told.update(products)
        entries.setdefault(name, Skipped(name=name, reason=reason, macs=count))
    for node, reason in finder.loose():
        if node not in told:
            name = names.of(node)
            entries[name] = Skipped(name=name, reason=reason, macs=counts[node])
    for node in program.calls:
        if is_unknown(node):
            reason = f"{node.target} is no operator of PyTorch: its MACs are not counted"
            entries[names.of(node)] = Skipped(name=names.of(node), reason=f"{reason} ({op_name(node)})")
    return list(entries.values())
