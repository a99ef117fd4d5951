# SPDX-License-Identifier: Apache-2.0
"""Look at a data set, convert it if it is not COCO, and write a config for it.

DATA is a folder with labels of COCO, Pascal VOC, YOLO (Ultralytics, Darknet,
LabelImg), LabelMe or CVAT, or the data.yaml of a YOLO data set. Nothing in it
is changed; converted labels are written beside it as
annotations/mmfasternet_{train,val,test}.json, under a new name if other
labels stand there. The exit status is 1 if there are images that cannot be
read, though the config of the others is written.
"""
import os
import re
import sys
from pathlib import Path
from statistics import median

import torch

import mmfasternet
from mmfasternet import cli
from mmfasternet.checkpoint import whole_file
from mmfasternet.checkpoint.layouts.detectors import read_detector
from mmfasternet.config import load_config
from mmfasternet.datasets.checks import SplitConfig, check_dataset
from mmfasternet.datasets.images import images_in
from mmfasternet.datasets.readers import (
    account,
    drop_damaged,
    read_dataset,
    write_splits,
)

CONFIGS = (Path(mmfasternet.__file__).parent / '.mim/configs').resolve()
# Gigabytes that autograd keeps per 640x640 image in training, measured on the
# meta device by model size (backbone, neck and head); the loss and temporary
# tensors are allowed as much again. A size that is not here counts as x.
GB_PER_IMAGE = dict(n=0.18, s=0.30, m=0.49, l=0.64, x=0.92)
# On BCCD (205 images) 800 iterations of 8 images at 320 pixels take 6 minutes
# on 2 CPU cores and learn it from scratch; a GPU is given ten times as many.
ITERATIONS = dict(cpu=800, gpu=8000)
EPOCHS = dict(cpu=(30, 100), gpu=(50, 300))  # fewest and most
LONGEST_SIDE = dict(cpu=320, gpu=640)
MAX_LINES = 10  # of boxes and the like that were dropped
STOCK = 'mmyolo::yolov8/yolov8_{}_syncbn_fast_8xb16-500e_coco.py'
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
{test}{unlabelled}classes = {classes!r}
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
{teacher}randomness = dict(seed=0)
'''


def models():
    """The families and sizes of which there is a config, smallest first."""
    names = {path.stem.removeprefix('yolov8_fasternet_')
             for path in CONFIGS.glob('yolov8_fasternet_*.py')}
    names = [name for name in names if re.fullmatch('(lite_)?[a-z]', name)]
    return sorted(names, key=lambda name: (len(name), gb_per_image(name)))


def gb_per_image(model):
    return GB_PER_IMAGE.get(model[-1], max(GB_PER_IMAGE.values()))


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('data', type=Path, help='folder or data.yaml')
    parser.add_argument('config', type=Path, help='config file to write')
    parser.add_argument(
        '--model', '--letter', choices=models(),
        help='size of the detector, lite_ before it for the faster family '
        '(default: s with a GPU, else n)')
    parser.add_argument(
        '--epochs', type=cli.positive_int, help='instead of the proposal')
    parser.add_argument(
        '--img-scale', type=cli.positive_int,
        help='side of the square that images are fitted into, a multiple of '
        '32, instead of the proposal')
    parser.add_argument(
        '--batch-size', type=cli.positive_int, help='likewise')
    parser.add_argument(
        '--teacher',
        help='config of a trained detector to learn from as well: a path, or '
        'mmyolo::yolov8/... (default: that of YOLOv8 if it is in '
        '--teacher-checkpoint)')
    parser.add_argument(
        '--teacher-checkpoint',
        help='its weights, a file or URL, also of Ultralytics')
    parser.add_argument(
        '--unlabelled', type=Path,
        help='folder of images without labels, of which the teacher says '
        'what is in them')
    parser.add_argument(
        '--out-dir', type=Path,
        help='where to write converted labels (default: DATA)')
    parser.add_argument(
        '--force', action='store_true', help='overwrite CONFIG')
    return parser.parse_args()


def statistics(coco):
    """What the proposals depend on, of one split."""
    return dict(
        images=len(coco['images']), boxes=len(coco['annotations']),
        side=median(max(i['width'], i['height']) for i in coco['images']))


def propose(train, size, args):
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
    per_image = 2 * gb_per_image(size) * (side / 640)**2
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
        scale=(side, side), batch=batch, workers=min(os.cpu_count() or 1, 8),
        epochs=epochs, close=max(min(10, epochs // 3), 1),
        warmup=min(3, max(epochs // 10, 1)),
        val_interval=max(epochs // 10, 1),
        log_interval=max(min(iterations // 5, 50), 1))


def find_teacher(args, classes, size):
    """The lines of the config that name the teacher; says what it can do."""
    if args.teacher_checkpoint is None:
        for name in ('teacher', 'unlabelled'):
            if getattr(args, name) is not None:
                raise ValueError(f'--{name} needs --teacher-checkpoint, the '
                                 'weights of the teacher')
        if size.startswith('lite_'):
            print('  teacher: none; from labels alone the lite family has a '
                  'lower AP than YOLOv8. If you have a trained YOLOv8, give '
                  'its weights as --teacher-checkpoint, see docs/en/lite.md')
        return ''
    found = read_detector(args.teacher_checkpoint)
    teacher = args.teacher
    if teacher is None and found.stock_size:
        teacher = STOCK.format(found.stock_size)
    if teacher is None:
        raise ValueError(f'{args.teacher_checkpoint} is not YOLOv8 with its '
                         'own backbone: give its config as --teacher')
    load_config(teacher)
    if found.classes is None:
        print(f'  teacher: {teacher}, the checkpoint does not name its '
              'classes')
    else:
        same = found.classes == tuple(classes)
        print(f'  teacher: {teacher}, its classes are ' +
              ('the same' if same else
               f'others, so only features are learnt: {found.classes}'))
    return f'teacher = {teacher!r}\n' \
        f'teacher_checkpoint = {args.teacher_checkpoint!r}\n'


def find_unlabelled(args, source):
    """The line of the config that names the images without labels."""
    if args.unlabelled is None:
        return ''
    print(f'  unlabelled: {len(images_in(str(args.unlabelled)))} images in '
          f'{args.unlabelled}, of which those with labels are left out')
    return 'unlabelled_data_prefix = ' \
        f'{relative(args.unlabelled, source.root)!r}\n'


def relative(path, root):
    """A path below root as the config names it; '' for root itself."""
    name = os.path.relpath(path, root)
    return '' if name == '.' else name + '/' * Path(path).is_dir()


def render(args, source, files, stats, size, values, teacher):
    """The text of the config."""
    root = Path(os.path.relpath(source.root.resolve(), Path.cwd()))
    if root.parts[:1] == ('..', ):  # out of here: where it is started counts
        root = source.root.resolve()
    base = os.path.relpath(CONFIGS / f'yolov8_fasternet_{size}.py',
                           args.config.parent.resolve())
    paths = {split: (relative(ann, source.root), relative(folder, source.root))
             for split, (ann, folder) in files.items()}
    test = paths.pop('test', None)
    return TEMPLATE.format(
        counts=', '.join(f'{split}: {s["images"]} images and {s["boxes"]} '
                         'boxes' for split, s in stats.items()),
        format=source.format,
        base=base if base.startswith('.') else f'./{base}',
        root=f'{root}/', classes=tuple(source.classes),
        test=f'test_ann_file = {test[0]!r}\ntest_data_prefix = {test[1]!r}\n'
        if test else '', teacher=teacher,
        unlabelled=find_unlabelled(args, source), **paths, **values)


def tell(source):
    """Print what was found, and the account of every file."""
    print(f'{source.root}: {source.format}, {len(source.classes)} classes: '
          f'{", ".join(source.classes)}')
    for path, why in source.dropped.items():
        print(f'  dropped: {path}: {why}')
    for message in source.messages[:MAX_LINES]:
        print(f'  dropped: {message}')
    if len(source.messages) > MAX_LINES:
        print(f'  dropped: {len(source.messages) - MAX_LINES} more')
    for line in account(source):
        print(f'  {line}')


def check(source, files, pictures):
    """Print what training will make of the splits, and stop at the worst."""
    report = check_dataset(
        {split: SplitConfig(str(ann), str(folder), split != 'train',
                            data=source.splits[split].coco)
         for split, (ann, folder) in files.items()}, source.classes,
        pictures=pictures)
    print(report)
    if report.refused:
        sys.exit('error: no config written; correct the data as said above')


def main():
    args = parse_args()
    with cli.clear_errors():
        if args.config.suffix != '.py':
            raise ValueError(f'a config ends in .py, got {args.config}')
        if args.config.exists() and not args.force:
            raise ValueError(f'{args.config} exists; --force overwrites it')
        source = read_dataset(args.data)
        pictures = drop_damaged(source)
        tell(source)
        files = write_splits(
            source, (args.out_dir or source.root) / 'annotations')
        for split, (ann, folder) in files.items():
            print(f'  {split}: {ann}, images in {folder}')
        check(source, files, pictures)
        stats = {split: statistics(part.coco)
                 for split, part in source.splits.items()}
        size = args.model or ('s' if torch.cuda.is_available() else 'n')
        values = propose(stats['train'], size, args)
        teacher = find_teacher(args, source.classes, size)
        text = render(args, source, files, stats, size, values, teacher)
        write(text, args.config)
    print(f'{args.config}: size {size}, images fitted into '
          f'{values["scale"][0]}x{values["scale"][1]}, {values["batch"]} per '
          f'iteration, {values["epochs"]} epochs')
    print(f'next: python tools/train.py {args.config}\n'
          f'then: python tools/test.py {args.config} work_dirs/'
          f'{args.config.stem}/epoch_{values["epochs"]}.pth')
    if 'test' in files:
        print('      (with --split test: on the test split)')
    if source.dropped:
        sys.exit(f'error: {len(source.dropped)} images that cannot be read '
                 'were left out, see above; the config is of the others')


def write(text, path):
    """Write the config, whole or not at all."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ValueError(
            f'cannot write {path}: {error.strerror}. Choose another place '
            'for the config') from None


if __name__ == '__main__':
    main()
