# SPDX-License-Identifier: Apache-2.0
"""Which split a name of a file or folder means."""
import re
from pathlib import PurePath
from typing import List, Optional, Sequence

_NAMES = dict(
    train='train training trn 训练',
    val='val valid validation validate eval evaluation dev 验证',
    test='test testing tst 测试', trainval='trainval')
ROLES = {word: role for role, w in _NAMES.items() for word in w.split()}
# Words beside them that say nothing else; `train-station` is not a split.
_NEUTRAL = {
    'ann', 'annotation', 'annotations', 'anns', 'coco', 'data', 'dataset',
    'image', 'images', 'img', 'imgs', 'instances', 'jpegimages', 'json',
    'label', 'labels', 'list', 'obj', 'set', 'split', 'txt', 'voc', 'xml',
    'yolo', '图片', '数据', '标注', '集'
}
# They may be written as one with it: `trainset`.
_WORD = '({0})*({1})({0})*'.format('|'.join(_NEUTRAL), '|'.join(ROLES))


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
        words = [w for w in re.split(r'[\W\d_]+', part.lower())
                 if w and w not in _NEUTRAL]
        found = [re.fullmatch(_WORD, word) for word in words]
        roles = [match and ROLES[match[2]] for match in found]
        if roles[-2:] == ['train', 'val']:
            roles[-2:] = ['trainval']
        if roles and roles[-1] and (len(roles) == 1 or not exact):
            return roles[-1]
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
