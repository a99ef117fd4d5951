# SPDX-License-Identifier: Apache-2.0
"""FasterNet weights in the layouts that exist, recognised by their keys.

One network, several spellings: the authors' release (which is ours), timm's,
and either of them below a prefix, as Lightning, detectors or the recipe that
pastes FasterNet into Ultralytics YOLOv8 write it.
"""
import re
from collections import Counter
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

from torch import Tensor

from mmfasternet.checkpoint import CheckpointError, get_checkpoint
from mmfasternet.models.backbones import FasterNet

StateDict = Dict[str, Tensor]
Arch = Tuple[int, Tuple[int, ...]]

_ANCHOR = 'patch_embed.proj.weight'  # in every layout
# Where state dicts lie inside of checkpoints. MMEngine's EMAHook keeps the
# average under `state_dict`; of Ultralytics' two models `ema` is the one used.
_CONTAINERS = ('state_dict', 'ema', 'model', 'model_state_dict',
               'ema_state_dict', 'state_dict_ema', 'model_ema')
_TIMM_HEAD = {'avgpool_pre_head.1': 'conv_head', 'head': 'classifier'}
_PASTED = r'(model\.)+\d+\.'
_PREFIXES = {
    r'': 'plain keys',
    r'model\.': 'Lightning',
    r'(module\.)?backbone\.': 'the backbone of a detector or classifier',
    _PASTED: 'the recipe pasted into Ultralytics YOLOv8',
}


class FasterNetWeights(NamedTuple):
    """FasterNet tensors found in a checkpoint."""

    tensors: StateDict  #: By the authors' names, without prefix.
    layout: str  #: ``'authors'`` or ``'timm'``.
    prefix: str  #: What stood before each name.

    @property
    def is_pasted(self) -> bool:
        """Whether it was pasted into a model of Ultralytics."""
        return bool(re.fullmatch(_PASTED, self.prefix))

    def describe(self) -> str:
        """The layout in words."""
        origin = next((words for pattern, words in _PREFIXES.items()
                       if re.fullmatch(pattern, self.prefix)), 'other')
        prefix = f' (prefix {self.prefix!r})' if self.prefix else ''
        return f'{self.layout} layout, {origin}{prefix}'


# ------------------------------------------------------------ names
def timm_name(name: str) -> str:
    """timm's name of a tensor that has the authors'.

    It counts a merging layer to the stage after.
    """
    for ours, theirs in _TIMM_HEAD.items():
        if name.startswith(f'{ours}.'):
            return theirs + name[len(ours):]

    def stage(match: re.Match) -> str:
        position = int(match[1])
        merging = 'downsample.' if position % 2 else ''
        return f'stages.{(position + 1) // 2}.{merging}'

    return re.sub(r'^stages\.(\d+)\.', stage, name)


def authors_name(name: str) -> str:
    """The authors' name of a tensor that has timm's."""
    for ours, theirs in _TIMM_HEAD.items():
        if name.startswith(f'{theirs}.'):
            return ours + name[len(theirs):]
    return re.sub(r'^stages\.(\d+)\.(downsample\.)?',
                  lambda m: f'stages.{2 * int(m[1]) - bool(m[2])}.', name)


# ------------------------------------------------------------ recognition
def find_tensors(checkpoint: Any) -> StateDict:
    """The tensors of a checkpoint by name, wherever they lie in it.

    Args:
        checkpoint: What :func:`mmfasternet.checkpoint.read_checkpoint`
            returned: a state dict, a dict that holds one under one of the
            usual names, or inert modules of Ultralytics.

    Returns:
        dict[str, Tensor]: By name. Modules give their state dict.

    Raises:
        CheckpointError: If there are no tensors.
    """
    if not isinstance(checkpoint, dict):
        tensors = dict(_module_tensors(checkpoint, ''))
        contents = type(checkpoint).__name__
    else:
        for key in _CONTAINERS:
            inner = checkpoint.get(key)
            if isinstance(inner, dict) or hasattr(inner, '_modules'):
                return find_tensors(inner)
        tensors = {k: v for k, v in checkpoint.items()
                   if isinstance(k, str) and isinstance(v, Tensor)}
        contents = ', '.join(map(str, list(checkpoint)[:5]))
    if not tensors:
        raise CheckpointError(
            f'no tensors in the checkpoint (it has: {contents})')
    return tensors


