# SPDX-License-Identifier: Apache-2.0
"""The data sets that a config names."""
from typing import Iterator, Optional, Sequence

# Of what every data set class takes; another kind ends deep inside it.
_KINDS = {
    'type': (str, type), 'ann_file': (str, ), 'data_root': (str, ),
    'data_prefix': (dict, str), 'metainfo': (dict, ),
    'metainfo.classes': (list, tuple, str), 'filter_cfg': (dict, ),
    'filter_cfg.min_size': (int, float)
}


def leaf_datasets(dataset: Optional[dict]) -> Iterator[dict]:
    """The data sets inside RepeatDataset, ConcatDataset and the like.

    Args:
        dataset (dict, optional): ``dataset`` of a data loader's config.

    Yields:
        dict: The config of each data set that reads a file itself.

    Raises:
        ValueError: If one has a value of a wrong kind, or no type.
    """
    if not dataset:
        return
    if not isinstance(dataset, dict):
        raise ValueError(f'dataset must be a dict, got {dataset!r}')
    inner = dataset.get('datasets') or dataset.get('dataset')
    if 'unlabelled' in dataset:
        inner = [dataset['labelled'], dataset['unlabelled']]
    if inner is None:
        _check_kinds(dataset)
        yield dataset
        return
    for child in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from leaf_datasets(child)


def _check_kinds(leaf: dict) -> None:
    if leaf.get('type') is None:
        raise ValueError('dataset has no type; it has '
                         f'{", ".join(key for key in leaf if leaf[key])}')
    for name, kinds in _KINDS.items():
        value = leaf
        for key in name.split('.'):
            value = (value or {}).get(key)
        if value is not None and not isinstance(value, kinds):
            raise ValueError(
                f'dataset.{name} must be of type '
                f'{" or ".join(kind.__name__ for kind in kinds)}, got '
                f'{value!r}')


def dataset_class(leaf: dict, scope: Optional[str]) -> Optional[type]:
    """The class of a data set, None if it is not known here.

    Args:
        leaf (dict): Of :func:`leaf_datasets`.
        scope (str, optional): The config's ``default_scope``.
    """
    if not isinstance(leaf['type'], str):
        return leaf['type']
    from mmengine.registry import DATASETS
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            return registry.get(leaf['type'])
        except (KeyError, ImportError):
            return None


def leaf_classes(leaf: dict, scope: Optional[str]) -> Optional[Sequence[str]]:
    """The class names of a data set, as it is built.

    Args:
        leaf (dict): Of :func:`leaf_datasets`.
        scope (str, optional): The config's ``default_scope``.

    Returns:
        Sequence[str] | None: None where neither config nor class names them.
    """
    names = (leaf.get('metainfo') or {}).get('classes')
    if names is None:
        cls = dataset_class(leaf, scope)
        names = getattr(cls, 'METAINFO', {}).get('classes')
    return names


def writes_itself(cls: Optional[type]) -> bool:
    """Whether a data set class writes its files where there are none.

    Args:
        cls (type, optional): Of :func:`dataset_class`. Such a class has a
            static method ``write_if_missing(data_root)``.
    """
    return hasattr(cls, 'write_if_missing')
