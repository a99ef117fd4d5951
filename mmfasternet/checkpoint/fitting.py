# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a model: verified, all of it or nothing."""
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

import torch
from mmengine.model import is_model_wrapper
from torch import nn

from .loading import get_checkpoint
from .reading import CheckpointError

TensorDict = Dict[str, torch.Tensor]


class Fit(NamedTuple):
    """How the tensors of a checkpoint compare with those of a model."""

    fitting: List[str]  #: Names of those that can be loaded.
    #: Not in the file. Counters of batches, which nothing reads, may be
    #: absent.
    missing: List[str]
    unexpected: List[str]  #: Not in the model.
    shapes: List[str]  #: Of two shapes: the name and both in words.
    broken: List[str]  #: With NaN, infinity or another kind of number.


def compare_tensors(own: TensorDict, theirs: TensorDict) -> Fit:
    """Compare ``own``, the state dict of a model, with those of a file."""
    fit = Fit([], [], [k for k in theirs if k not in own], [], [])
    for name, like in own.items():
        tensor = theirs.get(name)
        if tensor is None:
            if not name.endswith('num_batches_tracked'):
                fit.missing.append(name)
        elif tensor.shape != like.shape:
            fit.shapes.append(
                f'{name}: {tuple(tensor.shape)} in the file, '
                f'{tuple(like.shape)} in the model')
        elif not _is_usable(tensor, like):
            fit.broken.append(name)
        else:
            fit.fitting.append(name)
    return fit


def unwrapped(tensors: TensorDict) -> TensorDict:
    """By the names that they have without a wrapper, such as DDP's."""
    return {re.sub(r'^(module\.)+', '', k): v for k, v in tensors.items()}


def _is_usable(tensor: torch.Tensor, like: torch.Tensor) -> bool:
    """Whether it has numbers, all finite and of the kind of another's."""
    if tensor.is_meta or tensor.is_quantized or tensor.is_complex() or \
            tensor.layout != torch.strided or \
            tensor.is_floating_point() != like.is_floating_point():
        return False
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # PyTorch cannot ask 8 bits
    return bool(tensor.isfinite().all())


def require_fit(model: nn.Module, name: Union[str, Path],
                classes: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that is not of this whole model.

    MMEngine loads what fits and warns about the rest; to test such a mixture
    gives an AP of nearly 0. MMEngine's next read of the file is given what
    was read here.

    Args:
        model (nn.Module): The model, with or without a wrapper.
        name (str | Path): See :func:`get_checkpoint`.
        classes (Sequence[str]): Class names of the config, to compare with
            those that training has noted. Defaults to ``()``: do not compare.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another
            shape, or if the classes are others.
    """
    require_fitting(model.state_dict(), get_checkpoint(name, keep=True), name,
                    classes)


def load_model_weights(model: nn.Module,
                       checkpoint: Union[str, Path],
                       classes: Sequence[str] = (),
                       data: Any = None) -> Any:
    """Load a checkpoint that is of this whole model, all of it or nothing.

    Args:
        model (nn.Module): Changed in place.
        checkpoint (str | Path): See :func:`get_checkpoint`.
        classes (Sequence[str]): See :func:`require_fit`.
        data: What is in the checkpoint, if it has been read already.
            Defaults to None: it is read.

    Returns:
        Any: What is in the checkpoint.

    Raises:
        FileNotFoundError, CheckpointError: See :func:`get_checkpoint` and
            :func:`require_fit`; the model is as before then.
    """
    if data is None:
        data = get_checkpoint(checkpoint)
    tensors = require_fitting(model.state_dict(), data, checkpoint, classes)
    if is_model_wrapper(model):
        model = model.module
    # only counters of batches may be missing
    model.load_state_dict(tensors, strict=False)
    return data


def require_fitting(own: TensorDict,
                    data: Any,
                    name: Union[str, Path],
                    classes: Sequence[str] = ()) -> TensorDict:
    """The same as :func:`require_fit`, of what has been read already.

    Args:
        own (dict): State dict of the model, with or without a wrapper.
        data: What is in the checkpoint.
        name, classes: See there.

    Returns:
        dict[str, Tensor]: The tensors, :func:`unwrapped`.
    """
    tensors = data.get('state_dict', data) if isinstance(data, dict) else None
    if not isinstance(tensors, dict) or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor)
            for k, v in tensors.items()):
        raise CheckpointError(
            f'{name} holds no weights: a checkpoint is a dict of tensors, or '
            'has one under "state_dict". Give the checkpoint of a training '
            'run')
    _require_classes(data, name, classes)
    own, tensors = unwrapped(own), unwrapped(tensors)
    fit = compare_tensors(own, tensors)
    problems = [*fit.shapes, *(f'{k}: not in the file' for k in fit.missing),
                *(f'{k}: not in the model' for k in fit.unexpected)]
    if problems:
        raise CheckpointError(
            f'{name} does not fit the config, {len(problems)} tensors differ: '
            f'{"; ".join(problems[:3])}. Another model.backbone.arch, model '
            'size or number of classes? The config in the work directory of '
            'its training run fits')
    if fit.broken:
        key = fit.broken[0]
        raise CheckpointError(
            f'{name} is refused: {key} holds NaN or infinite numbers, or '
            f'{tensors[key].dtype} instead of {own[key].dtype}. Take an '
            'earlier checkpoint of that training run')
    return tensors


def noted_meta(data: Any) -> dict:
    """The ``meta`` of what is in a checkpoint, ``{}`` if it has none."""
    meta = data.get('meta') if isinstance(data, dict) else None
    return meta if isinstance(meta, dict) else {}


def noted_classes(data: Any) -> Tuple[str, ...]:
    """The class names that training has noted in a checkpoint.

    Args:
        data: What is in the checkpoint, of MMEngine or, before it, of mmcv.

    Returns:
        tuple[str]: The names, none where they are not noted.
    """
    meta = noted_meta(data)
    noted = meta.get('dataset_meta') or meta
    names = (noted.get('classes') or noted.get('CLASSES')) if isinstance(
        noted, dict) else None
    # mmdet 2 took ('cat') for one class
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(
            isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _require_classes(data: dict, name: Union[str, Path],
                     classes: Sequence[str]) -> None:
    trained = noted_classes(data)
    if not trained or not classes or trained == tuple(classes):
        return
    raise CheckpointError(
        f'{name} was trained on {len(trained)} classes '
        f'({few(trained)}), but the config has {len(classes)} '
        f'({few(classes)}): set `classes` to those of the training run, '
        'in their order, or take the config from its work directory')


def few(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
