# SPDX-License-Identifier: Apache-2.0
"""FasterNet weights in the layouts that exist, recognised by their keys.

One network, several spellings: the authors' release (which is ours), timm's,
and either of them below a prefix, as Lightning, detectors or the recipe that
pastes FasterNet into Ultralytics YOLOv8 write it.
"""
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from torch import Tensor, nn

from mmfasternet.checkpoint import (
    RELEASES,
    SCHEME,
    CheckpointError,
    compare_tensors,
    get_checkpoint,
)
from mmfasternet.models.backbones import FasterNet
from mmfasternet.registry import WEIGHT_INITIALIZERS

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
_OUTPUT_NORM = re.compile(r'norm[0246]\.')


class FasterNetWeights(NamedTuple):
    """FasterNet tensors found in a checkpoint.

    Attributes:
        tensors (dict[str, Tensor]): By the authors' names, without prefix.
        layout (str): ``'authors'`` or ``'timm'``.
        prefix (str): What stood before each name.
    """
    tensors: StateDict
    layout: str
    prefix: str

    def describe(self) -> str:
        """The layout in words."""
        names = [
            name for pattern, name in _PREFIXES.items()
            if re.fullmatch(pattern, self.prefix)
        ]
        origin = names[0] if names else 'other'
        prefix = f' (prefix {self.prefix!r})' if self.prefix else ''
        return f'{self.layout} layout, {origin}{prefix}'


# ------------------------------------------------------------ names
def timm_name(name: str) -> str:
    """timm's name of a tensor; it counts a merging layer to the stage after.

    Args:
        name (str): The authors' name.
    """
    for ours, theirs in _TIMM_HEAD.items():
        if name.startswith(f'{ours}.'):
            return theirs + name[len(ours):]
    match = re.match(r'stages\.(\d+)\.(.*)', name)
    if not match:
        return name
    position, rest = int(match[1]), match[2]
    merging = 'downsample.' if position % 2 else ''
    return f'stages.{(position + 1) // 2}.{merging}{rest}'


def authors_name(name: str) -> str:
    """The authors' name of a tensor that has timm's.

    Args:
        name (str): timm's name.
    """
    for ours, theirs in _TIMM_HEAD.items():
        if name.startswith(f'{theirs}.'):
            return ours + name[len(theirs):]
    match = re.match(r'stages\.(\d+)\.(downsample\.)?(.*)', name)
    if not match:
        return name
    stage, merging, rest = int(match[1]), match[2], match[3]
    return f'stages.{2 * stage - bool(merging)}.{rest}'


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
    if isinstance(checkpoint, dict):
        for key in _CONTAINERS:
            inner = checkpoint.get(key)
            if isinstance(inner, dict) or hasattr(inner, '_modules'):
                return find_tensors(inner)
        tensors = {
            k: v
            for k, v in checkpoint.items() if isinstance(v, Tensor)
        }
    else:
        tensors = dict(_module_tensors(checkpoint, ''))
    if not tensors:
        keys = ', '.join(map(str, list(checkpoint)[:5])) if isinstance(
            checkpoint, dict) else type(checkpoint).__name__
        raise CheckpointError(f'no tensors in the checkpoint (it has: {keys})')
    return tensors


def _module_tensors(module: Any, prefix: str):
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
    if prefix is not None:
        prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    prefixes = [
        name[:-len(_ANCHOR)] for name in tensors
        if re.search(r'(^|\.)' + re.escape(_ANCHOR) + '$', name)
    ]
    if prefix is None and len(prefixes) > 1:
        raise CheckpointError(
            f'{len(prefixes)} FasterNets in the checkpoint, below '
            f'{", ".join(map(repr, prefixes))}: choose one with prefix=... in '
            'init_cfg')
    if not prefixes or prefix not in (None, *prefixes):
        where = '' if prefix is None else f' below {prefix!r}'
        raise CheckpointError(
            f'no FasterNet{where} in the checkpoint: none of its '
            f'{len(tensors)} tensors is called [prefix]{_ANCHOR}; the first '
            f'are {", ".join(list(tensors)[:4])}')
    prefix = prefixes[0] if prefix is None else prefix
    own = {
        name[len(prefix):]: value
        for name, value in tensors.items() if name.startswith(prefix)
    }
    timm = any(name.startswith('conv_head.') or '.downsample.' in name
               for name in own)
    if timm:
        own = {authors_name(name): value for name, value in own.items()}
    return FasterNetWeights(own, 'timm' if timm else 'authors', prefix)


