# SPDX-License-Identifier: GPL-3.0-only
"""Deployed detectors as files of ONNX, OpenVINO, TorchScript, torch.export."""
import logging
import os
import tempfile
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from mmfasternet.checkpoint import save_checkpoint

from .backends import (
    KEY,
    DeployInfo,
    PyTorchBackend,
    load_backend,
    openvino_core,
    require_package,
)
from .fold import DeployedDetector

OPSET = 18  # the first of PyTorch's exporter, read by every runtime here
SUFFIXES = ('.onnx', '.xml', '.torchscript', '.pt2', '.pth')
INPUT = 'images'
OUTPUTS = ('boxes', 'scores')
# those of mmyolo's easydeploy
NMS_OUTPUTS = ('num_dets', 'boxes', 'scores', 'labels')
# an update in place; PConv as published exports to hundreds of these
FORBIDDEN = ('ScatterND', 'ScatterElements')
TOLERANCE = 1e-4  # of the greatest coordinate or score, fp32; seen: 5e-6
STRIDE = 32


def export(deployed: DeployedDetector,
           info: DeployInfo,
           path: Union[str, Path],
           shape: Optional[Sequence[int]] = None,
           batch_size: int = 1,
           dynamic: bool = False,
           nms: bool = False,
           opset: int = OPSET) -> DeployInfo:
    """Write a deployed detector to a file, which is complete or not there.

    Args:
        deployed (DeployedDetector): See :func:`.fold.deploy_form`.
        info (DeployInfo): About it.
        path (str | Path): The name decides on the format: ``.onnx``, ``.xml``
            (OpenVINO, with a ``.bin`` beside it), ``.torchscript``, ``.pt2``
            (torch.export), or ``.pth`` (a checkpoint of the deploy form).
        shape (Sequence[int], optional): Height and width of the input.
            Defaults to None, those of ``info.img_scale``.
        batch_size (int): Images per run. Defaults to 1.
        dynamic (bool): Let batch size, height and width vary instead; the
            sizes in multiples of 32. Defaults to False.
        nms (bool): End with NMS, for ``.onnx`` and ``.xml``. Defaults to
            False.
        opset (int): Version of ONNX's operators. Defaults to 18.

    Returns:
        DeployInfo: What was written into the file.

    Raises:
        ValueError: If the format is not known or cannot do what is asked.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f'{path} must end in one of {", ".join(SUFFIXES)}')
    if nms and path.suffix not in ('.onnx', '.xml'):
        raise ValueError(f'NMS can be part of .onnx and .xml, not of {path}')
    height, width = shape or info.img_scale[::-1]
    if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
        raise ValueError('height and width must be multiples of '
                         f'{STRIDE}, got {height} {width}')
    if batch_size < 1:
        raise ValueError(f'the batch size must be positive, got {batch_size}')
    fixed = (None, None, None) if dynamic else (batch_size, height, width)
    if not dynamic:
        info = replace(info, img_scale=(width, height))
    info = replace(info, nms=nms, shape=fixed)
    if path.suffix == '.pth':
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {KEY: info.dumps(), 'dataset_meta': dict(classes=info.classes)}
        save_checkpoint(
            dict(state_dict=deployed.state_dict(), meta=meta), path)
        return info
    # two at least, or torch.export takes a dimension for a constant
    images = torch.randint(
        256, (max(batch_size, 2) if dynamic else batch_size, 3, height, width),
        dtype=torch.uint8)
    writers = {
        '.onnx': _write_onnx,
        '.xml': _write_openvino,
        '.torchscript': _write_torchscript,
        '.pt2': _write_program
    }
    with written_whole(path) as part, quiet('torch.onnx', 'torch.export'):
        writers[path.suffix](deployed, info, images, part, opset)
    return info


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file, and what belongs to it, that is complete or not there.

    Args:
        path (Path): Where it is to be; the folder is made.

    Yields:
        Path: Where to write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        yield Path(folder) / path.name
        # the .bin before the .xml that needs it
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, path.parent / file.name)


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Exporters and quantisers warn of what does not matter here.

    Args:
        *names (str): Their loggers; the root logger is one ``''``.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _sizes(info: DeployInfo) -> Optional[Tuple[Dict[int, Any]]]:
    """The dimensions of the input that may vary, for torch.export."""
    if info.shape[0] is not None:
        return None
    dim = torch.export.Dim
    return ({
        0: dim('batch', min=1),
        2: STRIDE * dim('height', min=1),
        3: STRIDE * dim('width', min=1)
    }, )


def _write_onnx(deployed: DeployedDetector, info: DeployInfo,
                images: torch.Tensor, path: Path, opset: int) -> None:
    onnx = require_package('onnx')
    require_package('onnxscript')
    program = torch.onnx.export(
        deployed, (images, ),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=OUTPUTS,
        dynamic_shapes=_sizes(info),
        verbose=False)
    model = program.model_proto
    _name_layers(model)
    _name_sizes(model, info)
    if info.nms:
        append_nms(model, info)
    found = {node.op_type for node in model.graph.node} & {*FORBIDDEN}
    if found:
        raise RuntimeError(f'the graph holds {", ".join(sorted(found))}: '
                           'something in the network is updated in place')
    model.metadata_props.add(key=KEY, value=info.dumps())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _name_layers(model: Any) -> None:
    """Convolutions under the names of their modules, for whoever profiles or
    quantises them."""
    names: Counter = Counter()
    for node in model.graph.node:
        if node.op_type == 'Conv':
            name = node.input[1].rpartition('.weight')[0] or node.name
            names[name] += 1  # one module may be called several times
            node.name = name + f'.{names[name]}' * (names[name] > 1)


def _name_sizes(model: Any, info: DeployInfo) -> None:
    """Readable names for the dimensions that vary."""
    if info.shape[0] is not None:
        return
    for value, names in ((model.graph.input[0], ('batch', None, 'height',
                                                 'width')),
                         (model.graph.output[0], ('batch', 'priors', None)),
                         (model.graph.output[1], ('batch', 'priors', None))):
        for dim, name in zip(value.type.tensor_type.shape.dim, names):
            if name:
                dim.dim_param = name


def append_nms(model: Any, info: DeployInfo) -> None:
    """Let an ONNX model end with NMS, in place.

    ``NonMaxSuppression`` gives one list for all images and classes; the rest
    picks the ``max_per_img`` best of each image without a loop or a scatter.

    Args:
        model (onnx.ModelProto): With the outputs boxes ``(N, A, 4)`` and
            scores ``(N, A, C)``. Afterwards they are ``num_dets (N, 1)`` and,
            sorted by score and filled up with zeros (labels with -1),
            ``boxes (N, K, 4)``, ``scores (N, K)``, ``labels (N, K)``.
        info (DeployInfo): The thresholds, and K, its ``max_per_img``.
    """
    onnx = require_package('onnx')
    helper, graph = onnx.helper, model.graph
    count = info.max_per_img

    def constant(name: str, value: Any, dtype: str) -> str:
        graph.initializer.append(
            onnx.numpy_helper.from_array(
                np.asarray(value, dtype), f'nms/{name}'))
        return f'nms/{name}'

    def node(kind: str, inputs: Sequence[str], *outputs: str,
             **attributes: Any) -> str:
        outputs = [f'nms/{out}' for out in outputs]
        graph.node.append(
            helper.make_node(
                kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    # what is named `boxes` and `scores` outside becomes something within
    for old in OUTPUTS:
        for item in graph.node:
            for names in (item.input, item.output):
                names[:] = [f'raw/{n}' if n == old else n for n in names]
    boxes, scores = (f'raw/{name}' for name in OUTPUTS)
    zero, one, two, all_ = (
        constant(*c, 'int64')
        for c in (('0', [0]), ('1', [1]), ('2', [2]), ('-1', [-1])))
    if not info.multi_label:
        best = node('ReduceMax', [scores, two], 'best', keepdims=1)
        is_best = node('Equal', [scores, best], 'is_best')
        scores = node('Where', [is_best, scores,
                                constant('none', -1, 'float32')], 'one_label')
    by_class = node('Transpose', [scores], 'by_class', perm=[0, 2, 1])
    kept = node('NonMaxSuppression', [
        boxes, by_class,
        constant('most', [count], 'int64'),
        constant('iou', [info.iou_threshold], 'float32'),
        constant('score', [info.score_thr], 'float32')
    ], 'kept')
    kept_scores = node('GatherND', [by_class, kept], 'kept_scores')
    # so that each image finds as many as it must return
    kept = node('Concat', [
        kept, constant('fill', np.full((count, 3), [[-1, 0, 0]]), 'int64')
    ], 'filled', axis=0)
    kept_scores = node(
        'Concat',
        [kept_scores, constant('fill_scores', [-1] * count, 'float32')],
        'filled_scores', axis=0)
    columns = [
        node('Gather', [kept, constant(f'column{i}', i, 'int64')], name,
             axis=1) for i, name in enumerate(('image', 'class', 'box'))
    ]
    number = node('Shape', [boxes], 'number', end=1)
    number = node('Squeeze', [number], 'number0')
    images = node('Range', [
        constant('first', 0, 'int64'), number,
        constant('step', 1, 'int64')
    ], 'images')
    images = node('Unsqueeze', [images, one], 'rows')
    own = node('Equal', [images, node('Unsqueeze', [columns[0], zero],
                                      'image_row')], 'own')
    own_scores = node('Where', [own, kept_scores,
                                constant('other', -1, 'float32')],
                      'own_scores')
    top = node('TopK', [own_scores, constant('count', [count], 'int64')],
               'top', 'top_index', axis=1)
    index = 'nms/top_index'
    real = node('Greater', [top, constant('nothing', -1, 'float32')], 'real')
    labels = node('Gather', [columns[1], index], 'label_of')
    places = node('Unsqueeze', [node('Gather', [columns[2], index], 'box_of'),
                                all_], 'places')
    found = node('GatherND', [boxes, places], 'found', batch_dims=1)
    results = dict(
        num_dets=('ReduceSum', [
            node('Cast', [real], 'ones', to=onnx.TensorProto.INT64), one
        ], dict(keepdims=1)),
        boxes=('Where', [
            node('Unsqueeze', [real, all_], 'real_boxes'), found,
            constant('no_box', 0, 'float32')
        ], {}),
        scores=('Where', [real, top, constant('no_score', 0, 'float32')], {}),
        labels=('Where', [real, labels, constant('no_label', -1, 'int64')],
                {}))
    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    batch = batch.dim_param or batch.dim_value
    del graph.output[:]
    for name, (kind, inputs, attributes) in results.items():
        graph.node.append(
            helper.make_node(kind, inputs, [name], name=name, **attributes))
        is_float = name in ('boxes', 'scores')
        graph.output.append(
            helper.make_tensor_value_info(
                name,
                onnx.TensorProto.FLOAT if is_float else onnx.TensorProto.INT64,
                [batch, 1 if name == 'num_dets' else count] +
                [4] * (name == 'boxes')))


def _write_openvino(deployed: DeployedDetector, info: DeployInfo,
                    images: torch.Tensor, path: Path, opset: int) -> None:
    openvino = require_package('openvino')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'detector.onnx'
        _write_onnx(deployed, info, images, file, opset)
        model = openvino.convert_model(str(file))
        model.set_rt_info(info.dumps(), KEY)
        openvino.save_model(model, str(path), compress_to_fp16=False)


def _write_torchscript(deployed: DeployedDetector, info: DeployInfo,
                       images: torch.Tensor, path: Path, opset: int) -> None:
    script = torch.jit.trace(deployed, images, check_trace=False)
    torch.jit.save(
        torch.jit.freeze(script.eval()),
        str(path),
        _extra_files={f'{KEY}.json': info.dumps()})


def _write_program(deployed: DeployedDetector, info: DeployInfo,
                   images: torch.Tensor, path: Path, opset: int) -> None:
    program = torch.export.export(
        deployed, (images, ), dynamic_shapes=_sizes(info))
    torch.export.save(
        program, str(path), extra_files={f'{KEY}.json': info.dumps()})


# ------------------------------------------------------------ validation
def compare(deployed: DeployedDetector, info: DeployInfo,
            path: Union[str, Path], images: np.ndarray) -> Dict[str, float]:
    """How far an exported file is from the network it was made of.

    Args:
        deployed (DeployedDetector): The network.
        info (DeployInfo): What :func:`export` returned.
        path (str | Path): The file.
        images (np.ndarray): uint8, ``(N, 3, H, W)``, as they enter the
            network; they run in batches of the file's size.

    Returns:
        dict[str, float]: The greatest difference of a coordinate in pixels
        (``'boxes'``) and of a score (``'scores'``); of a network with NMS the
        share of detections of at least 0.05 that have no partner of the same
        class within 0.1 pixels (``'detections'``).
    """
    size = info.shape[0] or min(len(images), 2)
    run = _runner(path, info)
    reference = PyTorchBackend(deployed, info, channels_last=False)
    worst: Counter = Counter()
    for first in range(0, len(images) - size + 1, size):
        batch = images[first:first + size]
        wanted, got = reference(batch), run(batch)
        if info.nms:
            from .predictor import choose, chosen
            lone = [
                _without_partner(chosen(info, got, i),
                                 choose(info, wanted[0][i], wanted[1][i]))
                for i in range(size)
            ]
            worst['detections'] = max(worst['detections'], *lone)
            continue
        for name, one, other in zip(OUTPUTS, wanted, got):
            worst[name] = max(worst[name], float(abs(one - other).max()))
    return dict(worst)


def tolerance(info: DeployInfo, name: str, images: np.ndarray) -> float:
    """What :func:`compare` may give for fp32.

    Args:
        info (DeployInfo): About the file.
        name (str): The key in its result.
        images (np.ndarray): What it was given.
    """
    if name == 'detections':
        # of thousands, a few overlap by the threshold but for rounding
        return 0.01
    return TOLERANCE * (max(images.shape[2:]) if name == 'boxes' else 1)


def _without_partner(one: Any, other: Any) -> float:
    """Share of the detections of either that the other does not have."""
    sets = [r[r.scores >= 0.05] for r in (one, other)]
    lone = 0
    for mine, theirs in (sets, sets[::-1]):
        if len(mine) and len(theirs):
            near = (mine.bboxes[:, None] - theirs.bboxes).abs().amax(2) < 0.1
            near &= mine.labels[:, None] == theirs.labels
            lone += int((~near.any(1)).sum())
        else:
            lone += len(mine)
    return lone / max(sum(map(len, sets)), 1)


def _runner(path: Union[str, Path], info: DeployInfo) -> Any:
    path = Path(path)
    if path.suffix == '.torchscript':
        network = torch.jit.load(str(path))
    elif path.suffix == '.pt2':
        network = torch.export.load(str(path)).module()
    else:
        return load_backend(path)
    return lambda images: [
        out.numpy() for out in network(torch.from_numpy(images))
    ]


def node_counts(path: Union[str, Path]) -> List[Tuple[str, int]]:
    """How often each operator stands in an exported graph, most first.

    Args:
        path (str | Path): ``.onnx``, ``.xml``, ``.torchscript`` or ``.pt2``.
    """
    path = Path(path)
    if path.suffix == '.onnx':
        kinds = [n.op_type for n in require_package('onnx').load(
            str(path)).graph.node]
    elif path.suffix == '.xml':
        model = openvino_core().read_model(str(path))
        kinds = [op.get_type_name() for op in model.get_ops()]
    elif path.suffix == '.torchscript':
        kinds = [node.kind() for node in torch.jit.load(
            str(path)).inlined_graph.nodes()]
    else:
        kinds = [str(node.target) for node in torch.export.load(
            str(path)).graph.nodes if node.op == 'call_function']
    return Counter(kinds).most_common()
