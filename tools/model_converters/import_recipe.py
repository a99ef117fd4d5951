# SPDX-License-Identifier: GPL-3.0-only
"""Turn the YAML of YOLOv8 with FasterNet pasted in into one of our configs.

The weights of such a model follow with convert_detector.py and that config;
outputs are equal.
"""
import os
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import yaml

import mmfasternet
from mmfasternet import cli
from mmfasternet.checkpoint.layouts.fasternet import (
    arch_name,
    find_arch,
    read_weights,
)
from mmfasternet.models.backbones import FasterNet

TEMPLATE = '''# {yaml}, scale {recipe.scale}: FasterNet pasted into Ultralytics
_base_ = {base!r}

classes = {classes}
deepen_factor = {recipe.deepen_factor}
widen_factor = {recipe.widen_factor}

model = dict(
    # Ultralytics divides by 255 and subtracts no mean
    data_preprocessor=dict(mean=[0., 0., 0.], std=[255., 255., 255.]),
    backbone=dict(
        arch={arch!r},
        # Ultralytics sets these on every batch norm of a model
        norm_cfg=dict(type='BN', momentum=0.03, eps=0.001)),
    neck=dict(
        num_csp_blocks={recipe.num_csp_blocks}, out_channels={channels}),
    bbox_head=dict(head_module=dict(in_channels={channels})))
'''


class Recipe(NamedTuple):
    """What a YAML of the pasted recipe says.

    Attributes:
        num_classes (int): ``nc``.
        names (tuple[str] | None): Class names, if the file has any.
        scale (str | None): ``n`` to ``x``.
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


def read_recipe(path: Path, scale: Optional[str] = None) -> Recipe:
    """Read the YAML of YOLOv8 with FasterNet pasted in as its backbone.

    Args:
        path (Path): The file.
        scale (str, optional): ``n`` to ``x``. Defaults to None: what the
            file or its name (``yolov8s-fasternet.yaml``) says, else the first
            of ``scales``, which is what Ultralytics takes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, naming the layer.
    """
    spec = _read_yaml(path)
    scale, depth, width, limit = _scale(path, spec, scale)
    layers = [*spec['backbone'], *spec['head']]
    if len(layers) != len(_GRAPH) + 1 or not re.search(
            'fasternet', str(layers[0][2]), re.IGNORECASE):
        raise ValueError(
            f'{path}: expected FasterNet and {len(_GRAPH)} layers of YOLOv8 '
            f'from SPPF to Detect, got {len(layers)} layers that begin with '
            f'{layers[0] if layers else None}')
    args = _match_graph(path, layers[1:])
    c3, c4, c5 = (args[name][0] for name in ('out3', 'out4', 'out5'))
    for name, value in dict(td4=c4, sppf=c5, down4=c3, down5=c4).items():
        if args[name][0] != value:
            raise ValueError(
                f'{path}: {name} has {args[name][0]} channels where YOLOv8 '
                f'has as many as the C2f of that level, {value}')
    repeats = {layer[1] for layer in layers if layer[2] == 'C2f'}
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
        scale=scale,
        deepen_factor=depth,
        widen_factor=width,
        neck_channels=tuple(min(c, limit) for c in (c3, c4, c5)),
        num_csp_blocks=repeats.pop(),
        arch=arch and arch[1])


def _read_yaml(path: Path) -> dict:
    try:
        spec = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not YAML: {error}') from None
    if not isinstance(spec, dict) or not isinstance(spec.get('nc'), int) or \
            not all(isinstance(spec.get(k), list) for k in ('backbone',
                                                            'head')):
        raise ValueError(f'{path} is not a model of Ultralytics: it needs nc '
                         '(a number), backbone and head (lists of layers)')
    return spec


def _scale(path: Path, spec: dict,
           scale: Optional[str]) -> Tuple[Optional[str], float, float, int]:
    scales = spec.get('scales')
    if not scales:
        if 'width_multiple' not in spec or 'depth_multiple' not in spec:
            raise ValueError(f'{path} needs scales, or depth_multiple and '
                             'width_multiple')
        return None, spec['depth_multiple'], spec['width_multiple'], 2**31
    guess = re.search(r'yolov?\d+([nsmlx])', path.stem)
    if scale is None:
        scale = spec.get('scale') or (guess and guess[1]) or next(
            iter(scales))
    if scale not in scales:
        raise ValueError(f'{path} has no scale {scale!r}, only '
                         f'{", ".join(scales)}')
    return scale, *scales[scale]


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


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('recipe', help='YAML file of the model')
    parser.add_argument('config', help='config file to write')
    parser.add_argument(
        '--scale', help='n, s, m, l or x (default: as Ultralytics)')
    parser.add_argument(
        '--arch',
        choices=[k for k in FasterNet.arch_settings if k != 'n'],
        help='FasterNet variant; the YAML does not tell where it was switched '
        'in the source (default: that of --weights, else t2)')
    parser.add_argument(
        '--weights', help='weights of the model, to find the variant')
    parser.add_argument(
        '--classes', nargs='+', help='class names, if the YAML has none')
    return parser.parse_args()


def class_names(recipe, given):
    names = tuple(given or recipe.names or ())
    if names and len(names) != recipe.num_classes:
        raise ValueError(f'{len(names)} class names for nc = '
                         f'{recipe.num_classes}')
    return names or tuple(f'class_{i}' for i in range(recipe.num_classes))


def main():
    args = parse_args()
    config = Path(args.config)
    with cli.clear_errors():
        if config.suffix != '.py':
            raise ValueError(f'a config ends in .py, got {config}')
        if config.exists():
            raise ValueError(f'{config} exists; delete it first')
        recipe = read_recipe(Path(args.recipe), args.scale)
        arch = args.arch or recipe.arch or 't2'
        if args.weights is not None:
            numbers = find_arch(read_weights(args.weights).tensors)
            if (args.arch or recipe.arch) not in (None, arch_name(numbers)):
                raise ValueError(f'{args.weights} is {arch_name(numbers)}, '
                                 f'not {arch}')
            arch = arch_name(numbers) or dict(
                embed_dim=numbers[0], depths=numbers[1])
        base = Path(mmfasternet.__file__).parent / '.mim/configs'
        base = base.resolve() / '_base_/yolov8_fasternet.py'
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(
            TEMPLATE.format(
                yaml=Path(args.recipe).name,
                recipe=recipe,
                base=os.path.relpath(base, config.parent.resolve()),
                classes=class_names(recipe, args.classes),
                channels=list(recipe.neck_channels),
                arch=arch))
    print(f'{config}: FasterNet-{arch} at scale {recipe.scale}, '
          f'{recipe.num_classes} classes')
    print('weights: python tools/model_converters/convert_detector.py '
          f'{args.weights or "WEIGHTS"} {config} CHECKPOINT')


if __name__ == '__main__':
    main()