def find_arch(tensors: StateDict) -> Arch:
    """Width and depths from the shapes and names of tensors.

    Args:
        tensors (dict[str, Tensor]): By the authors' names.

    Returns:
        tuple[int, tuple[int]]: ``embed_dim`` and the depth of each stage
        that is there.
    """
    counts: Dict[int, int] = {}
    for name in tensors:
        match = re.match(r'stages\.(\d+)\.blocks\.(\d+)\.', name)
        if match:
            stage, block = int(match[1]) // 2, int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    return tensors[_ANCHOR].shape[0], tuple(
        counts[stage] for stage in sorted(counts))


def arch_name(arch: Arch) -> Optional[str]:
    """The variant with this width and these first depths, None for none.

    Args:
        arch (tuple[int, tuple[int]]): As :func:`find_arch` returns it.
    """
    embed_dim, depths = arch
    for name, setting in FasterNet.arch_settings.items():
        if embed_dim == setting['embed_dim'] and \
                depths == setting['depths'][:len(depths)]:
            return name
    return None


def _in_words(arch: Arch) -> str:
    name = arch_name(arch)
    numbers = f'embed_dim={arch[0]}, depths={arch[1]}'
    return f'arch={name!r} ({numbers})' if name else numbers


# ------------------------------------------------------------ loading
def read_weights(checkpoint: str,
                 prefix: Optional[str] = None,
                 sha256: Optional[str] = None) -> FasterNetWeights:
    """Find, read and recognise a checkpoint.

    Args:
        checkpoint (str): See :func:`mmfasternet.checkpoint.checkpoint_path`;
            MMEngine's other storage backends (``s3://``) work as well.
        prefix (str, optional): See :func:`recognise`.
        sha256 (str, optional): Expected digest of the file.

    Raises:
        FileNotFoundError, CheckpointError: See there.
    """
    data = get_checkpoint(checkpoint, modules=True, sha256=sha256)
    try:
        return recognise(find_tensors(data), prefix)
    except CheckpointError as error:
        raise CheckpointError(f'{checkpoint}: {error}') from None


def load_weights(model: nn.Module,
                 found: FasterNetWeights,
                 strict: bool = True) -> str:
    """Copy recognised weights into a backbone or classifier, all or nothing.

    A dense-prediction backbone does without the classifier of an ImageNet
    file, and without the stages after its last output; output norms that no
    classifier has keep their initial values. The report names all of these.

    Args:
        model (FasterNet): Changed in place.
        found (FasterNetWeights): The weights.
        strict (bool): Whether tensors that are missing, unexpected or of
            another shape are an error. If not, what fits is copied and the
            report names the rest. Defaults to True.

    Returns:
        str: The report.

    Raises:
        CheckpointError: If something does not fit, or is not finite; nothing
            has been copied then.
    """
    theirs = found.tensors
    fit = compare_tensors(model.state_dict(), theirs)
    if fit.broken:
        raise CheckpointError(
            f'{len(fit.broken)} tensors hold NaN, infinity or another kind of '
            f'number: {_few(fit.broken)}. The file is of no use')
    unexpected, notes = _explain_unused(model, fit.unexpected)
    missing = fit.missing
    if not any(map(_OUTPUT_NORM.match, theirs)):
        kept = list(filter(_OUTPUT_NORM.match, missing))
        missing = [name for name in missing if name not in kept]
        if kept:
            modules = dict.fromkeys(name.split('.')[0] for name in kept)
            notes.append('not in the file, as in every classifier: '
                         f'{", ".join(modules)}, which keep their initial '
                         'values')
    problems = [
        f'{len(names)} {words}: {text}' for names, words, text in (
            (fit.shapes, 'shapes differ', '; '.join(fit.shapes[:3])),
            (missing, 'missing', _few(missing)),
            (unexpected, 'unexpected', _few(unexpected))) if names
    ]
    total = len(fit.fitting) + len(missing) + len(fit.shapes)
    count = f'{len(fit.fitting)} of {total} tensors'
    if problems and strict:
        raise CheckpointError(
            f'{_wrong_arch(model, theirs)}only {count} fit. '
            f'{". ".join(problems)}. strict=False in init_cfg would load '
            'those that fit')
    model.load_state_dict({name: theirs[name] for name in fit.fitting},
                          strict=False)
    return '; '.join(
        [f'{found.describe()}: loaded {count}', *problems, *notes])


