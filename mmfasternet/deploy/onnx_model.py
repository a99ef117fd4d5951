# SPDX-License-Identifier: Apache-2.0
"""Networks of PyTorch as graphs of ONNX, which every engine's file is from."""
from collections import Counter
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .engines import OPSET

STRIDE = 32  # of the coarsest feature map


def to_onnx(network: nn.Module,
            images: Tensor,
            outputs: Optional[Sequence[str]] = None,
            dynamic: bool = False,
            opset: int = OPSET,
            edit: Optional[Callable[[Any], None]] = None) -> Any:
    """Export a network with the input ``images``.

    Args:
        network (nn.Module): In evaluation mode.
        images (Tensor): An input of it.
        outputs (Sequence[str], optional): Names of its outputs. Defaults to
            None: the exporter's.
        dynamic (bool): Let the batch size, and height and width in multiples
            of 32, vary. The outputs are ``(N, A, ...)`` then. Defaults to
            False.
        opset (int): Version of ONNX's operators. Defaults to 18.
        edit (callable, optional): Changes the graph in place.

    Returns:
        onnx.ModelProto: The graph, checked.

    Raises:
        ValueError: If the opset cannot be written.
    """
    import onnx
    model = torch.onnx.export(
        network, (images, ),
        dynamo=True,
        opset_version=opset,
        input_names=['images'],
        output_names=outputs,
        dynamic_shapes=_sizes() if dynamic else None,
        verbose=False).model_proto
    found = {e.version for e in model.opset_import if e.domain == ''}
    if found != {opset}:
        # its conversion to another version gives up without a word
        raise ValueError(f'opset {opset} cannot be written of this network, '
                         f'PyTorch left it at {max(found)}: ask for another, '
                         f'the usual one is {OPSET}')
    _name_layers(model)
    if dynamic:
        _name_sizes(model)
    if edit is not None:
        edit(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _sizes() -> Tuple[Dict[int, Any]]:
    """The dimensions of the input that may vary, for torch.export."""
    dim = torch.export.Dim
    return ({
        0: dim('batch', min=1),
        2: STRIDE * dim('height', min=1),
        3: STRIDE * dim('width', min=1)
    }, )


def _name_sizes(model: Any) -> None:
    """Readable names for the dimensions that vary."""
    priors = ('batch', 'priors', None)
    for value, names in ((model.graph.input[0], ('batch', None, 'height',
                                                 'width')),
                         *((output, priors) for output in model.graph.output)):
        for dim, name in zip(value.type.tensor_type.shape.dim, names):
            if name:
                dim.dim_param = name


def _name_layers(model: Any) -> None:
    """Convolutions under the names of their modules, for whoever profiles or
    quantises them."""
    names: Counter = Counter()
    for node in model.graph.node:
        if node.op_type == 'Conv':
            name = node.input[1].rpartition('.weight')[0] or node.name
            names[name] += 1  # one module may be called several times
            node.name = name + f'.{names[name]}' * (names[name] > 1)
