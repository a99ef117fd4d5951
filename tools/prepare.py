# SPDX-License-Identifier: Apache-2.0
"""Look at a data set, convert it if it is not COCO, and write a config for it.

DATA is a folder with COCO json, Pascal VOC xml or YOLO text labels, or the
data.yaml of a YOLO data set. Nothing in it is changed; converted labels are
written beside it as annotations/mmfasternet_{train,val}.json.
"""
import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from statistics import median

import torch

import mmfasternet
from mmfasternet import cli
from mmfasternet.datasets.checks import check_dataset
from mmfasternet.datasets.readers import (
    clean_coco,
    read_dataset,
    write_coco,
)

LETTERS = 'nsmlx'
# Gigabytes that autograd keeps per 640x640 image in training, measured on the
# meta device by letter (backbone, neck and head); the loss and temporary
# tensors are allowed as much again.
GB_PER_IMAGE = dict(n=0.18, s=0.30, m=0.49, l=0.64, x=0.92)
# On BCCD (205 images) 800 iterations of 8 images at 320 pixels take 6 minutes
# on 2 CPU cores and learn it from scratch; a GPU is given ten times as many.
ITERATIONS = dict(cpu=800, gpu=8000)
EPOCHS = dict(cpu=(30, 100), gpu=(50, 300))  # fewest and most
LONGEST_SIDE = dict(cpu=320, gpu=640)
MAX_LINES = 10  # of what was dropped, a split
LARGEST_BATCH = dict(cpu=8, gpu=16)

TEMPLATE = '''\
# {counts}
# {format}, by tools/prepare.py; each line is one knob, see docs/en/own_data.md
_base_ = {base!r}

data_root = {root!r}
train_ann_file = {train[0]!r}
train_data_prefix = {train[1]!r}
val_ann_file = {val[0]!r}
val_data_prefix = {val[1]!r}
classes = {classes!r}
img_scale = {scale}  # width, height; multiples of 32
train_batch_size_per_gpu = {batch}
val_batch_size_per_gpu = {batch}
train_num_workers = {workers}
val_num_workers = {workers}
max_epochs = {epochs}
close_mosaic_epochs = {close}  # the last ones, without mosaic
warmup_epochs = {warmup}
base_lr = 0.002
total_batch_size = {batch}  # of all processes, for which base_lr is
val_interval = {val_interval}
log_interval = {log_interval}
randomness = dict(seed=0)
'''


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path, help='folder or data.yaml')
    parser.add_argument('config', type=Path, help='config file to write')
    parser.add_argument(
        '--letter',
        choices=list(LETTERS),
        help='scale of the detector (default: s with a GPU, else n)')
    parser.add_argument('--epochs', type=int, help='instead of the proposal')
    parser.add_argument(
        '--img-scale', type=int, help='side of the square that images are '
        'fitted into, a multiple of 32, instead of the proposal')
    parser.add_argument('--batch-size', type=int, help='likewise')
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='where to write converted labels (default: DATA)')
    parser.add_argument(
        '--force', action='store_true', help='overwrite CONFIG')
    return parser.parse_args()


def annotation_files(source, out_dir):
    """Json and image folder of each split, after conversion."""
    out_dir = (out_dir or source.root) / 'annotations'
    files = {}
    for split in ('train', 'val'):
        path = out_dir / f'mmfasternet_{split}.json'
        try:
            if source.files:
                files[split] = source.files[split]
                for line in clean_coco(source.files[split][0], path):
                    print(f'  {split}: {line}')
                    files[split] = path, source.files[split][1]
            else:
                write_coco(source.splits[split], source.classes, path)
                files[split] = path, source.root
        except OSError as error:
            raise ValueError(
                f'cannot write {path}: {error.strerror}. Choose another '
                'folder with --out-dir') from None
    return files


def statistics(path, classes):
    """What the proposals depend on, of one json."""
    data = json.loads(path.read_bytes())
    names = {c['id']: c['name'] for c in data['categories']}
    count = Counter(names.get(a['category_id']) for a in data['annotations'])
    return dict(
        images=len(data['images']),
        boxes=len(data['annotations']),
        side=median(max(i['width'], i['height']) for i in data['images']),
        count={name: count[name] for name in classes})


