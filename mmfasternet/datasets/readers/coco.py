# SPDX-License-Identifier: Apache-2.0
"""COCO json: one file for each split, or one for all."""
import json
import operator
import os
import re
from pathlib import Path, PurePath
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmfasternet.datasets.files import decode
from mmfasternet.datasets.readers.source import (
    IMAGE_FOLDERS,
    Source,
    Split,
    Tree,
    first_names,
    split_by_chance,
)
from mmfasternet.datasets.readers.split_names import role_of, roles_of
from mmfasternet.datasets.readers.splits import settle

_KEYS = ('images', 'annotations', 'categories')
OURS = 'mmfasternet_'  # what prepare writes begins with it
# Beside instances_*.json, of the same images.
_OTHER_TASKS = ('captions_', 'image_info_', 'panoptic_', 'person_keypoints_',
                'stuff_')


def read_jsons(tree: Tree) -> Tuple[Dict[Path, Any], List[Path]]:
    """Read the json files of a folder, but for those of other tasks.

    Returns:
        tuple: What they hold, by path; and those that are not plain UTF-8.

    Raises:
        ValueError: If one is broken that was labels.
    """
    paths = [p for p in tree.having(('.json', ))
             if not p.name.startswith(OURS)]
    if any(p.name.startswith('instances_') for p in paths):
        paths = [p for p in paths if not p.name.startswith(_OTHER_TASKS)]
    found, other = {}, []
    for path in paths:
        data = path.read_bytes()
        try:
            text = decode(data, path)
            found[path] = json.loads(text)
            if text.encode(errors='replace') != data:
                other.append(path)
        except (ValueError, RecursionError) as error:
            # a program's settings may have comments
            if re.search(rb'"(images|annotations|categories|shapes)"', data) \
                    or any(roles_of([[path.relative_to(tree.root)]])):
                raise ValueError(f'{path} is not json: {error}') from None
    return found, other


def is_coco(data: Any) -> bool:
    """Whether a json is COCO, or is meant to be: a key may be missing."""
    return isinstance(data, dict) and 'images' in data and bool(
        {'annotations', 'categories'} & {*data})


def read_coco(tree: Tree, jsons: Dict[Path, dict],
              recode: Sequence[Path]) -> Source:
    """Take the splits from the names of the files.

    ``recode`` are those that have to be written in UTF-8.

    Raises:
        ValueError: If it is not clear which is the training split, or a file
            lacks a part.
    """
    source = Source('COCO', tree)
    source.labels = {path: [path] for path in jsons}  # no image of a split
    for split, path in _files(source, jsons).items():
        data = jsons[path]
        if split == 'test' and 'annotations' not in data:  # not for us
            data = dict(data, annotations=[])
        if not all(isinstance(data.get(key), list) for key in _KEYS):
            raise ValueError(f'{path}: images, annotations and categories '
                             'must be lists')
        data = _same_form(data)
        role = roles_of([[path.relative_to(tree.root)]])[0]
        folder = _image_folder(tree, path, data, role)
        coco = _find_images(tree, path, data, folder, role)
        coco = _with_sizes(source, split, coco, folder)
        as_it_is = coco is jsons[path] and path not in recode
        source.splits[split] = Split(coco, folder, path if as_it_is else None)
        source.labels[path] = [*map(Path, source.splits[split].paths())]
    if 'val' not in source.splits:
        train = source.splits['train']
        for split, coco in zip(('train', 'val'), _by_chance(train.coco)):
            source.splits[split] = Split(coco, train.folder)
    _name_classes(source)
    return source


def _same_form(coco: dict) -> dict:
    """Ids of images and categories written as they are where they are from:
    VIA refers to the image 1 by '1', pandas by 1.0."""
    annotations = coco['annotations']
    for key, whole in (('image_id', 'images'), ('category_id', 'categories')):
        ids = [e['id'] for e in coco[whole] if isinstance(e, dict)
               and isinstance(e.get('id'), (int, float, str))]
        forms = {_plain(i): i for i in reversed(ids)}
        exact = {repr(i) for i in ids}
        annotations = [
            dict(a, **{key: forms[_plain(a[key])]})
            if isinstance(a, dict) and _plain(a.get(key)) in forms
            and repr(a[key]) not in exact else a for a in annotations]
    same = all(map(operator.is_, annotations, coco['annotations']))
    return coco if same else dict(coco, annotations=annotations)


