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

# of each operator of ONNX that multiplies the positions of data and weight
_ONNX_OPERANDS = dict(
    Conv=(0, 1), ConvTranspose=(0, 1), Gemm=(0, 1), MatMul=(0, 1),
    ConvInteger=(0, 1), MatMulInteger=(0, 1), QLinearConv=(0, 3),
    QLinearMatMul=(0, 3))
# what an engine computes together with the layer before
_ONNX_MERGED = ('Relu', 'LeakyRelu', 'Sigmoid', 'HardSigmoid', 'Tanh', 'Clip',
                'Add', 'BatchNormalization')
_ONNX_WEIGHTS = (1, 2, 3, 10, 11, 16)  # floats and 8-bit integers
# the same operators of OpenVINO, by the names that ONNX has for them
_OPENVINO_OPERATORS = dict(
    Convolution='Conv', GroupConvolution='Conv', MatMul='MatMul',
    ConvolutionBackpropData='ConvTranspose')
_OPENVINO_WEIGHTS = ('f32', 'f16', 'bf16', 'i8', 'u8')
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
    """The number of weights of an exported file, and its convolutions and
    matrix products, for an input of ``shape``, the batch in front."""
    read = _openvino_layers if Path(path).suffix == '.xml' else _onnx_layers
    return read(path, shape)


def _macs(operator: str, data: Sequence[int], weight: Sequence[int],
          out: Sequence[int], transposed: bool) -> int:
    if operator == 'ConvTranspose':
        return math.prod(data) * math.prod(weight[1:])
    if 'Conv' in operator:
        return math.prod(out) * math.prod(weight[1:])
    return math.prod(out) * data[-2 if transposed else -1]


def _kind(operator: str, data: Sequence[int], weight: Sequence[int]) -> str:
    if 'Conv' not in operator:
        return f'product {data[-1]}->{weight[-1]}'
    groups = data[1] // weight[1] if operator != 'ConvTranspose' else 1
    kernel = 'x'.join(map(str, weight[2:]))
    grouped = f' in {groups} groups' if groups > 1 else ''
    return f'{kernel} {data[1]}->{weight[0]}{grouped}'


def _onnx_layers(path: Union[str, Path],
                 shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    import onnx
    graph = onnx.load(str(path)).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    shapes, sizes = _onnx_shapes(path, shape)
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    # constants, also where they are stored as integers
    constants = {*weights, *(
        node.output[0] for node in graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] in weights)}
    layers = []
    for node in graph.node:
        if node.op_type not in _ONNX_OPERANDS:
            continue
        data, weight = (node.input[i] for i in _ONNX_OPERANDS[node.op_type])
        bias = node.input[8 if node.op_type == 'QLinearConv' else 2:][:1]
        out = node.output[0]
        transposed = any(a.name == 'transA' and a.i for a in node.attribute)
        layers.append(
            Layer((node.name, out),
                  _macs(node.op_type, shapes[data], shapes[weight],
                        shapes[out], transposed),
                  sum(math.prod(shapes[t]) * sizes[t]
                      for t in (data, weight, out)),
                  _kind(node.op_type, shapes[data], shapes[weight]),
                  tuple(_followers(out, readers)),
                  sum(math.prod(shapes[t]) for t in (weight, *bias)
                      if t in constants)))
    return sum(math.prod(t.dims) for t in weights.values()
               if t.data_type in _ONNX_WEIGHTS and t.dims), layers


def _onnx_shapes(path: Union[str, Path], shape: Sequence[int]
                 ) -> Tuple[Dict[str, List[int]], Dict[str, int]]:
    """Shape, and bytes of an item, of every tensor by its name."""
    import onnx
    model = onnx.load(str(path))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    entry, = (i for i in model.graph.input if i.name not in weights)
    for dim, size in zip(entry.type.tensor_type.shape.dim, shape):
        dim.dim_value = size
    # what was inferred for another size would win
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, kinds = {}, {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        shapes[info.name] = [d.dim_value for d in tensor.shape.dim]
        kinds[info.name] = tensor.elem_type
    for name, tensor in weights.items():
        shapes[name], kinds[name] = list(tensor.dims), tensor.data_type

    def size(kind: int) -> int:
        try:
            return onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        except KeyError:  # shape inference does not know it
            return 4

    return shapes, {name: size(kind) for name, kind in kinds.items()}


def _followers(output: str, readers: Dict[str, list]) -> Iterator[str]:
    """Outputs of the activations and sums that alone read a layer."""
    while len(readers[output]) == 1 and \
            readers[output][0].op_type in _ONNX_MERGED:
        output = readers[output][0].output[0]
        yield output


def _openvino_layers(path: Union[str, Path],
                     shape: Sequence[int]) -> Tuple[int, List[Layer]]:
    from mmfasternet.deploy.engines.openvino import openvino_core
    model = openvino_core().read_model(str(path))
    model.reshape(list(shape))
    count, layers = 0, []
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        operator = _OPENVINO_OPERATORS.get(kind)
        if operator is None and kind != 'Constant':
            continue
        out = list(op.output(0).get_shape())
        element = op.output(0).get_element_type()
        if operator is None:
            weighs = out and element.to_string() in _OPENVINO_WEIGHTS
            count += math.prod(out) if weighs else 0
            continue
        data, weight = (list(i.get_shape()) for i in list(op.inputs())[:2])
        attributes = op.get_attributes()
        if kind == 'GroupConvolution':  # groups, out, in, kernel
            weight = [weight[0] * weight[1], *weight[2:]]
        if attributes.get('transpose_b'):
            weight[-2:] = weight[:-3:-1]
        source = op.input_value(1).get_node()
        while source.get_input_size():  # a constant may be converted
            source = source.input_value(0).get_node()
        layers.append(
            Layer((op.get_friendly_name(), ),
                  _macs(operator, data, weight, out,
                        attributes.get('transpose_a')),
                  sum(map(math.prod, (data, weight, out))) * element.size,
                  _kind(operator, data, weight),
                  parameters=(source.get_type_name() == 'Constant') *
                  math.prod(weight)))
    return count, layers


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