def propose(train, letter, args):
    """Values that suit the size of the set and this machine."""
    device = 'gpu' if torch.cuda.is_available() else 'cpu'
    side = args.img_scale or min(
        -(-int(train['side']) // 32) * 32, LONGEST_SIDE[device])
    if side < 32 or side % 32:
        raise ValueError(f'--img-scale must be a multiple of 32, got {side}')
    if device == 'gpu':
        memory = torch.cuda.mem_get_info()[0] / 1e9
    else:
        # half of what there is: other programs run, too
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2e9
    per_image = 2 * GB_PER_IMAGE[letter] * (side / 640)**2
    batch = 1
    # at least 25 iterations an epoch, within the memory
    while 2 * batch <= min(LARGEST_BATCH[device], train['images'] / 25,
                           0.8 * memory / per_image):
        batch *= 2
    batch = args.batch_size or batch
    iterations = max(train['images'] // batch, 1)
    low, high = EPOCHS[device]
    epochs = args.epochs or min(
        max(round(ITERATIONS[device] / iterations / 10) * 10, low), high)
    return dict(
        scale=(side, side),
        batch=batch,
        workers=min(os.cpu_count() or 1, 8),
        epochs=epochs,
        close=max(min(10, epochs // 3), 1),
        warmup=min(3, max(epochs // 10, 1)),
        val_interval=max(epochs // 10, 1),
        log_interval=max(min(iterations // 5, 50), 1))


def relative(path, root):
    """A path below root as the config names it; '' for root itself."""
    name = os.path.relpath(path, root)
    return '' if name == '.' else name + '/' * Path(path).is_dir()


def render(args, source, files, stats, letter, values):
    """The text of the config."""
    configs = (Path(mmfasternet.__file__).parent / '.mim/configs').resolve()
    root = Path(os.path.relpath(source.root.resolve(), Path.cwd()))
    if root.parts[:1] == ('..', ):  # out of here: where it is started counts
        root = source.root.resolve()
    base = os.path.relpath(configs / f'yolov8_fasternet_{letter}.py',
                           args.config.parent.resolve())
    paths = {
        split: (relative(ann, source.root), relative(folder, source.root))
        for split, (ann, folder) in files.items()
    }
    return TEMPLATE.format(
        counts=', '.join(f'{split}: {s["images"]} images and {s["boxes"]} '
                         'boxes' for split, s in stats.items()),
        format=source.format,
        base=base if base.startswith('.') else f'./{base}',
        root=f'{root}/',
        classes=tuple(source.classes),
        **paths,
        **values)


def main():
    args = parse_args()
    with cli.clear_errors():
        if args.config.suffix != '.py':
            raise ValueError(f'a config ends in .py, got {args.config}')
        if args.config.exists() and not args.force:
            raise ValueError(f'{args.config} exists; --force overwrites it')
        source = read_dataset(args.data)
        print(f'{args.data}: {source.format}, {len(source.classes)} classes: '
              f'{", ".join(source.classes)}')
        for split, labels in source.splits.items():
            for line in labels.dropped[:MAX_LINES]:
                print(f'  dropped: {line}')
            print(f'  {split}: {len(labels.dropped)} dropped')
        files = annotation_files(source, args.out_dir)
        for split, (ann, folder) in files.items():
            print(f'  {split}: {ann}, images in {folder}')
        report = check_dataset(files, source.classes)
        print(report)
        if report.refused:
            sys.exit('error: no config written; mend the data as said above')
        stats = {
            split: statistics(ann, source.classes)
            for split, (ann, _) in files.items()
        }
        letter = args.letter or ('s' if torch.cuda.is_available() else 'n')
        values = propose(stats['train'], letter, args)
        text = render(args, source, files, stats, letter, values)
        args.config.parent.mkdir(parents=True, exist_ok=True)
        args.config.write_text(text, encoding='utf-8')
    name = args.config.stem
    print(f'{args.config}: letter {letter}, images fitted into '
          f'{values["scale"][0]}x{values["scale"][1]}, {values["batch"]} per '
          f'iteration, {values["epochs"]} epochs')
    print(f'next: python tools/train.py {args.config}\n'
          f'then: python tools/test.py {args.config} '
          f'work_dirs/{name}/epoch_{values["epochs"]}.pth')


if __name__ == '__main__':
    main()
