# SPDX-License-Identifier: Apache-2.0
"""Convert a Pascal VOC data set to COCO json.

Reads ``Annotations``, ``JPEGImages`` and ``ImageSets/Main`` of VOC_DIR and
writes ``annotations/SPLIT.json`` and a link ``JPEGImages`` into OUT_DIR.
"""
import argparse
import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from xml.parsers import expat

from tqdm import tqdm

from mmfasternet.config import clear_errors


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
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


class Annotation:
    """One xml file whose errors name the file and the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = {}
        parser = expat.ParserCreate()
        builder = ET.TreeBuilder()

        def start(tag, attributes):
            element = builder.start(tag, attributes)
            self.lines[element] = parser.CurrentLineNumber

        parser.StartElementHandler = start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        try:
            parser.Parse(path.read_bytes(), True)
        except FileNotFoundError:
            raise FileNotFoundError(f'{path}: no such annotation') from None
        except expat.ExpatError as error:
            raise ValueError(f'{path}:{error.lineno}: broken xml: '
                             f'{expat.ErrorString(error.code)}') from error
        self.root = builder.close()

    def error(self, element: ET.Element, text: str) -> ValueError:
        return ValueError(f'{self.path}:{self.lines[element]}: {text}')

    def text(self, parent: ET.Element, name: str) -> str:
        element = parent.find(name)
        if element is None or not (element.text or '').strip():
            raise self.error(parent, f'<{parent.tag}> has no <{name}>')
        return element.text.strip()

    def number(self, parent: ET.Element, name: str) -> float:
        text = self.text(parent, name)
        try:
            return float(text)
        except ValueError:
            raise self.error(
                parent.find(name),
                f'<{name}> must be a number, got {text!r}') from None


def find_image(folder: Path, stem: str, annotation: Annotation) -> Path:
    named = folder / annotation.root.findtext('filename', '').strip()
    candidates = [named] if named.stem == stem and named.is_file() else sorted(
        folder.glob(f'{stem}.*'))
    if not candidates:
        raise FileNotFoundError(
            f'{annotation.path}: no image {stem}.* in {folder}')
    return candidates[0]


def convert_split(voc_dir: Path, split: str) -> tuple:
    """Images, ``(annotation, element, box)`` rows and dropped boxes."""
    list_file = voc_dir / 'ImageSets' / 'Main' / f'{split}.txt'
    if not list_file.is_file():
        raise FileNotFoundError(f'{list_file}: no such split')
    stems = [line.split()[0] for line in list_file.read_text().split('\n')
             if line.strip()]
    images, rows, dropped = [], [], []
    for image_id, stem in enumerate(tqdm(stems, desc=split), 1):
        source = Annotation(voc_dir / 'Annotations' / f'{stem}.xml')
        image = find_image(voc_dir / 'JPEGImages', stem, source)
        size = source.root.find('size')
        if size is None:
            raise source.error(source.root, 'there is no <size>')
        width, height = (source.number(size, 'width'),
                         source.number(size, 'height'))
        images.append(
            dict(
                id=image_id,
                file_name=image.name,
                width=int(width),
                height=int(height)))
        for element in source.root.iter('object'):
            box = element.find('bndbox')
            if box is None:
                raise source.error(element, '<object> has no <bndbox>')
            # VOC counts pixels from 1
            x1, y1, x2, y2 = (
                min(max(source.number(box, key) - 1, 0), limit)
                for key, limit in (('xmin', width), ('ymin', height),
                                   ('xmax', width), ('ymax', height)))
            if x2 <= x1 or y2 <= y1:
                dropped.append(
                    f'{source.path}:{source.lines[box]}: box of '
                    f'{source.text(element, "name")} has no area inside the '
                    f'{width:g}x{height:g} image')
                continue
            rows.append((source, element,
                         dict(
                             image_id=image_id,
                             bbox=[x1, y1, x2 - x1, y2 - y1],
                             area=(x2 - x1) * (y2 - y1),
                             iscrowd=int(
                                 element.findtext('difficult', '0').strip()
                                 == '1'))))
    return images, rows, dropped


def main():
    args = parse_args()
    with clear_errors():
        splits = {s: convert_split(args.voc_dir, s) for s in args.splits}
        found = {
            source.text(element, 'name')
            for _, rows, _ in splits.values() for source, element, _ in rows
        }
        classes = args.classes or sorted(found)
        for _, rows, _ in splits.values():
            for source, element, _ in rows:
                name = source.text(element, 'name')
                if name not in classes:
                    raise source.error(
                        element.find('name'), f'unknown class {name!r}; '
                        f'--classes are {", ".join(classes)}')

        link_images(args.voc_dir / 'JPEGImages', args.out_dir / 'JPEGImages')
        for split, (images, rows, dropped) in splits.items():
            write_split(args.out_dir / 'annotations' / f'{split}.json',
                        images, rows, classes)
            count = Counter(s.text(e, 'name') for s, e, _ in rows)
            print(f'{split}: {len(images)} images, {len(rows)} boxes ' +
                  ', '.join(f'{name} {count[name]}' for name in classes))
            for message in dropped:
                print(f'  dropped: {message}')
            print(f'  {len(dropped)} boxes dropped')
        print(f'classes = {tuple(classes)}')


def link_images(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        os.symlink(source.resolve(), link, target_is_directory=True)
    elif link.resolve() != source.resolve():
        raise ValueError(f'{link} exists and is not {source}; choose another '
                         'output folder or remove it')


def write_split(path: Path, images: list, rows: list, classes: list) -> None:
    ids = {name: i for i, name in enumerate(classes, 1)}
    annotations = [
        dict(
            id=i,
            category_id=ids[source.text(element, 'name')],
            **box) for i, (source, element, box) in enumerate(rows, 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')  # renamed only when complete
    partial.write_text(
        json.dumps(
            dict(
                images=images,
                annotations=annotations,
                categories=[dict(id=i, name=n) for n, i in ids.items()])))
    partial.replace(path)


if __name__ == '__main__':
    main()
