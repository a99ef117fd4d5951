# SPDX-License-Identifier: Apache-2.0
"""Which split a name of a file or folder means."""
import re
from pathlib import PurePath
from typing import List, Optional, Sequence

_NAMES = dict(
    train='train training', val='val valid validation', test='test testing',
    trainval='trainval')
ROLES = {word: role for role, w in _NAMES.items() for word in w.split()}
# Words beside them that say nothing else; `train-station` is not a split.
_NEUTRAL = {
    'ann', 'annotation', 'annotations', 'anns', 'coco', 'data', 'dataset',
    'image', 'images', 'img', 'imgs', 'instances', 'jpegimages', 'json',
    'label', 'labels', 'obj', 'set', 'split', 'txt', 'voc', 'xml', 'yolo'
}


def role_of(path: PurePath, exact: bool = True) -> Optional[str]:
    """The split that a path names; its last part counts most.

    Args:
        path (PurePath): Relative to the data set.
        exact (bool): Whether a part must say nothing else (``train2017``,
            ``train_images``); else it may end in it (``mine_train``).

    Returns:
        str: ``'train'``, ``'val'``, ``'test'``, ``'trainval'`` or None.
    """
    for part in reversed(path.parts):
        words = [w for w in re.split(r'[^a-z]+', part.lower())
                 if w and w not in _NEUTRAL]
        if words and words[-1] in ROLES and (len(words) == 1 or not exact):
            return ROLES[words[-1]]
    return None


def roles_of(paths: Sequence[Sequence[PurePath]]) -> List[Optional[str]]:
    """The role of each thing, of which any path may name it.

    Where one is named exactly, only exact names count.
    """
    roles: List[Optional[str]] = []
    for exact in (True, False):
        roles = [next(filter(None, (role_of(p, exact) for p in some)), None)
                 for some in paths]
        if any(roles):
            break
    return roles
