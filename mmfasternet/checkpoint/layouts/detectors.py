# SPDX-License-Identifier: Apache-2.0
"""Detectors of others by the names that their tensors have here.

YOLOv8 of Ultralytics, with its own backbone or with FasterNet pasted in its
place, where a tensor is called after the position of its layer; YOLOv8 of
mmyolo; detectors of MMDetection 2. Only names are known here: nothing of
Ultralytics is needed.
"""
import re
from typing import Dict, Tuple

import torch
from torch import Tensor

from mmfasternet.checkpoint import CheckpointError

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
_DFL = re.compile(r'(?:model\.)+(\d+)\.dfl\.conv\.weight')
# C2f, its bottlenecks, SPPF and Detect; first match counts
_C2F = r'(neck\.(?:top_down|bottom_up)_layers\.\d)'
_PARTS = (
    (_C2F + r'\.cv1\.', r'\1.main_conv.'),
    (_C2F + r'\.cv2\.', r'\1.final_conv.'),
    (_C2F + r'\.m\.(\d+)\.cv([12])\.', r'\1.blocks.\2.conv\3.'),
    (r'(neck\.reduce_layers\.2)\.cv([12])\.', r'\1.conv\2.'),
    (r'(bbox_head\.head_module)\.cv2\.', r'\1.reg_preds.'),
    (r'(bbox_head\.head_module)\.cv3\.', r'\1.cls_preds.'),
)


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
    heads = [int(m[1]) for m in map(_DFL.fullmatch, tensors) if m]
    if heads:
        return _of_ultralytics(tensors, heads[0] - _DETECT)
    if any(name.endswith('.dfl.conv.weight') for name in tensors):
        raise CheckpointError(
            'no layer of this state dict is the head of YOLOv8 (no tensor is '
            'called model.N.dfl.conv.weight)')
    if 'backbone.stem.conv.weight' in tensors and any(
            name.startswith('backbone.stage4.2.') for name in tensors):
        # mmyolo keeps SPPF in the backbone
        sppf = {
            name.replace('backbone.stage4.2.', 'neck.reduce_layers.2.'): value
            for name, value in tensors.items()
        }
        return {name: value for name, value in sppf.items()
                if not name.startswith('backbone.')}, True
    # mmdet 2 with the EMA hook of that time keeps a copy of every tensor
    return {name: value for name, value in tensors.items()
            if not name.startswith('ema_')}, False


def _of_ultralytics(tensors: Dict[str, Tensor],
                    shift: int) -> Tuple[Dict[str, Tensor], bool]:
    if shift not in (0, _STOCK_SHIFT):
        raise CheckpointError(
            f'the detection head is layer {shift + _DETECT}: it is '
            f'{_DETECT + _STOCK_SHIFT} in YOLOv8 and {_DETECT} with FasterNet '
            'as the backbone, other models are not known')
    renamed = {}
    for name, value in tensors.items():
        match = re.fullmatch(r'(?:model\.)+(\d+)\.(.+)', name)
        if not match:
            raise CheckpointError(
                f'{name} is not a name of a layer: expected model.N....')
        position, rest = int(match[1]) - shift, match[2]
        if _DFL.fullmatch(name):
            # a constant: the bin numbers, of which the mean is taken
            bins = value.flatten().float()
            if not torch.equal(bins, torch.arange(len(bins)).float()):
                raise CheckpointError('dfl.conv.weight is not 0, 1, 2, ...: '
                                      'this head is not that of YOLOv8')
        elif position in _LAYERS:
            full = f'{_LAYERS[position]}.{rest}'
            for pattern, replacement in _PARTS:
                full, found = re.subn('^' + pattern, replacement, full)
                if found:
                    break
            renamed[full] = value
        elif position > 0:
            raise CheckpointError(
                f'{name}: layer {position + shift} has weights, but it has '
                'none in YOLOv8. Other necks than its own are not known')
        elif not shift:
            renamed[f'backbone.{rest}'] = value
    return renamed, bool(shift)