def _module_tensors(module: Any, prefix: str) -> Iterator[Tuple[str, Tensor]]:
    """The state dict of an unpickled module, read from its attributes."""
    state = getattr(module, '__dict__', {})
    left_out = state.get('_non_persistent_buffers_set') or ()
    for kind in ('_parameters', '_buffers'):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, Tensor) and name not in left_out:
                yield prefix + name, value.detach()
    for name, child in (state.get('_modules') or {}).items():
        yield from _module_tensors(child, f'{prefix}{name}.')


def recognise(tensors: StateDict,
              prefix: Optional[str] = None) -> FasterNetWeights:
    """Find FasterNet in a state dict.

    Args:
        tensors (dict[str, Tensor]): By name.
        prefix (str, optional): What stands before FasterNet's own names.
            Defaults to None: it is found.

    Returns:
        FasterNetWeights: Its tensors by the authors' names.

    Raises:
        CheckpointError: If there is no FasterNet, or more than one.
    """
    prefixes = [name[:-len(_ANCHOR)] for name in tensors
                if f'.{name}'.endswith(f'.{_ANCHOR}')]
    where = ''
    if prefix is not None:
        prefix = f'{prefix.rstrip(".")}.' if prefix else ''
        prefixes = [p for p in prefixes if p == prefix]
        where = f' below {prefix!r}'
    if len(prefixes) > 1:
        raise CheckpointError(
            f'{len(prefixes)} FasterNets in the checkpoint, below '
            f'{", ".join(map(repr, prefixes))}: choose one with prefix=... in '
            'init_cfg')
    if not prefixes:
        raise CheckpointError(
            f'no FasterNet{where} in the checkpoint: none of its '
            f'{len(tensors)} tensors is called [prefix]{_ANCHOR}; the first '
            f'are {", ".join(list(tensors)[:4])}')
    prefix, = prefixes
    own = {name[len(prefix):]: value for name, value in tensors.items()
           if name.startswith(prefix)}
    if any(name.startswith('conv_head.') or '.downsample.' in name
           for name in own):
        own = {authors_name(name): value for name, value in own.items()}
        return FasterNetWeights(own, 'timm', prefix)
    return FasterNetWeights(own, 'authors', prefix)


def find_arch(tensors: StateDict) -> Arch:
    """Width and depths from the shapes and the authors' names of tensors.

    Returns:
        tuple[int, tuple[int]]: ``embed_dim`` and the depth of each stage
        that is there.
    """
    blocks = set(re.findall(r'^stages\.(\d+)\.blocks\.(\d+)\.',
                            '\n'.join(tensors), re.MULTILINE))
    counts = Counter(int(stage) for stage, _ in blocks)
    return tensors[_ANCHOR].shape[0], tuple(
        counts[stage] for stage in sorted(counts))


def arch_name(arch: Arch) -> Optional[str]:
    """The variant of what :func:`find_arch` returns, None for none."""
    embed_dim, depths = arch
    return next(
        (name for name, setting in FasterNet.arch_settings.items()
         if (embed_dim, depths) == (setting['embed_dim'],
                                    setting['depths'][:len(depths)])), None)


def read_weights(checkpoint: str,
                 prefix: Optional[str] = None,
                 sha256: Optional[str] = None) -> FasterNetWeights:
    """Find, read and recognise a checkpoint.

    Args:
        checkpoint, sha256: See :func:`mmfasternet.checkpoint.get_checkpoint`.
        prefix: See :func:`recognise`.

    Raises:
        FileNotFoundError, CheckpointError: See there.
    """
    data = get_checkpoint(checkpoint, modules=True, sha256=sha256)
    try:
        return recognise(find_tensors(data), prefix)
    except CheckpointError as error:
        raise CheckpointError(f'{checkpoint}: {error}') from None
