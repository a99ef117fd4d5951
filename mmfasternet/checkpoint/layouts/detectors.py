# SPDX-License-Identifier: Apache-2.0
"""Detectors of others by the names that their tensors have here.

YOLOv8 of Ultralytics, with its own backbone or with FasterNet pasted in its
place, where a tensor is called after the position of its layer; YOLOv8 of
mmyolo; detectors of MMDetection 2. Only names are known here: nothing of
Ultralytics is needed.
"""
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmfasternet.checkpoint import (
    CheckpointError,
    get_checkpoint,
    noted_classes,
)

from .fasternet import find_tensors

# Layers by position in the pasted recipe, where FasterNet is the first one.
# In YOLOv8 itself nine layers of CSPDarknet stand there, so from SPPF on the
# positions are greater by eight.
_LAYERS = {
    1: 'neck.reduce_layers.2',
    4: 'neck.top_down_layers.0',
    7: 'neck.top_down_layers.1',
    8: 'neck.downsample_layers.0',
    10: 'neck.bottom_up_layers.0',
    11: 'neck.downsample_layers.1',
    13: 'neck.bottom_up_layers.1',
    14: 'bbox_head.head_module',
}
_DETECT = 14
_STOCK_SHIFT = 8
# mmyolo's names of them; it keeps SPPF, which is layer 9, in the backbone
_STOCK_BACKBONE = dict(
    enumerate(f'backbone.{layer}' for layer in (
        'stem', *(f'stage{i}.{j}' for i in range(1, 5) for j in (0, 1)),
        'stage4.2')))
_OTHERS = ('Other models of Ultralytics, such as YOLO11 and YOLO26, are not '
           'known: take a YOLOv8')
_LAYER = re.compile(r'(?:model\.)+(\d+)\.(.+)')
_DFL = re.compile(r'(?:model\.)+(\d+)\.dfl\.conv\.weight')
# C2f, its bottlenecks, SPPF and Detect; first match counts
_C2F = r'(neck\.(?:top_down|bottom_up)_layers\.\d|backbone\.stage\d\.1)'
_SPPF = r'(neck\.reduce_layers\.2|backbone\.stage4\.2)'
_PARTS = (
    (_C2F + r'\.cv1\.', r'\1.main_conv.'),
    (_C2F + r'\.cv2\.', r'\1.final_conv.'),
    (_C2F + r'\.m\.(\d+)\.cv([12])\.', r'\1.blocks.\2.conv\3.'),
    (_SPPF + r'\.cv([12])\.', r'\1.conv\2.'),
    (r'(bbox_head\.head_module)\.cv2\.', r'\1.reg_preds.'),
    (r'(bbox_head\.head_module)\.cv3\.', r'\1.cls_preds.'),
)


class TrainedDetector(NamedTuple):
    """A detector as it was found in a checkpoint."""

    tensors: Dict[str, Tensor]  #: By the names they have in mmyolo or here.
    #: Their names in order, None where the file does not tell.
    classes: Optional[Tuple[str, ...]]

    @property
    def num_classes(self) -> Optional[int]:
        """Of the head of YOLOv8, None of any other."""
        last = self.tensors.get('bbox_head.head_module.cls_preds.0.2.weight')
        return None if last is None else len(last)

    @property
    def stock_size(self) -> Optional[str]:
        """n, s, m, l or x of YOLOv8 with its own backbone, else None."""
        stem = self.tensors.get('backbone.stem.conv.weight')
        if self.num_classes is None or stem is None:
            return None
        return {16: 'n', 32: 's', 48: 'm', 64: 'l', 80: 'x'}.get(len(stem))


def read_detector(name: str) -> TrainedDetector:
    """Read a trained detector of Ultralytics, mmyolo or ours, as data.

    Of one that segments, what detects is read.

    Args:
        name (str): A path or URL, see
            :func:`mmfasternet.checkpoint.checkpoint_path`.

    Raises:
        FileNotFoundError, CheckpointError: If it cannot be had or read, or
            is another model of Ultralytics.
    """
    data = get_checkpoint(name, modules=True)
    try:
        tensors = _without_masks(_rename(find_tensors(data))[0])
    except CheckpointError as error:
        raise CheckpointError(f'{name}: {error}') from None
    return TrainedDetector(tensors, _class_names(data))


