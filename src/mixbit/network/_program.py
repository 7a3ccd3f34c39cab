"""An exported program made flat: one graph without nested blocks, and what each of its nodes stands for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from mixbit.network._ops import is_in_place, is_item, is_view, read_nodes, values
from mixbit.network._sizes import DataDependent, Sizes

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@dataclass(frozen=True, slots=True)
class Program:
    """The operators of a model in order of execution."""

    model: nn.Module
    sizes: Sizes
    calls: tuple[fx.Node, ...]
    """Nodes that call an operator."""
    inputs: tuple[fx.Node, ...]
    """Tensors that the user gives."""
    outputs: tuple[fx.Node, ...]
    """Tensors that the user gets."""
    parameters: dict[fx.Node, str]
    """Placeholder -> name in `model.named_parameters()`; tied weights have one name."""
    constants: dict[fx.Node, torch.Tensor]
    """Placeholder -> buffer or literal tensor."""
    family: dict[fx.Node, fx.Node]
    """Node -> the node whose memory and values it views (itself, if it is no view)."""
    live: frozenset[fx.Node]
    """Nodes whose values depend on the user's inputs."""
    spec: Any = None
    """Structure of what the model returns, as `torch.utils._pytree` has it."""

    def live_inputs(self, node: fx.Node) -> list[fx.Node]:
        """Families of the tensors that a node reads and that depend on the user's inputs, each once, in order."""
        read = (self.family[arg] for arg in read_nodes(node) if arg in self.live)
        return list(dict.fromkeys(read))

    def path(self, node: fx.Node) -> str:
        """Path of the innermost module whose forward called the operator; empty for the model itself."""
        return next(self.modules(node), ("", self.model))[0]

    def modules(self, node: fx.Node) -> Iterator[tuple[str, nn.Module]]:
        """Modules whose forward the operator was called in, the innermost first."""
        for path, _ in reversed(list(node.meta.get("nn_module_stack", {}).values())):
            try:
                yield path, self.model.get_submodule(path)
            except AttributeError:
                continue

    def owner(self, parameter: str) -> tuple[str, nn.Module]:
        """Path and module that a parameter belongs to."""
        path = parameter.rpartition(".")[0]
        return path, self.model.get_submodule(path)


def read_program(model: nn.Module, exported: ExportedProgram, sizes: Sizes) -> Program:
    """Flatten an exported program and name its nodes.

    Raises:
        DataDependent: it holds a branch or loop on values (torch.cond, while_loop), or a size that depends on values.
    """
    graph, env = _flat_graph(exported.graph_module)
    nodes = {node.name: env[node] for node in exported.graph.nodes if node.op == "placeholder"}
    signature = exported.graph_signature
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = {
        nodes[node]: names[id(model.get_parameter(target))] for node, target in signature.inputs_to_parameters.items()
    }
    constants = {nodes[node]: value for node, value in _constants(model, exported)}
    given = (nodes[name] for name in signature.user_inputs if name in nodes)
    inputs = tuple(node for node in given if next(values(node), None) is not None)
    calls = tuple(node for node in graph.nodes if node.op == "call_function")
    output = next(node for node in graph.nodes if node.op == "output")
    outputs = tuple(node for node in output.all_input_nodes)
    family = _families(graph)
    live = _live(calls, inputs, family)
    spec = exported.call_spec.out_spec
    return Program(model, sizes, calls, inputs, outputs, parameters, constants, family, live, spec)


def _constants(model: nn.Module, exported: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    signature = exported.graph_signature
    for name, target in signature.inputs_to_buffers.items():
        yield name, model.get_buffer(target)
    for name, target in signature.inputs_to_lifted_tensor_constants.items():
        value = exported.constants[target]
        if isinstance(value, torch.Tensor):
            yield name, value


def _flat_graph(module: fx.GraphModule) -> tuple[fx.Graph, dict[fx.Node, Any]]:
    """Copy the graph, with blocks such as `with torch.no_grad():` copied in line."""
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    result = _copy(module, graph, env)
    graph.output(result)
    return graph, env


def _copy(module: fx.GraphModule, graph: fx.Graph, env: dict[fx.Node, Any]) -> Any:
    """Copy all nodes of a module that have no value in `env` yet; returns its result in terms of the new graph."""
    for node in module.graph.nodes:
        if node.op == "output":
            return fx.node.map_arg(node.args[0], lambda n: env[n])
        if node in env:
            continue
        if is_item(node) and not isinstance(env[node.args[0]], fx.Node):
            env[node] = env[node.args[0]][node.args[1]]
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            env[node] = _inline(module, node, graph, env)
        else:
            # get_attr nodes name submodules of nested blocks; those that stay are small constant tensors.
            env[node] = graph.node_copy(node, lambda n: env[n])
    raise DataDependent("a block of the graph returns nothing")


def _inline(module: fx.GraphModule, node: fx.Node, graph: fx.Graph, env: dict[fx.Node, Any]) -> Any:
    """Copy the one block of a higher-order operator (set_grad_enabled, autocast, checkpoint) in line."""
    blocks = [(at, block) for at, arg in enumerate(node.args) if (block := _block(module, arg)) is not None]
    if len(blocks) != 1:
        raise DataDependent(f"{node.target} branches or loops on values")
    at, block = blocks[0]
    operands = [arg for arg in node.args[at + 1 :] if isinstance(arg, fx.Node)]
    places = [inner for inner in block.graph.nodes if inner.op == "placeholder"]
    return _copy(block, graph, dict(zip(places, (env[operand] for operand in operands), strict=True)))


def _block(module: fx.GraphModule, arg: object) -> fx.GraphModule | None:
    if not isinstance(arg, fx.Node) or arg.op != "get_attr":
        return None
    found = getattr(module, str(arg.target), None)
    return found if isinstance(found, fx.GraphModule) else None


def _families(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Views belong to the family of what they view, and so does a write into a view of something that is read again."""
    family: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = next(iter(node.all_input_nodes), None)
        shares = node.op == "call_function" and (is_view(node) or _item_of_view(node))
        family[node] = family[source] if shares and source is not None else node
    for node in graph.nodes:
        if node.op == "call_function" and is_in_place(node) and family[node] is node:
            base = family[node.all_input_nodes[0]]
            if base is not node.all_input_nodes[0] and _readers(graph, family, base) - {node}:
                family.update({member: base for member in graph.nodes if family[member] is node})
    return family


def _readers(graph: fx.Graph, family: dict[fx.Node, fx.Node], base: fx.Node) -> set[fx.Node]:
    """Nodes outside a family that read a member of it."""
    members = [node for node in graph.nodes if family[node] is base]
    return {user for member in members for user in member.users if family[user] is not base}


def _item_of_view(node: fx.Node) -> bool:
    return is_item(node) and isinstance(node.args[0], fx.Node) and is_view(node.args[0])


def _live(
    calls: tuple[fx.Node, ...], inputs: tuple[fx.Node, ...], family: dict[fx.Node, fx.Node]
) -> frozenset[fx.Node]:
    """All nodes that depend on the user's inputs; a second round sees what was written into a constant's memory."""
    live, before = set(inputs), -1
    families = set(inputs)
    while before != len(live):
        before = len(live)
        for node in calls:
            if any(arg in live for arg in read_nodes(node)) or family[node] in families:
                live.add(node)
                families.add(family[node])
                if is_in_place(node):
                    families.add(family[node.all_input_nodes[0]])
        live.update(node for node in families if node.op == "placeholder")
    return frozenset(live)
