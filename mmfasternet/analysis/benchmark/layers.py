# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates and bytes of the layers of an exported network.

OpenVINO, which reads ONNX as well and knows every shape, is asked.
"""
import math
import re
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Sequence,
    Tuple,
    Union,
)

from mmfasternet.deploy.engines import ENGINES

_MULTIPLIERS = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData',
                'GroupConvolutionBackpropData', 'MatMul')
# what an engine computes together with the layer before
_MERGED = ('Relu', 'PRelu', 'Sigmoid', 'HSigmoid', 'Tanh', 'Clamp', 'Add',
           'Multiply')
_WEIGHTS = ('f32', 'f16', 'bf16', 'i8', 'u8')
# what engines append to the name of a layer that they have changed
_SUFFIXES = re.compile(
    r'(_nchwc|_quant|/WithoutBiases|/MatMulAddFusion|_original)+$')
_MULTIPLIES = re.compile('Conv|Gemm|MatMul|FullyConnected')


class Layer(NamedTuple):
    """A layer that multiplies.

    Args:
        names (tuple[str, ...]): What it is called, its output included.
        macs (int): Multiply-accumulates of one run.
        bytes (int): Of its inputs, weights and outputs.
        kind (str): What it is, e.g. ``3x3 80->160``.
        merged (tuple[str, ...]): Outputs of what an engine may do with it.
        parameters (int): Its weights and biases.
    """

    names: Tuple[str, ...]
    macs: int
    bytes: int
    kind: str
    merged: Tuple[str, ...] = ()
    parameters: int = 0


def exported_layers(path: Union[str, Path],
                    shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    """The number of weights of an exported file, and its convolutions and
    matrix products, for an input of ``shape``, the batch in front.

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    core = ENGINES['openvino'].module.openvino_core()
    model = core.read_model(str(path))
    model.reshape(list(shape))
    count, layers = 0, []
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind == 'Constant':
            count += _weighs(op)
        elif kind in _MULTIPLIERS:
            layers.append(_layer(op, kind))
    return count, layers


def _layer(op: Any, kind: str) -> Layer:
    data, weight = (list(i.get_shape()) for i in list(op.inputs())[:2])
    out = list(op.output(0).get_shape())
    attributes = op.get_attributes()
    transposed = 'Backprop' in kind
    if kind.startswith('Group'):  # groups, out, in, kernel
        groups, *weight = weight
        weight[transposed] *= groups
    if kind == 'MatMul':
        if attributes.get('transpose_b'):
            weight[-2:] = weight[:-3:-1]
        macs = math.prod(out) * data[
            -2 if attributes.get('transpose_a') else -1]
        described = f'product {data[-1]}->{weight[-1]}'
    else:
        # weights are out, in / groups, kernel; of a transposed one in, out
        macs = math.prod(data if transposed else out) * math.prod(weight[1:])
        groups = 1 if transposed else data[1] // weight[1]
        described = f'{"x".join(map(str, weight[2:]))} {data[1]}->{out[1]}' + \
            f' in {groups} groups' * (groups > 1)
    followers = list(_followers(op))
    return Layer(
        (_SUFFIXES.sub('', op.get_friendly_name()),
         *op.output(0).get_names()), macs,
        sum(map(math.prod, (data, weight, out))) *
        op.output(0).get_element_type().size, described,
        tuple(name for follower in followers for name in (
            follower.get_friendly_name(), *follower.output(0).get_names())),
        _constant(op.input_value(1).get_node()) + _bias(followers))


def _weighs(op: Any) -> int:
    """How many weights there are in a constant."""
    port = op.output(0)
    is_weight = port.get_element_type().to_string() in _WEIGHTS and \
        len(port.get_shape())
    return math.prod(port.get_shape()) if is_weight else 0


def _constant(node: Any) -> int:
    """The weights that an input is made of, 0 if it is not constant."""
    largest, left, seen = 0, [node], set()
    while left:
        node = left.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        if node.get_type_name() == 'Parameter':
            return 0
        if node.get_type_name() == 'Constant':
            largest = max(largest, _weighs(node))
        if node.get_type_name() != 'ShapeOf':  # the shape, not what has it
            left += [value.get_node() for value in node.input_values()]
    return largest


def _bias(followers: Sequence[Any]) -> int:
    """Weights of a sum that comes first, or after a product with a number."""
    for op in followers:
        if op.get_type_name() == 'Add':
            return sum(_constant(v.get_node()) for v in op.input_values())
        if op.get_type_name() != 'Multiply':
            break
    return 0


def _followers(op: Any) -> Iterator[Any]:
    """The activations and sums that alone read a layer."""
    while True:
        readers = [i.get_node() for i in op.output(0).get_target_inputs()]
        readers = [r for r in readers if r.get_type_name() != 'ShapeOf']
        if len(readers) != 1 or readers[0].get_type_name() not in _MERGED:
            return
        op = readers[0]
        yield op


def with_macs(rows: Sequence[Dict[str, Any]],
              layers: Sequence[Layer]) -> List[Dict[str, Any]]:
    """A profile (name, kind, seconds, bytes by row) with MACs, bytes,
    parameters and shapes of the layers of the same network."""
    left = list(layers)
    found: Dict[str, Layer] = {}

    def take(row: Dict[str, Any], attribute: str, *names: str) -> None:
        if row['name'] in found or not _MULTIPLIES.search(row['kind']):
            return
        for name in names:
            for layer in left:
                if name in getattr(layer, attribute):
                    found[row['name']] = layer
                    left.remove(layer)
                    return

    # all by their own names first: what is merged may be called like another
    for attribute in ('names', 'merged'):
        for row in rows:
            name = row['name']
            take(row, attribute, name, _SUFFIXES.sub('', name))
    merged = []
    for row in rows:
        layer = found.get(row['name'])
        if layer is None:
            merged.append(dict(dict(macs=0, parameters=0), **row))
        else:
            merged.append(
                dict(row, macs=layer.macs, bytes=layer.bytes,
                     parameters=layer.parameters,
                     kind=f'{row["kind"]} {layer.kind}'))
    return merged
