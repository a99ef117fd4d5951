# SPDX-License-Identifier: Apache-2.0
"""Convert a Pascal VOC data set to COCO json.

Reads ``Annotations``, ``JPEGImages`` and ``ImageSets/Main`` of VOC_DIR and
writes ``annotations/SPLIT.json`` and a link ``JPEGImages`` into OUT_DIR.
"""
import os
import sys
from collections import Counter
from pathlib import Path

from mmfasternet import cli
from mmfasternet.datasets.readers import clean, read_voc_lists, write_coco


def parse_args():
    parser = cli.tool_parser(__doc__.split('\n')[0])
    parser.add_argument('voc_dir', type=Path, help='the Pascal VOC folder')
    parser.add_argument('out_dir', type=Path, help='where to write')
    parser.add_argument(
        '--splits',
        nargs='+',
        default=['train', 'val'],
        help='names of ImageSets/Main/NAME.txt (default: train val)')
    parser.add_argument(
        '--classes',
        nargs='+',
        help='the class names; any other in the data is an error (default: '
        'all that occur in the splits)')
    return parser.parse_args()


def main():
    args = parse_args()
    with cli.clear_errors():
        source = read_voc_lists(args.voc_dir, args.splits, args.classes)
        folder = args.voc_dir / 'JPEGImages'
        for split in source.splits.values():
            for image, path in zip(split.coco['images'], split.paths()):
                image['file_name'] = os.path.relpath(path, folder)
                if image['file_name'].startswith('..'):
                    raise ValueError(f'{path} is not in {folder}; '
                                     'tools/prepare.py takes images anywhere')
        link_images(folder, args.out_dir / 'JPEGImages')
        for name, split in source.splits.items():
            split, done = clean(split)
            write_coco(split.coco,
                       args.out_dir / 'annotations' / f'{name}.json')
            count = Counter(
                a['category_id'] for a in split.coco['annotations'])
            print(f'{name}: {len(split.coco["images"])} images, '
                  f'{len(split.coco["annotations"])} boxes ' +
                  ', '.join(f'{c["name"]} {count[c["id"]]}'
                            for c in split.coco['categories']))
            for line in done:
                print(f'  dropped: {line}')
        for message in source.messages:
            print(f'  dropped: {message}')
        print(f'  {len(source.messages)} boxes dropped')
        for path, why in source.dropped.items():
            print(f'  dropped: {path}: {why}')
        print(f'classes = {source.classes}')
    if source.dropped:
        sys.exit(f'error: {len(source.dropped)} images that cannot be read '
                 'were left out, see above')


def link_images(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        os.symlink(source.resolve(), link, target_is_directory=True)
    elif link.resolve() != source.resolve():
        raise ValueError(f'{link} exists and is not {source}; choose another '
                         'output folder or remove it')


if __name__ == '__main__':
    main()
