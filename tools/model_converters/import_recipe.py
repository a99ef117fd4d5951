# SPDX-License-Identifier: GPL-3.0-only
"""Turn the YAML of YOLOv8 with FasterNet pasted in into one of our configs.

The weights of such a model follow with convert_detector.py and that config;
outputs are equal.
"""
import argparse
import os
from pathlib import Path

import mmfasternet
from mmfasternet import cli
from mmfasternet.checkpoint.layouts.fasternet import (
    arch_name,
    find_arch,
    read_weights,
)
from mmfasternet.checkpoint.layouts.ultralytics import read_recipe
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


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='YAML file of the model')
    parser.add_argument('config', help='config file to write')
    parser.add_argument(
        '--scale', help='letter of the scale (default: as Ultralytics)')
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
        recipe = read_recipe(args.recipe, args.scale)
        arch = args.arch or recipe.arch or 't2'
        if args.weights:
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
