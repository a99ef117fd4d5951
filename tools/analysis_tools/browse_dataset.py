# SPDX-License-Identifier: GPL-3.0-only
"""Draw images with their boxes as the network gets them, on one sheet.

An image that cannot be read is named and left out; the exit status is 1 then.
"""
import math
import random
import sys
from pathlib import Path
from typing import Iterator, List

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import set_random_seed
from PIL import Image

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import cli
from mmfasternet.config import load_config, require_loader
from mmfasternet.datasets.from_config import leaf_datasets
from mmfasternet.visualization.detections import paint

MIN_TILE = 320  # pixels; smaller images are enlarged by a whole number
GAP = 8


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--phase', '-p', choices=['train', 'val'], default='train',
        help='which data loader (default: train)')
    parser.add_argument(
        '--number', '--show-number', '-n', type=int, default=16,
        help='how many images, chosen at random (default: 16)')
    parser.add_argument(
        '--stage2', action='store_true',
        help='the pipeline after PipelineSwitchHook has switched, which is '
        'the one without mosaic')
    parser.add_argument(
        '--out', type=Path,
        help='the picture (default: work_dirs/NAME/browse_PHASE.png)')
    parser.add_argument(
        '--seed', type=cli.seed, default=0,
        help='of the choice and of the augmentation (default: 0)')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if args.number < 1:
        parser.error(f'--number must be 1 or more, got {args.number}')
    if args.stage2 and args.phase != 'train':
        parser.error('--stage2 is for --phase train')
    return args


def main():
    args = parse_args()
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        require_loader(cfg, args.phase)
        dataset = build_dataset(cfg, args.phase, args.stage2)
        set_random_seed(args.seed)
        tiles = list(draw_items(dataset, args.number))
        if not tiles:
            raise ValueError('none of the images can be read, see above')
        stage = '_stage2' if args.stage2 else ''
        folder = Path(cfg.get('work_dir')
                      or f'work_dirs/{Path(args.config).stem}')
        out = args.out or folder / f'browse_{args.phase}{stage}.png'
        cli.make_folder(out.parent)
        Image.fromarray(join(tiles)).save(out)
    print(f'{len(tiles)} images of {args.phase} in {out}')
    lost = min(args.number, len(dataset)) - len(tiles)
    if lost:
        sys.exit(f'error: {lost} that cannot be read were left out, see above')


def build_dataset(cfg: Config, phase: str, stage2: bool):
    """The data set of a phase; its boxes go through the whole pipeline."""
    dataset = cfg[f'{phase}_dataloader'].dataset
    for leaf in leaf_datasets(dataset):
        if stage2:
            leaf.pipeline = switched_pipeline(cfg)
        if phase == 'val':
            leaf.pipeline = annotations_first(leaf.pipeline)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return DATASETS.build(dataset)


def switched_pipeline(cfg: Config) -> list:
    for hook in cfg.get('custom_hooks') or []:
        if 'switch_pipeline' in hook:
            return hook.switch_pipeline
    raise ValueError(f'--stage2: {cfg.filename} has no hook with a '
                     'switch_pipeline in custom_hooks')


def annotations_first(pipeline: list) -> list:
    """Load the boxes before the resize, so that it moves them too.

    Evaluation compares in pixels of the original image and loads them after.
    """
    load = [t for t in pipeline if t['type'].endswith('LoadAnnotations')]
    rest = [t for t in pipeline if t not in load]
    return [rest[0], *load, *rest[1:]]


def draw_items(dataset, number: int) -> Iterator[np.ndarray]:
    chosen = random.sample(range(len(dataset)), min(number, len(dataset)))
    for index in chosen:
        try:
            item = dataset[index]
        except (AssertionError, OSError, cv2.error) as error:
            print(f'left out: {error}')  # it, or another one of its mosaic
            continue
        sample = item['data_samples']
        if 'gt_instances' not in sample:
            raise ValueError('the data set has no boxes: it is not one for '
                             'detection')
        names = dataset.metainfo['classes']
        boxes = sample.gt_instances.bboxes
        boxes = getattr(boxes, 'tensor', boxes).tolist()
        labels = sample.gt_instances.labels.tolist()
        caption = f'{Path(sample.img_path).name}, {len(boxes)} boxes'
        bgr = item['inputs'].numpy().transpose(1, 2, 0)
        yield draw(
            np.clip(bgr[..., ::-1], 0, 255).astype(np.uint8), boxes,
            [(label, names[label]) for label in labels], caption)


def draw(rgb: np.ndarray, boxes: List[list], labels: List[tuple],
         caption: str) -> np.ndarray:
    """One tile: the image, enlarged if small, and a caption below."""
    factor = max(1, math.ceil(MIN_TILE / max(rgb.shape[:2])))
    boxes = factor * np.array(boxes).reshape(-1, 4)
    return paint(
        rgb.repeat(factor, 0).repeat(factor, 1), boxes,
        [label for label, _ in labels], [name for _, name in labels],
        caption=caption)


def join(tiles: List[np.ndarray]) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = (max(t.shape[i] for t in tiles) + GAP for i in (0, 1))
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        sheet[y:y + tile.shape[0], x:x + tile.shape[1]] = tile
    return sheet


if __name__ == '__main__':
    main()
