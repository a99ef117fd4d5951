# SPDX-License-Identifier: Apache-2.0
"""Models of Ultralytics YOLOv8, with or without FasterNet pasted into it.

Their configs are YAML files with one line per layer, and a tensor of a state
dict is called after the position of its layer. Only those names and numbers
are known here; nothing of Ultralytics is needed.
"""
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import yaml
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
}
_DETECT = 14
_STOCK_SHIFT = 8
# C2f, its bottlenecks, SPPF and Detect; first match counts
_PARTS = (
    (r'(neck\.(?:top_down|bottom_up)_layers\.\d)\.cv1\.', r'\1.main_conv.'),
    (r'(neck\.(?:top_down|bottom_up)_layers\.\d)\.cv2\.', r'\1.final_conv.'),
    (r'(neck\.(?:top_down|bottom_up)_layers\.\d)\.m\.(\d+)\.cv([12])\.',
     r'\1.blocks.\2.conv\3.'),
    (r'(neck\.reduce_layers\.2)\.cv([12])\.', r'\1.conv\2.'),
    (r'(bbox_head\.head_module)\.cv2\.', r'\1.reg_preds.'),
    (r'(bbox_head\.head_module)\.cv3\.', r'\1.cls_preds.'),
)


def is_ultralytics(tensors: Dict[str, Tensor]) -> bool:
    """Whether a state dict is of a YOLOv8 model of Ultralytics.

    Args:
        tensors (dict[str, Tensor]): By name.
    """
    return any(name.endswith('.dfl.conv.weight') for name in tensors)


