# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates and bytes of the layers of an exported network.

OpenVINO, which reads ONNX as well and knows every shape, is asked.
"""
import math
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

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
    """A layer that multiplies."""

    names: Tuple[str, ...]  #: What it is called, its output included.
    macs: int  #: Multiply-accumulates of one run.
    bytes: int  #: Of its inputs, weights and outputs.
    kind: str  #: What it is, e.g. ``3x3 80->160``.
    merged: Tuple[str, ...]  #: Outputs of what an engine may do with it.
    parameters: int  #: Its weights and biases.


def exported_layers(path: Union[str, Path],
                    shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    """The number of weights of an exported file, and its convolutions and
    matrix products, for an input of ``shape``, the batch in front.

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    core = ENGINES['openvino'].module.openvino_core()
    from openvino.passes import ConstantFolding, Manager
    model = core.read_model(str(path))
    model.reshape(list(shape))
    total = sum(_weights_in(op) for op in model.get_ordered_ops())
    # so that what is made of constants is one, and shapes are
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return total, [_layer(op) for op in model.get_ordered_ops()
                   if op.get_type_name() in _MULTIPLIERS]


def _layer(op: Any) -> Layer:
    kind, output = op.get_type_name(), op.output(0)
    data, weight = (list(i.get_shape()) for i in list(op.inputs())[:2])
    out = list(output.get_shape())
    transposed = 'Backprop' in kind
    if kind.startswith('Group'):  # groups, out, in, kernel
        groups, *weight = weight
        weight[transposed] *= groups
    if kind == 'MatMul':
        attributes = op.get_attributes()
        for sides, name in ((data, 'transpose_a'), (weight, 'transpose_b')):
            if attributes.get(name):
                sides[-2:] = sides[:-3:-1]
        macs = math.prod(out) * data[-1]
        described = f'product {data[-1]}->{weight[-1]}'
    else:
        # weights are out, in / groups, kernel; of a transposed one in, out
        macs = math.prod(data if transposed else out) * math.prod(weight[1:])
        groups = 1 if transposed else data[1] // weight[1]
        described = f'{"x".join(map(str, weight[2:]))} {data[1]}->{out[1]}' + \
            f' in {groups} groups' * (groups > 1)
    followers = _followers(op)
    return Layer(
        (_SUFFIXES.sub('', op.get_friendly_name()), *output.get_names()), macs,
        sum(map(math.prod, (data, weight, out))) *
        output.get_element_type().size, described,
        tuple(name for follower in followers for name in (
            follower.get_friendly_name(), *follower.output(0).get_names())),
        sum(_weights_in(value.get_node()) for node in (op, *followers)
            for value in node.input_values()))


def _weights_in(op: Any) -> int:
    """How many weights there are in an operation, if it is a constant."""
    if op.get_type_name() != 'Constant':
        return 0
    port = op.output(0)
    shape = port.get_shape()
    is_weight = port.get_element_type().to_string() in _WEIGHTS and len(shape)
    return math.prod(shape) if is_weight else 0


def _followers(op: Any) -> List[Any]:
    """The activations and sums that alone read a layer."""
    found = []
    while True:
        readers = [i.get_node() for i in op.output(0).get_target_inputs()]
        if len(readers) != 1 or readers[0].get_type_name() not in _MERGED:
            return found
        op, = readers
        found.append(op)


def with_macs(rows: Sequence[Dict[str, Any]],
              layers: Sequence[Layer]) -> List[Dict[str, Any]]:
    """A profile (name, kind, seconds, bytes by row) with MACs, bytes,
    parameters and shapes of the layers of the same network."""
    left, found = list(layers), {}
    # all by their own names first: what is merged may be called like another
    for attribute in ('names', 'merged'):
        for i, row in enumerate(rows):
            names = {row['name'], _SUFFIXES.sub('', row['name'])}
            layer = next((layer for layer in left if names & {
                *getattr(layer, attribute)}), None)
            if layer and i not in found and _MULTIPLIES.search(row['kind']):
                found[i] = layer
                left.remove(layer)
    return [
        dict(row, macs=found[i].macs, bytes=found[i].bytes,
             parameters=found[i].parameters,
             kind=f'{row["kind"]} {found[i].kind}')
        if i in found else dict(dict(macs=0, parameters=0), **row)
        for i, row in enumerate(rows)
    ]
