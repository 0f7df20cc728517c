"""Formulas that are written for numpy, as nodes of an ONNX graph: a Trace stands where numpy would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class Node:
    """The result of a node, float32; arithmetic with it makes more nodes."""

    def __init__(self, trace: Trace, name: str) -> None:
        self.trace, self.name = trace, name

    def __add__(self, other: Node | float) -> Node:
        return self.trace.node("Add", self, other)

    def __radd__(self, other: float) -> Node:
        return self.trace.node("Add", other, self)

    def __sub__(self, other: Node | float) -> Node:
        return self.trace.node("Sub", self, other)

    def __rsub__(self, other: float) -> Node:
        return self.trace.node("Sub", other, self)

    def __mul__(self, other: Node | float) -> Node:
        return self.trace.node("Mul", self, other)

    def __rmul__(self, other: float) -> Node:
        return self.trace.node("Mul", other, self)

    def __truediv__(self, other: Node | float) -> Node:
        return self.trace.node("Div", self, other)

    def __neg__(self) -> Node:
        return self.trace.node("Neg", self)


class Trace:
    """Nodes and constants of a graph in the making; it has the functions of numpy that `specs` uses."""

    def __init__(self, name: str) -> None:
        self.name = name  # of this part of the graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: type = np.float32) -> Node:  # noqa: ANN401  (what numpy takes)
        """Return a constant."""
        from onnx import numpy_helper

        name = f"{self.name}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return Node(self, name)

    def node(self, kind: str, *operands: Node | float, name: str = "", axis: int | None = None) -> Node:
        """Return the result of a node of this kind; `name` names it, else it gets one."""
        from onnx import helper

        rows = [one if isinstance(one, Node) else self.constant(one) for one in operands]
        made = Node(self, name or f"{self.name}/value_{len(self.nodes)}")
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node(kind, [row.name for row in rows], [made.name], **attributes))
        return made

    def columns(self, value: Node, where: slice) -> Node:
        """Return some columns of a matrix."""
        bounds = (self.constant([number], np.int64) for number in (where.start, where.stop, 1))  # of axis 1
        return self.node("Slice", value, *bounds)

    def concatenate(self, values: Sequence[Node], name: str = "") -> Node:
        """Return matrices side by side."""
        return self.node("Concat", *values, name=name, axis=1)

    def minimum(self, left: Node, right: Node | float) -> Node:
        """See numpy.minimum."""
        return self.node("Min", left, right)

    def maximum(self, left: Node, right: Node | float) -> Node:
        """See numpy.maximum."""
        return self.node("Max", left, right)

    def clip(self, value: Node, low: float, high: float | None) -> Node:
        """See numpy.clip."""
        value = self.maximum(value, low)
        return value if high is None else self.minimum(value, high)

    def floor(self, value: Node) -> Node:
        """See numpy.floor."""
        return self.node("Floor", value)

    def sqrt(self, value: Node) -> Node:
        """See numpy.sqrt."""
        return self.node("Sqrt", value)