def _without_masks(tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The boxes and classes of YOLOv8 that segments are those of YOLOv8."""
    head = 'bbox_head.head_module.'
    if any(name.startswith(f'{head}proto.') for name in tensors):
        return {name: value for name, value in tensors.items()
                if not name.startswith((f'{head}proto.', f'{head}cv4.'))}
    if any(name.startswith(f'{head}cv4.') for name in tensors):
        raise CheckpointError(
            'its head finds poses or rotated boxes (it has cv4, and no '
            'proto): take a YOLOv8 that detects or segments')
    return tensors


def _class_names(data: Any) -> Optional[Tuple[str, ...]]:
    """As MMEngine notes them, or Ultralytics in its pickled module."""
    if not isinstance(data, dict):
        data = dict(model=data)
    names = noted_classes(data)
    for key in ('ema', 'model'):
        names = names or getattr(data.get(key), '__dict__', {}).get('names')
    if isinstance(names, dict) and all(isinstance(n, int) for n in names):
        names = [names[number] for number in sorted(names)]
    if not isinstance(names, (list, tuple)) or not names or not all(
            isinstance(name, str) for name in names):
        return None
    return tuple(names)


def rename_detector(
        tensors: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], bool]:
    """The tensors of a detector by the names they have here.

    Args:
        tensors (dict[str, Tensor]): A state dict.

    Returns:
        tuple[dict[str, Tensor], bool]: By name, and whether they are neck and
        head of YOLOv8 with its own backbone, which is left out.

    Raises:
        CheckpointError: If it is of Ultralytics, and the layers are not where
            YOLOv8 has them.
    """
    tensors, is_stock = _rename(tensors)
    if not is_stock:
        return tensors, False
    sppf = {
        name.replace('backbone.stage4.2.', 'neck.reduce_layers.2.'): value
        for name, value in tensors.items()
    }
    return {
        name: value
        for name, value in sppf.items() if not name.startswith('backbone.')
    }, True


def _rename(tensors: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], bool]:
    """All of them by the names of mmyolo, and whether it is stock YOLOv8."""
    heads = [int(m[1]) for m in map(_DFL.fullmatch, tensors) if m]
    if heads:
        return _of_ultralytics(tensors, heads[0] - _DETECT)
    if any(name.endswith('.dfl.conv.weight') for name in tensors) or (
            tensors and all(map(_LAYER.fullmatch, tensors))):
        raise CheckpointError(
            'no layer of this state dict is the head of YOLOv8 (no tensor is '
            f'called model.N.dfl.conv.weight). {_OTHERS}')
    # mmdet 2 with the EMA hook of that time keeps a copy of every tensor
    return {
        name: value
        for name, value in tensors.items() if not name.startswith('ema_')
    }, 'backbone.stem.conv.weight' in tensors and any(
        name.startswith('backbone.stage4.2.') for name in tensors)


def _of_ultralytics(tensors: Dict[str, Tensor],
                    shift: int) -> Tuple[Dict[str, Tensor], bool]:
    if shift not in (0, _STOCK_SHIFT):
        raise CheckpointError(
            f'the detection head is layer {shift + _DETECT}: it is '
            f'{_DETECT + _STOCK_SHIFT} in YOLOv8 and {_DETECT} with FasterNet '
            f'as the backbone. {_OTHERS}')
    layers = {k + shift: v for k, v in _LAYERS.items()}
    layers.update(_STOCK_BACKBONE if shift else {})
    renamed = {}
    for name, value in tensors.items():
        match = _LAYER.fullmatch(name)
        if not match:
            raise CheckpointError(
                f'{name} is not a name of a layer: expected model.N....')
        position, rest = int(match[1]), match[2]
        if _DFL.fullmatch(name):
            # a constant: the bin numbers, of which the mean is taken
            bins = value.flatten().float()
            if not torch.equal(bins, torch.arange(len(bins)).float()):
                raise CheckpointError('dfl.conv.weight is not 0, 1, 2, ...: '
                                      'this head is not that of YOLOv8')
        elif position in layers:
            full = f'{layers[position]}.{rest}'
            for pattern, replacement in _PARTS:
                full, found = re.subn('^' + pattern, replacement, full)
                if found:
                    break
            renamed[full] = value
        elif position > 0:
            raise CheckpointError(
                f'{name}: layer {position} has weights, but it has '
                'none in YOLOv8. Other necks than its own are not known')
        else:
            renamed[f'backbone.{rest}'] = value
    return renamed, bool(shift)