def _plain(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _files(source: Source, jsons: Dict[Path, dict]) -> Dict[str, Path]:
    """The file of each split."""
    root, groups, paths = source.root, {}, [*jsons]
    for role, path in zip(roles_of([[p.relative_to(root)] for p in paths]),
                          paths):
        groups.setdefault(role or '', []).append(path)
    for role, several in groups.items():
        whole = [p for p in several if jsons[p].keys() >= {*_KEYS}] or several
        chosen = [p for p in whole
                  if p.stem.startswith('instances_')] or whole
        if not role and len(groups) > 1 and {'train', 'trainval'} & {*groups}:
            groups[''] = [[path] for path in several]  # copies and the like
            continue
        if len(chosen) > 1:
            raise ValueError(
                f'{root}: {len(several)} json files of one split, '
                f'{first_names(several)}: which is it? Move the others away, '
                'or join them into one')
        groups[role] = [chosen]
    if groups.keys().isdisjoint({'train', 'trainval', ''}):
        raise ValueError(
            f'{root}: none of {first_names(paths)} is '
            'the training split, by its name or its folder\'s')
    groups = settle(groups, source, 'files')
    return {split: groups[split][0][0]
            for split in ('train', 'val', 'test') if split in groups}


def _name_classes(source: Source) -> None:
    """The names in the order of the training file, which decides the labels.

    Roboflow's first category is what the others are a kind of, and has no
    box. It is not a class; where it has the name of one it goes.
    """
    used = {repr(a.get('category_id')) for split in source.splits.values()
            for a in split.coco['annotations'] if isinstance(a, dict)}
    categories = [c for c in source.splits['train'].coco['categories']
                  if isinstance(c, dict) and 'name' in c]
    above = [c.get('supercategory') for c in categories]
    dead = [c for c in categories if c['name'] in above and repr(
        c.get('id')) not in used and c.get('supercategory') in (
            None, '', 'none')]
    source.classes = tuple(str(c['name']) for c in categories
                           if c not in dead)
    if any(c['name'] in source.classes for c in dead):
        for name, split in source.splits.items():
            left = [c for c in split.coco['categories'] if c not in dead]
            source.splits[name] = Split(
                dict(split.coco, categories=left), split.folder)


def _by_chance(coco: dict) -> List[dict]:
    """Two parts; an annotation of no image trains, and is judged there.

    An image that is listed twice is in one of them.
    """
    names = [repr(i['file_name'] if isinstance(i, dict) and 'file_name' in i
                  else i) for i in coco['images']]
    train, val = ([i for i, name in zip(coco['images'], names) if name in part]
                  for part in map(set, split_by_chance([*dict.fromkeys(
                      names)])))
    of_val = {repr(i.get('id')) for i in val if isinstance(i, dict)}
    parts: Tuple[list, list] = [], []
    for annotation in coco['annotations']:
        parts[isinstance(annotation, dict) and repr(
            annotation.get('image_id')) in of_val].append(annotation)
    return [dict(coco, images=images, annotations=annotations)
            for images, annotations in zip((train, val), parts)]


def _may_have(own: Optional[str], folder: PurePath) -> bool:
    """Whether images in a folder may be those of a json of the role ``own``;
    the folder is relative to the data set."""
    role = role_of(folder)
    return own in (None, 'trainval', role) or role in (None, 'trainval')


def _image_folder(tree: Tree, path: Path, coco: dict,
                  own: Optional[str]) -> Path:
    """The folder in which most of the first images are."""
    names = [image['file_name'] for image in coco['images'][:50]
             if isinstance(image, dict)
             and isinstance(image.get('file_name'), str)]
    folders = {path.parent, tree.root}
    for folder in {image.parent for image in tree.images}:
        folders |= {f for f in (folder, *folder.parents)
                    if tree.root in (f, *f.parents)}

    def order(folder: Path) -> tuple:
        relative = folder.relative_to(tree.root)
        return (folder != path.parent, roles_of([[relative]])[0] != own,
                len(relative.parts),
                IMAGE_FOLDERS.isdisjoint(p.lower() for p in relative.parts),
                str(relative))

    found = {folder: sum(os.path.isfile(folder / name) for name in names)
             for folder in sorted(folders, key=order)}
    # images of the same names in a folder of another split are others
    ours = [f for f in found
            if found[f] and _may_have(own, f.relative_to(tree.root))]
    best = max(ours or found, key=lambda folder: found[folder])
    if names and not found[best]:
        if not any(tree.named(name, path) for name in names):
            raise ValueError(
                f'{path}: none of its first images ({", ".join(names[:3])}) '
                f'is in {", ".join(map(str, [*found][:5]))}')
        return tree.root
    return best


def _find_images(tree: Tree, path: Path, coco: dict, folder: Path,
                 own: Optional[str]) -> dict:
    """Name images as they are here, not on another machine or in Windows."""
    images = []
    for image in coco['images']:
        name = image.get('file_name') if isinstance(image, dict) else None
        if isinstance(name, str) and not os.path.isfile(folder / name):
            here = tree.named(name, path)
            if here and _may_have(own, tree.folder_of(here)):
                image = dict(image, file_name=os.path.relpath(here, folder))
        images.append(image)
    return coco if images == coco['images'] else dict(coco, images=images)


def _with_sizes(source: Source, split: str, coco: dict, folder: Path) -> dict:
    """Images with the size of their file, where a json states none."""
    images, sized = [*coco['images']], 0
    for i, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(
                image.get('file_name'), str) or None not in (
                    image.get('width'), image.get('height')):
            continue
        path = folder / image['file_name']
        size = source.size_of(path) if path.is_file() else None
        if size:
            images[i] = dict(image, width=size[0], height=size[1])
            sized += 1
    if not sized:
        return coco
    source.messages.append(
        f'{split}: {sized} images without width or height: written')
    return dict(coco, images=images)
