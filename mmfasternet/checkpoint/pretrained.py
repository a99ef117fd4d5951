# SPDX-License-Identifier: Apache-2.0
"""Pretrained FasterNet weights of any layout, all of them or an error."""
import re
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from torch import Tensor, nn

from mmfasternet.registry import WEIGHT_INITIALIZERS

from .download import RELEASES, SCHEME
from .fitting import compare_tensors, few
from .layouts.fasternet import (
    Arch,
    FasterNetWeights,
    arch_name,
    find_arch,
    read_weights,
)
from .reading import CheckpointError

_OUTPUT_NORM = re.compile(r'norm[0246]\.')


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
            f'number: {few(fit.broken)}. The file is of no use')
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
            (missing, 'missing', few(missing)),
            (unexpected, 'unexpected', few(unexpected))) if names
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
        f'not used: {len(names)} {reason} ({few(names)})'
        for reason, names in reasons.items()
    ]


def _wrong_arch(model: nn.Module, tensors: Dict[str, Tensor]) -> str:
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
    if not found.is_pasted or eps in (None, 1e-3):
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


def _in_words(arch: Arch) -> str:
    name = arch_name(arch)
    numbers = f'embed_dim={arch[0]}, depths={arch[1]}'
    return f'arch={name!r} ({numbers})' if name else numbers