def _explain_unused(model: nn.Module,
                    names: List[str]) -> Tuple[List[str], List[str]]:
    """What the model has no place for: without a reason, and notes."""
    reasons: Dict[str, List[str]] = {}
    for name in names:
        stage = re.match(r'stages\.(\d+)\.', name)
        reason = ''
        if re.match(r'(avgpool_pre_)?head\.', name) and not model.num_classes:
            reason = 'classifier tensors, which a dense-prediction ' \
                'backbone does not use'
        elif _OUTPUT_NORM.match(name):
            reason = 'norms of outputs that are not asked for'
        elif stage and int(stage[1]) >= len(model.stages):
            reason = 'stages after the last output'
        reasons.setdefault(reason, []).append(name)
    return reasons.pop('', []), [
        f'not used: {len(names)} {reason} ({_few(names)})'
        for reason, names in reasons.items()
    ]


def _few(names: List[str]) -> str:
    dots = ', ...' if len(names) > 3 else ''
    return ', '.join(names[:3]) + dots


def _wrong_arch(model: nn.Module, tensors: StateDict) -> str:
    """The sentence that names the variant of the file, if it is another."""
    file, config = find_arch(tensors), (model.embed_dim, model.depths)
    if file == (config[0], config[1][:len(file[1])]):
        return ''
    name = arch_name(file)
    hint = f"Set model.backbone.arch={name!r}, or take weights of the " \
        'variant you want. ' if name else ''
    return f'this file is {_in_words(file)}; the config says ' \
        f'{_in_words(config)}. {hint}'


def _eps_note(model: nn.Module, found: FasterNetWeights) -> str:
    """What to do about the eps that Ultralytics trained with."""
    eps = getattr(model.patch_embed.norm, 'eps', None)
    if not re.fullmatch(_PASTED, found.prefix) or eps in (None, 1e-3):
        return ''
    return ('; Ultralytics trained with eps=0.001 in every batch norm, this '
            f'backbone has {eps}: for equal outputs set '
            "norm_cfg=dict(type='BN', eps=0.001, momentum=0.03)")


@WEIGHT_INITIALIZERS.register_module()
class FasterNetPretrained(PretrainedInit):
    """What ``init_cfg=dict(type='Pretrained', ...)`` means for FasterNet.

    One more key is taken by the backbone itself: ``scratch`` (dict), how to
    initialise before the checkpoint is loaded, or without one; by default as
    published if there is none.

    Args:
        checkpoint (str, optional): A path, a URL, ``fasternet://t0`` and so
            on for the authors' ImageNet release of a variant,
            ``fasternet://auto`` for that of the backbone's own variant, or
            None for none.
        prefix (str, optional): What stands before FasterNet's own names in
            the file. Defaults to None: it is found.
        strict (bool): Whether anything less than all tensors of the backbone
            is an error. Defaults to True.
        sha256 (str, optional): Expected digest of the file, or the beginning
            of it. Defaults to None.
        map_location (str): Ignored: weights are read on the CPU.
    """

    def __init__(self,
                 checkpoint: Optional[str],
                 prefix: Optional[str] = None,
                 strict: bool = True,
                 sha256: Optional[str] = None,
                 map_location: str = 'cpu') -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.strict = strict
        self.sha256 = sha256

    def __call__(self, module: nn.Module) -> None:
        """Load into a FasterNet; raises :class:`CheckpointError`."""
        if self.checkpoint is None:
            return
        if self.checkpoint == f'{SCHEME}auto':
            arch = arch_name((module.embed_dim, module.depths))
            if arch not in RELEASES:
                raise CheckpointError(
                    f'{self.checkpoint}: there are no ImageNet weights of '
                    f'{_in_words((module.embed_dim, module.depths))}, only of '
                    f'{", ".join(RELEASES)}. pretrained=None trains from '
                    'scratch')
            self.checkpoint = SCHEME + arch
        found = read_weights(self.checkpoint, self.prefix, self.sha256)
        try:
            report = load_weights(module, found, self.strict)
        except CheckpointError as error:
            raise CheckpointError(f'{self.checkpoint} ({found.describe()}): '
                                  f'{error}') from None
        note = _eps_note(module, found)
        print_log(
            f'FasterNet weights from {self.checkpoint}: {report}{note}',
            logger='current',
            level=30 if note or not self.strict else 20)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
