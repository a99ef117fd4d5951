# SPDX-License-Identifier: GPL-3.0-only
"""Deployed detectors as files, and what is in the files."""
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.structures import InstanceData

from mmfasternet.checkpoint import save_checkpoint

from .deployed_detector import (
    OFFSET,
    DeployedDetector,
    DeployedMaps,
    with_fp16_weights,
)
from .engines import ENGINES, KEY, OPSET, Engine, engine_of
from .engines.pytorch import PyTorchNetwork
from .info import DeployInfo
from .loading import load_backend
from .onnx_model import STRIDE
from .onnx_nms import OUTPUTS, append_nms
from .postprocess import postprocess
from .result_files import written_whole

MAX_PIXELS = 2**27  # 327 images of 640x640; feature maps are many times that


def export(deployed: DeployedDetector,
           info: DeployInfo,
           path: Union[str, Path],
           shape: Optional[Sequence[int]] = None,
           batch_size: int = 1,
           dynamic: bool = False,
           nms: bool = False,
           opset: int = OPSET,
           precision: str = 'fp32') -> DeployInfo:
    """Write a deployed detector to a file, which is complete or not there.

    Args:
        deployed (DeployedDetector): See :func:`.detector_folding.deploy_form`.
        info (DeployInfo): About it.
        path (str | Path): The name decides on the format: ``.onnx``, ``.xml``
            (OpenVINO, with a ``.bin`` beside it), ``.ncnn.param`` (with
            ``.ncnn.bin`` and ``.ncnn.json``), ``.tflite``, or ``.pth`` (a
            checkpoint of the deploy form).
        shape (Sequence[int], optional): Height and width of the input.
            Defaults to those of ``info.img_scale``.
        batch_size (int): Images per run. Defaults to 1.
        dynamic (bool): Let all three vary, the sizes in multiples of 32;
            ``Predictor`` fits images into ``shape``. Defaults to False.
        nms (bool): End with NMS, in ONNX and OpenVINO. Defaults to False.
        opset (int): Version of ONNX's operators. Defaults to 18.
        precision (str): Of the weights in the file: ``'fp32'``, or ``'fp16'``
            for ncnn and LiteRT, those of :func:`.with_fp16_weights`.

    Returns:
        DeployInfo: What was written into the file.

    Raises:
        ImportError, ValueError: If the format cannot be written like that.
    """
    path = Path(path)
    engine = None if path.suffix == '.pth' else engine_of(path)
    _check_engine(engine, deployed, path, dynamic, nms, precision)
    height, width = shape or info.img_scale[::-1]
    _check_input(batch_size, height, width)
    info = replace(
        info, nms=nms, img_scale=(width, height),
        shape=(None, None, None) if dynamic else (batch_size, height, width))
    if engine is None:
        meta = {KEY: info.dumps(), 'dataset_meta': dict(classes=info.classes)}
        save_checkpoint(
            dict(state_dict=deployed.state_dict(), meta=meta), path)
        return info
    # two at least, or torch.export takes a dimension for a constant
    images = torch.randint(
        256, (max(batch_size, 2) if dynamic else batch_size, 3, height, width),
        dtype=torch.uint8)
    if precision == 'fp16':
        deployed = with_fp16_weights(deployed)
    network, options = DeployedMaps(deployed), dict(precision=precision)
    if engine.decodes:
        network, options = deployed, dict(
            outputs=OUTPUTS, opset=opset,
            edit=partial(append_nms, info=info) if nms else None)
    with written_whole(path) as part:
        engine.write(network, images, part, info.dumps(), dynamic=dynamic,
                     **options)
    return info


