# SPDX-License-Identifier: Apache-2.0
"""Detection data sets as people have them; everything becomes COCO json.

A module for each format finds images and their labels, :mod:`.splits` says
which of them train, and :mod:`.coco_writing` writes what is not a file yet.
"""
from pathlib import Path

from mmfasternet.datasets.readers.coco import is_coco, read_coco, read_jsons
from mmfasternet.datasets.readers.coco_writing import (
    clean,
    drop_damaged,
    write_coco,
    write_splits,
)
from mmfasternet.datasets.readers.cvat import cvat_files, read_cvat
from mmfasternet.datasets.readers.file_accounting import account
from mmfasternet.datasets.readers.labelme import is_labelme, read_labelme
from mmfasternet.datasets.readers.source import Source, Split, Tree
from mmfasternet.datasets.readers.voc import read_voc, read_voc_lists
from mmfasternet.datasets.readers.yolo import (
    YAML,
    config_of,
    inner_config,
    is_yolo,
    read_yolo,
)

__all__ = [
    'Source', 'Split', 'account', 'clean', 'drop_damaged', 'read_dataset',
    'read_voc_lists', 'write_coco', 'write_splits'
]


def read_dataset(path: Path) -> Source:
    """Recognise and read a data set.

    Args:
        path (Path): A folder, or the ``data.yaml`` of a YOLO data set.

    Returns:
        Source: Its classes and splits. Without a validation split of its own,
        one image in five of the training split validates, by a fixed random
        choice.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it is none of the formats, or its labels are broken;
            with file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'no such file or folder: {path}')
    source = _read(path)
    for name, split in source.splits.items():
        source.splits[name], done = clean(split)
        source.messages += [f'{name}: {line}' for line in done]
    if 'test' in source.splits and not source.splits['test'].coco[
            'annotations']:
        del source.splits['test']
        source.messages.append('test: left out, as it has no boxes with '
                               'which it could be evaluated')
    return source


def _read(path: Path) -> Source:
    if path.is_file():
        if path.suffix.lower() not in YAML:
            raise ValueError(f'{path} is a file: give the folder of the data '
                             'set, or the data.yaml of a YOLO one')
        return read_yolo(path.parent, path)
    config = config_of(path)
    if config is not None:
        return read_yolo(path, config)
    tree = Tree(path)
    jsons, recode = read_jsons(tree)
    coco = {p: data for p, data in jsons.items() if is_coco(data)}
    if coco:
        return read_coco(tree, coco, recode)
    cvat = cvat_files(tree)
    if cvat:
        return read_cvat(tree, cvat)
    if tree.having(('.xml', )):
        return read_voc(tree)
    labelme = {p: data for p, data in jsons.items() if is_labelme(data)}
    if labelme:
        return read_labelme(tree, labelme)
    config = inner_config(tree)
    if config is not None or is_yolo(tree):
        return read_yolo(path, config, tree)
    raise ValueError(
        f'{path}: no labels found. Looked for a *.yaml with names (YOLO), '
        '*.json with images, annotations and categories (COCO) or shapes '
        '(LabelMe), *.xml (Pascal VOC, CVAT), and text files of the names of '
        'images, beside them or in a folder labels (YOLO)')
