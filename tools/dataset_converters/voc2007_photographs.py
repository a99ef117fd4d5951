# SPDX-License-Identifier: Apache-2.0
"""Make the photographs of docs/en/lite.md from Pascal VOC 2007.

VOC_DIR is VOCdevkit/VOC2007 of VOCtest_06-Nov-2007.tar
(http://host.robots.ox.ac.uk/pascal/VOC/voc2007/). Its images that
voc2007_photographs.csv lists, 416 pixels on the long side, go to OUT_DIR in
VOC's own format, which tools/dataset_converters/voc2coco.py and
tools/prepare.py read. They are split by photographer; an AP on them can be
compared with another AP on them only.
"""
import csv
import xml.etree.ElementTree as ET
from pathlib import Path

from mmengine.utils import track_iter_progress
from PIL import Image

from mmfasternet import cli
from mmfasternet.datasets.readers.voc import Xml

LONG_SIDE = 416
QUALITY = 85  # of the JPEG files
# in the order of the files' names, on which that of a training run depends
LIST = Path(__file__).with_suffix('.csv')


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('voc_dir', type=Path, help='VOCdevkit/VOC2007')
    parser.add_argument('out_dir', type=Path, help='where to write')
    parser.add_argument(
        '--people', action='store_true',
        help='only images with a person not marked difficult, and of their '
        'objects only persons')
    parser.add_argument(
        '--list', type=Path, default=LIST,
        help='other images: a csv file with the columns voc2007_id and split')
    return parser.parse_args()


def main():
    args = parse_args()
    with cli.clear_errors():
        for name in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
            cli.make_folder(args.out_dir / name)
        splits = {}
        with open(args.list, newline='') as file:
            rows = list(csv.DictReader(file))
        if not rows or not {'voc2007_id', 'split'} <= rows[0].keys():
            raise ValueError(f'{args.list} has no rows with the columns '
                             'voc2007_id and split')
        for number, row in enumerate(track_iter_progress(rows)):
            name = f'{number:04}'
            if convert(args.voc_dir, row['voc2007_id'], args.out_dir, name,
                       args.people):
                splits.setdefault(row['split'], []).append(name)
        for split, names in splits.items():
            (args.out_dir / f'ImageSets/Main/{split}.txt').write_text(
                '\n'.join(names) + '\n')
            print(f'{split}: {len(names)} images')


def convert(voc_dir: Path, voc_id: str, out_dir: Path, name: str,
            people: bool) -> bool:
    """Write one image and its objects; False if it is not wanted."""
    xml = Xml(voc_dir / 'Annotations' / f'{voc_id}.xml')
    if people:
        for other in xml.root.findall('object'):
            if xml.text(other, 'name') != 'person':
                xml.root.remove(other)
        if all(o.findtext('difficult') == '1'
               for o in xml.root.findall('object')):
            return False
    with Image.open(voc_dir / 'JPEGImages' / f'{voc_id}.jpg') as image:
        scale = LONG_SIDE / max(image.size)
        size = tuple(round(side * scale) for side in image.size)
        image.resize(size, Image.Resampling.BICUBIC).save(
            out_dir / 'JPEGImages' / f'{name}.jpg', quality=QUALITY)
    xml.root.find('filename').text = f'{name}.jpg'
    for tag, side in zip(('width', 'height'), size):
        xml.root.find(f'size/{tag}').text = str(side)
    for box in xml.root.findall('object/bndbox'):
        for corner in box:  # VOC counts from 1, and both ends are inside
            first = 1 if corner.tag.endswith('min') else 0
            value = (xml.number(box, corner.tag) - first) * scale + first
            corner.text = f'{value:.2f}'
    ET.ElementTree(xml.root).write(out_dir / 'Annotations' / f'{name}.xml')
    return True


if __name__ == '__main__':
    main()
