# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates and bytes of the layers of an exported network."""
import math
import re
from collections import defaultdict
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


class Layer(NamedTuple):
    """A layer that multiplies.

    Args:
        names (tuple[str, ...]): What it is called, its output included.
        macs (int): Multiply-accumulates of one run.
        bytes (int): Of its inputs, weights and outputs.
        kind (str): What it is, e.g. ``3x3 80->160``.
        merged (tuple[str, ...]): Outputs of what a backend may do with it.
        parameters (int): Its weights, and in ONNX its biases; OpenVINO adds
            those in a layer of their own.
    """

    names: Tuple[str, ...]
    macs: int
    bytes: int
    kind: str
    merged: Tuple[str, ...] = ()
    parameters: int = 0


def exported_layers(path: Union[str, Path],
                    shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    """What an exported file computes, by layer.

    Args:
        path (str | Path): An ``.onnx`` or OpenVINO's ``.xml``.
        shape (Sequence[int]): Of the input, with the batch in front.

    Returns:
        tuple[int, list[Layer]]: The number of weights, and the convolutions
        and matrix products.
    """
    if Path(path).suffix == '.xml':
        return _openvino_layers(path, shape)
    return _onnx_layers(path, shape)


def _onnx_layers(path: Union[str, Path],
                 shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    import onnx
    model = onnx.load(str(path))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    entry, = (i for i in model.graph.input if i.name not in weights)
    for dim, size in zip(entry.type.tensor_type.shape.dim, shape):
        dim.dim_value = size
    # what was inferred for another size would win
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, sizes = {}, {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        shapes[info.name] = [d.dim_value for d in kind.shape.dim]
        sizes[info.name] = _item_size(kind.elem_type)
    for name, tensor in weights.items():
        shapes[name] = list(tensor.dims)
        sizes[name] = _item_size(tensor.data_type)
    readers = defaultdict(list)
    # constants, also where they are stored as integers
    constants = {*weights, *(
        node.output[0] for node in graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] in weights)}
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    layers = []
    for node in graph.node:
        reads = _ONNX_OPERANDS.get(node.op_type)
        if reads is None:
            continue
        data, weight = (node.input[i] for i in reads)
        bias = node.input[8 if node.op_type == 'QLinearConv' else 2:][:1]
        out = node.output[0]
        attributes = {a.name: a for a in node.attribute}
        macs = _onnx_macs(node.op_type, shapes[data], shapes[weight],
                          shapes[out], 'transA' in attributes
                          and attributes['transA'].i)
        layers.append(
            Layer((node.name, out), macs,
                  sum(math.prod(shapes[t]) * sizes[t]
                      for t in (data, weight, out)),
                  _kind(node.op_type, shapes[weight], shapes[data]),
                  tuple(_followers(out, readers)),
                  sum(math.prod(shapes[t]) for t in (weight, *bias)
                      if t in constants)))
    count = sum(math.prod(t.dims) for t in weights.values()
                if t.data_type in _WEIGHT_TYPES and t.dims)
    return count, layers


def _followers(output: str, readers: Dict[str, list]) -> Iterator[str]:
    """Outputs of the activations and sums that alone read a layer."""
    while len(readers[output]) == 1 and \
            readers[output][0].op_type in _MERGED:
        output = readers[output][0].output[0]
        yield output


_MERGED = ('Relu', 'LeakyRelu', 'Sigmoid', 'HardSigmoid', 'Tanh', 'Clip',
           'Add', 'BatchNormalization')
# of each operator the positions of data and weight
_ONNX_OPERANDS = dict(
    Conv=(0, 1), ConvTranspose=(0, 1), Gemm=(0, 1), MatMul=(0, 1),
    ConvInteger=(0, 1), MatMulInteger=(0, 1), QLinearConv=(0, 3),
    QLinearMatMul=(0, 3))
_WEIGHT_TYPES = (1, 2, 3, 10, 11, 16)  # floats and 8-bit integers


def _item_size(elem_type: int) -> int:
    import onnx
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    except KeyError:  # shape inference does not know it
        return 4


def _onnx_macs(operator: str, data: List[int], weight: List[int],
               out: List[int], transposed: int) -> int:
    if operator == 'ConvTranspose':
        return math.prod(data) * math.prod(weight[1:])
    if 'Conv' in operator:
        return math.prod(out) * math.prod(weight[1:])
    return math.prod(out) * data[-2 if transposed else -1]


def _kind(operator: str, weight: Sequence[int], data: Sequence[int]) -> str:
    if 'Conv' not in operator:
        return f'product {data[-1]}->{weight[-1]}'
    groups = data[1] // weight[1] if operator != 'ConvTranspose' else 1
    kernel = 'x'.join(map(str, weight[2:]))
    grouped = f' in {groups} groups' if groups > 1 else ''
    return f'{kernel} {data[1]}->{weight[0]}{grouped}'


def _openvino_layers(path: Union[str, Path],
                     shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    import openvino
    model = openvino.Core().read_model(str(path))
    model.reshape(list(shape))
    count, layers = 0, []
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind == 'Constant':
            port = op.output(0)
            if str(port.get_element_type()) in _OPENVINO_WEIGHTS and \
                    len(port.get_shape()):
                count += math.prod(port.get_shape())
        if kind not in ('Convolution', 'GroupConvolution', 'MatMul',
                        'ConvolutionBackpropData'):
            continue
        data, weight = (list(i.get_shape()) for i in list(op.inputs())[:2])
        out = list(op.output(0).get_shape())
        if kind == 'GroupConvolution':  # groups, out, in, kernel
            weight = [weight[0] * weight[1], *weight[2:]]
        if kind == 'MatMul':
            attributes = op.get_attributes()
            if attributes.get('transpose_b'):
                weight[-2:] = weight[:-3:-1]
            macs = math.prod(out) * data[
                -2 if attributes.get('transpose_a') else -1]
        else:
            macs = _onnx_macs(
                'ConvTranspose' if 'Backprop' in kind else 'Conv', data,
                weight, out, 0)
        size = math.prod(data) + math.prod(weight) + math.prod(out)
        source = op.input_value(1).get_node()
        while source.get_input_size():  # a constant may be converted
            source = source.input_value(0).get_node()
        constant = source.get_type_name() == 'Constant'
        layers.append(
            Layer((op.get_friendly_name(), ), macs,
                  size * op.output(0).get_element_type().size,
                  _kind('ConvTranspose' if 'Backprop' in kind else kind,
                        weight, data),
                  parameters=constant * math.prod(weight)))
    return count, layers


_OPENVINO_WEIGHTS = {
    f"<Type: '{name}'>"
    for name in ('float32', 'float16', 'bfloat16', 'int8_t', 'uint8_t')
}


# what backends append to the name of a layer that they have changed
_SUFFIXES = re.compile(
    r'(_nchwc|_quant|/WithoutBiases|/MatMulAddFusion|_original)+$')
_MULTIPLIES = re.compile('Conv|Gemm|MatMul|FullyConnected')


def with_macs(rows: Sequence[Dict[str, Any]],
              layers: Sequence[Layer]) -> List[Dict[str, Any]]:
    """A profile with MACs, bytes, parameters and shapes of its layers.

    Args:
        rows (Sequence[dict]): Of a backend: name, kind, seconds, bytes.
        layers (Sequence[Layer]): Of the same network.
    """
    left = {name: layer for layer in layers for name in layer.names if name}
    found = {}
    for row in rows:
        name = row['name'] if row['name'] in left else _SUFFIXES.sub(
            '', row['name'])
        if name in left and _MULTIPLIES.search(row['kind']):
            found[row['name']] = layer = left[name]
            left = {k: v for k, v in left.items() if v is not layer}
    for row in rows:
        if row['name'] not in found and _MULTIPLIES.search(row['kind']):
            name = _SUFFIXES.sub('', row['name'])
            layer = next((v for v in left.values() if name in v.merged), None)
            if layer:
                found[row['name']] = layer
                left = {k: v for k, v in left.items() if v is not layer}
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
