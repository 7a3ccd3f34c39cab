"""Whose an operation of the runtime's network is."""

from __future__ import annotations

from typing import Any

import pytest

from mixbit.export._onnxruntime_flow import Flow
from tests.needs import why

pytest.importorskip("onnx", reason=why("onnx"))
from onnx import TensorProto, helper


def flow(*nodes: tuple[str, str, list[str], str]) -> Flow:
    """Of nodes as operator, name, inputs and output."""
    made = [helper.make_node(kind, inputs, [output], name=name) for kind, name, inputs, output in nodes]
    ends: list[Any] = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", 4]) for name in ("x", nodes[-1][-1])
    ]
    return Flow(helper.make_model(helper.make_graph(made, "net", ends[:1], ends[1:])), ["first", "second", "third"])


@pytest.mark.parametrize(
    ("readers", "owner"),
    [
        (("second", "third"), "second"),
        (("third", "second"), "third"),
        (("second", "add"), "first"),  # it leads elsewhere as well: of the layer that it comes from
        (("add", "second"), "first"),
        (("add", "add"), "first"),
    ],
)
def test_what_leads_to_layers_alone_is_of_the_first_of_them(readers: tuple[str, str], owner: str) -> None:
    made = {
        "second": ("QLinearConv", "layer.1", ["clipped"]),
        "third": ("QLinearConv", "layer.2", ["clipped"]),
        "add": ("QLinearAdd", "node.5", ["clipped", "made"]),
    }
    found = flow(
        ("QLinearConv", "layer.0", ["x"], "made"),
        ("Clip", "node.1", ["made"], "clipped"),
        *((*made[reader], f"r{at}") for at, reader in enumerate(readers)),
    )
    owners = [None if reader == "add" else reader for reader in readers]
    assert [found.owner(node) for node in found.nodes] == ["first", owner, *owners]


def test_details_do_not_depend_on_the_order_in_which_a_file_has_them() -> None:
    """They are part of a kernel's name, by which times are found again."""
    weight = helper.make_tensor("w", TensorProto.INT8, [4, 2, 3, 3], [0] * 72)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 1], group=2, kernel_shape=[3, 3], auto_pad="NOTSET")
    ends = [[helper.make_tensor_value_info(name, TensorProto.UINT8, None)] for name in ("x", "y")]
    found = Flow(helper.make_model(helper.make_graph([node], "net", *ends, [weight])), [])
    turned = helper.make_node("Conv", ["x", "w"], ["y"])
    turned.attribute.extend(reversed(node.attribute))
    wanted = "4x2x3x3 group=2 kernel_shape=[3,3] strides=[2,1] "
    assert [found.details(one) for one in (node, turned)] == [wanted, wanted]