def _check_engine(engine: Optional[Engine], deployed: DeployedDetector,
                  path: Path, dynamic: bool, nms: bool,
                  precision: str) -> None:
    if precision not in (engine.stored if engine else ('fp32', )):
        able = [str(e.suffix) for e in ENGINES.values()
                if precision in e.stored]
        raise ValueError(f'weights in {precision} can be part of '
                         f'{" and ".join(able) or "no file"}, not of {path}')
    if nms and not (engine and engine.decodes):
        able = [str(e.suffix) for e in ENGINES.values()
                if e.suffix and e.decodes]
        raise ValueError(f'NMS can be part of {" and ".join(able)}, not '
                         f'of {path}')
    if dynamic and engine and not engine.dynamic:
        raise ValueError(f'{engine.title} takes one size: leave out --dynamic '
                         f'for {path}, and give --shape')
    offset = deployed.head.offset
    if engine and not engine.decodes and offset != OFFSET:
        raise ValueError(
            f'boxes of {path} are decoded around the middle of a cell, and '
            f'model.bbox_head.prior_generator.offset is {offset}, not '
            f'{OFFSET}: take {ENGINES["onnxruntime"].suffix}')


def _check_input(batch_size: int, height: int, width: int) -> None:
    if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
        raise ValueError('height and width must be multiples of '
                         f'{STRIDE}, got {height} {width}')
    if batch_size < 1:
        raise ValueError(f'the batch size must be positive, got {batch_size}')
    if batch_size * height * width > MAX_PIXELS:
        raise ValueError(f'{batch_size} images of {height}x{width} are more '
                         f'than the {MAX_PIXELS} pixels that one run may take')


# ------------------------------------------------------------ validation
def compare(deployed: DeployedDetector, info: DeployInfo,
            path: Union[str, Path],
            images: np.ndarray) -> Dict[str, Tuple[float, float]]:
    """How far an exported file is from the network it was made of.

    Args:
        deployed (DeployedDetector): The network.
        info (DeployInfo): What :func:`export` returned.
        path (str | Path): The file.
        images (np.ndarray): uint8, ``(N, 3, H, W)``, as they enter the
            network; they run in batches of the file's size.

    Returns:
        dict[str, tuple[float, float]]: The greatest difference and how much
        of it fp32 may make: of a coordinate in pixels (``'boxes'``) and of a
        score (``'scores'``); of a network with NMS the share of detections of
        at least 0.05 that have no partner of the same class within 0.1 pixels
        (``'detections'``).
    """
    size = info.shape[0] or min(len(images), 2)
    run = load_backend(path)
    reference = PyTorchNetwork(deployed, channels_last=False)
    raw = replace(info, nms=False)
    if info.nms:
        # of thousands a few overlap by the threshold but for rounding
        allowed = dict(detections=0.01)
    else:  # seen: 5e-6 of the greatest
        allowed = dict(boxes=1e-4 * max(images.shape[2:]), scores=1e-4)

    def differences(batch: np.ndarray) -> List[float]:
        wanted, got = reference(batch), run(batch)
        if info.nms:
            pairs = zip(postprocess(info, got), postprocess(raw, wanted))
            return [max(_without_partner(*pair) for pair in pairs)]
        return [abs(a - b).max() for a, b in zip(wanted, got)]

    worst = np.max([differences(images[first:first + size]) for first in range(
        0, len(images) - size + 1, size)], 0)
    return dict(zip(allowed, zip(worst, allowed.values())))


def _without_partner(one: InstanceData, other: InstanceData) -> float:
    """Share of the detections of either that the other does not have."""
    one, other = (r[r.scores >= 0.05] for r in (one, other))
    near = (one.bboxes[:, None] - other.bboxes).abs().amax(2) < 0.1
    near &= one.labels[:, None] == other.labels
    lone = sum(int((~near.any(side)).sum()) for side in (0, 1))
    return lone / max(sum(near.shape), 1)


def node_counts(path: Union[str, Path]) -> List[Tuple[str, int]]:
    """How often each operator stands in an exported graph, most first."""
    kinds = [kind for _, kind in engine_of(path).operators(path)]
    return Counter(kinds).most_common()