def rename_ultralytics(tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The tensors of a YOLOv8 of Ultralytics by the names they have here.

    Args:
        tensors (dict[str, Tensor]): A state dict of YOLOv8 with its own
            backbone (``model.22`` is the head) or with FasterNet pasted in
            its place (``model.14``).

    Returns:
        dict[str, Tensor]: ``neck.*``, ``bbox_head.*`` and, for FasterNet,
        ``backbone.*``. YOLOv8's own backbone is left out.

    Raises:
        CheckpointError: If the layers are not where they are expected.
    """
    renamed = {}
    shift = _find_head(tensors) - _DETECT
    if shift not in (0, _STOCK_SHIFT):
        raise CheckpointError(
            f'the detection head is layer {shift + _DETECT}: it is '
            f'{_DETECT + _STOCK_SHIFT} in YOLOv8 and {_DETECT} with FasterNet '
            'as the backbone, other models are not known')
    for name, value in tensors.items():
        match = re.fullmatch(r'(?:model\.)+(\d+)\.(.+)', name)
        if not match:
            raise CheckpointError(
                f'{name} is no name of a layer: expected model.N....')
        position, rest = int(match[1]) - shift, match[2]
        if position <= 0:
            if not shift:
                renamed[f'backbone.{rest}'] = value
            continue
        if position == _DETECT:
            if rest == 'dfl.conv.weight':
                _check_dfl(value)
                continue
            layer = 'bbox_head.head_module'
        elif position in _LAYERS:
            layer = _LAYERS[position]
        else:
            raise CheckpointError(
                f'{name}: layer {position + shift} has weights, but it has '
                'none in YOLOv8. Other necks than its own are not known')
        full = f'{layer}.{rest}'
        for pattern, replacement in _PARTS:
            full, found = re.subn('^' + pattern, replacement, full)
            if found:
                break
        renamed[full] = value
    return renamed


def _find_head(tensors: Dict[str, Tensor]) -> int:
    for name in tensors:
        match = re.fullmatch(r'(?:model\.)+(\d+)\.dfl\.conv\.weight', name)
        if match:
            return int(match[1])
    raise CheckpointError(
        'no layer of this state dict is the head of YOLOv8 (no tensor is '
        'called model.N.dfl.conv.weight)')


def _check_dfl(weight: Tensor) -> None:
    """It is a constant: the bin numbers, of which the mean is taken."""
    bins = weight.flatten().float()
    if not torch.equal(bins, torch.arange(len(bins)).float()):
        raise CheckpointError('dfl.conv.weight is not 0, 1, 2, ...: this head '
                              'is not that of YOLOv8')


class Recipe(NamedTuple):
    """What a YAML of the pasted recipe says.

    Attributes:
        num_classes (int): ``nc``.
        names (tuple[str] | None): Class names, if the file has any.
        scale (str | None): Letter of the scale.
        deepen_factor (float): Depth multiplier.
        widen_factor (float): Width multiplier.
        neck_channels (tuple[int]): Channels of P3, P4 and P5 in the neck
            before multiplication, none above the maximum of the scale.
        num_csp_blocks (int): Bottlenecks of a C2f before multiplication.
        arch (str | None): The variant, if the module's name tells.
    """
    num_classes: int
    names: Optional[Tuple[str, ...]]
    scale: Optional[str]
    deepen_factor: float
    widen_factor: float
    neck_channels: Tuple[int, int, int]
    num_csp_blocks: int
    arch: Optional[str]


# Name, module, its sources. The numbers in `from` count FasterNet's output as
# five entries (an empty one and strides 4 to 32), so SPPF is entry 5.
_BACKBONE = ('', 'P2', 'P3', 'P4', 'P5')
_GRAPH = (
    ('sppf', 'SPPF', 'P5'),
    ('up4', 'nn.Upsample', 'sppf'),
    ('cat4', 'Concat', 'up4 P4'),
    ('td4', 'C2f', 'cat4'),
    ('up3', 'nn.Upsample', 'td4'),
    ('cat3', 'Concat', 'up3 P3'),
    ('out3', 'C2f', 'cat3'),
    ('down4', 'Conv', 'out3'),
    ('cat5', 'Concat', 'down4 td4'),
    ('out4', 'C2f', 'cat5'),
    ('down5', 'Conv', 'out4'),
    ('cat6', 'Concat', 'down5 sppf'),
    ('out5', 'C2f', 'cat6'),
    ('detect', 'Detect', 'out3 out4 out5'),
)


def read_recipe(path: Union[str, Path],
                scale: Optional[str] = None) -> Recipe:
    """Read the YAML of YOLOv8 with FasterNet pasted in as its backbone.

    Args:
        path (str | Path): The file.
        scale (str, optional): Letter of the scale. Defaults to None: what the
            file or its name (``yolov8s-fasternet.yaml``) says, else the first
            of ``scales``, which is what Ultralytics takes.

    Returns:
        Recipe: The numbers in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, naming the layer.
    """
    path = Path(path)
    try:
        spec = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no YAML: {error}') from None
    if not isinstance(spec, dict) or not isinstance(spec.get('nc'), int) or \
            not all(isinstance(spec.get(k), list) for k in ('backbone',
                                                            'head')):
        raise ValueError(f'{path} is no model of Ultralytics: it needs nc (a '
                         'number), backbone and head (lists of layers)')
    letter, depth, width, limit = _scale(path, spec, scale)
    layers = [*spec['backbone'], *spec['head']]
    if len(layers) != len(_GRAPH) + 1 or not re.search(
            'fasternet', str(layers[0][2]), re.IGNORECASE):
        raise ValueError(
            f'{path}: expected FasterNet and {len(_GRAPH)} layers of YOLOv8 '
            f'from SPPF to Detect, got {len(layers)} layers that begin with '
            f'{layers[0] if layers else None}')
    args = _match_graph(path, layers[1:])
    channels = tuple(
        args[name][0] for name in ('out3', 'out4', 'out5'))
    repeats = {layer[1] for layer in layers if layer[2] == 'C2f'}
    agree = {
        'td4': channels[1],
        'sppf': channels[2],
        'down4': channels[0],
        'down5': channels[1]
    }
    for name, value in agree.items():
        if args[name][0] != value:
            raise ValueError(
                f'{path}: {name} has {args[name][0]} channels where YOLOv8 '
                f'has as many as the C2f of that level, {value}')
    if len(repeats) != 1:
        raise ValueError(f'{path}: the C2f layers have different numbers of '
                         f'repeats, {sorted(repeats)}; YOLOv8 has one')
    names = spec.get('names')
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names)]
    arch = re.search(r'fasternet_?(t[012]|[sml])$', str(layers[0][2]).lower())
    return Recipe(
        num_classes=spec['nc'],
        names=tuple(map(str, names)) if names else None,
        scale=letter,
        deepen_factor=depth,
        widen_factor=width,
        neck_channels=tuple(min(c, limit) for c in channels),
        num_csp_blocks=repeats.pop(),
        arch=arch and arch[1])


def _scale(path: Path, spec: dict,
           scale: Optional[str]) -> Tuple[Optional[str], float, float, int]:
    scales = spec.get('scales')
    if not scales:
        if 'width_multiple' not in spec or 'depth_multiple' not in spec:
            raise ValueError(f'{path} needs scales, or depth_multiple and '
                             'width_multiple')
        return None, spec['depth_multiple'], spec['width_multiple'], 2**31
    guess = re.search(r'yolov?\d+([nsmlx])', path.stem)
    letter = scale or spec.get('scale') or (guess and guess[1])
    letter = letter or next(iter(scales))
    if letter not in scales:
        raise ValueError(f'{path} has no scale {letter!r}, only '
                         f'{", ".join(scales)}')
    depth, width, limit = scales[letter]
    return letter, depth, width, limit


def _match_graph(path: Path, layers: Sequence[list]) -> Dict[str, list]:
    """Check modules and wiring; returns the arguments by our names."""
    entries: List[str] = list(_BACKBONE)
    args = {}
    for (name, module, sources), layer in zip(_GRAPH, layers):
        position = len(entries)
        if len(layer) != 4:
            raise ValueError(f'{path}: entry {position} must be [from, '
                             f'repeats, module, args], got {layer}')
        origin, _, got, values = layer
        origins = origin if isinstance(origin, list) else [origin]
        wired = ' '.join(entries[i] if -position <= i < position else '?'
                         for i in origins)
        if got != module or wired != sources:
            expected = [
                -1 if entries[-1] == source else entries.index(source)
                for source in sources.split()
            ]
            raise ValueError(
                f'{path}: entry {position} should be {module} of {expected} '
                f'({sources}), got {got} of {origins}')
        standard = {
            'SPPF': [values[:1], [5]],
            'Conv': [values[:1], [3, 2]],
            'nn.Upsample': [[], [None, 2, 'nearest']],
            'Concat': [[], [1]],
            'C2f': [values[:1], []],
        }.get(module)
        given = [None if v == 'None' else v for v in values]
        if standard is not None and given not in (
                standard[0] + standard[1], standard[0] + [False]):
            raise ValueError(
                f'{path}: entry {position}, {module}, has the arguments '
                f'{values}; YOLOv8 has {standard[0] + standard[1]}')
        args[name] = values
        entries.append(name)
    return args
