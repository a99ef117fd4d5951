# SPDX-License-Identifier: Apache-2.0
"""A network of any config, an image for it, and its feature maps."""
import difflib
import math
import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from mmfasternet.checkpoint import load_model_weights
from mmfasternet.config import build_model, image_pipeline
from mmfasternet.datasets.images import read_image
from mmfasternet.deploy.engines import EXPORTED
from mmfasternet.deploy.engines.pytorch import usable_device


def load_network(cfg: Config,
                 checkpoint: Optional[str] = None,
                 device: str = 'cpu') -> nn.Module:
    """Build the model of a config, in evaluation mode.

    Args:
        cfg (Config): Of any model with a backbone, of any scope.
        checkpoint (str, optional): Its weights. Defaults to None: those that
            training starts from.
        device (str): Where to put it. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is damaged, or not of this model.
        ValueError: If it is an exported file, the model cannot be built,
            or there is no such device.
    """
    if checkpoint and str(checkpoint).endswith(EXPORTED):
        raise ValueError(f'{checkpoint} is an exported file, whose layers '
                         'cannot be looked into: give the checkpoint that it '
                         'was exported from')
    where = usable_device(device)
    torch.manual_seed(0)
    model = build_model(cfg)
    if checkpoint is not None:
        load_model_weights(model, checkpoint,
                           cfg.get('metainfo', {}).get('classes', ()))
    else:
        # it would print a paragraph for each tensor
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('WARNING')
        try:
            model.init_weights()
        finally:
            logger.setLevel(level)
    model = model.to(where)
    model.eval()  # which returns None for some
    return model


@dataclass
class Prepared:
    """An image as the network gets it."""

    inputs: Tensor  #: The input, ``(1, C, H, W)``.
    #: The same before the normalisation of its pixels, uint8 ``(H, W, 3)``,
    #: RGB.
    picture: np.ndarray
    #: Where the image is in it, the rest is padding: the first row, the one
    #: behind the last, and so for the columns.
    content: Tuple[int, int, int, int]
    scale: Tuple[float, float]  #: Of its width and its height.
    path: str  #: Its file.

    def to_input(self, boxes: Tensor) -> Tensor:
        """Boxes ``(N, 4)`` in pixels of the image, in those of the input."""
        top, _, left, _ = self.content
        return boxes * boxes.new_tensor(self.scale * 2) + boxes.new_tensor(
            [left, top] * 2)


def prepare_image(cfg: Config, model: nn.Module, path: str) -> Prepared:
    """Prepare an image, a file or URL, as in a test: by the pipeline of the
    config and the data preprocessor of the model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image, or the config has no
            ``test_dataloader``.
    """
    image = read_image(path)
    pack = image_pipeline(cfg)
    # padding is what does not depend on the image
    differs = pack(np.zeros_like(image), path)['inputs'] != pack(
        np.full_like(image, 255), path)['inputs']
    (top, bottom), (left, right) = (
        (where.min().item(), where.max().item() + 1) for where in (
            differs.any(0).any(axis).nonzero() for axis in (1, 0)))
    packed = pack(image, path)
    inputs = model.data_preprocessor(pseudo_collate([packed]), False)['inputs']
    pixels = packed['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]
    # the data preprocessor pads at the bottom and to the right
    picture = np.zeros((*inputs.shape[2:], 3), np.uint8)
    picture[:pixels.shape[0], :pixels.shape[1]] = pixels
    scale = ((right - left) / image.shape[1], (bottom - top) / image.shape[0])
    return Prepared(inputs, picture, (top, bottom, left, right), scale, path)


def without_padding(maps: Tensor, prepared: Prepared) -> Tensor:
    """The part of maps ``(..., h, w)`` that is about the image."""
    top, bottom, left, right = prepared.content
    slices = []
    for size, pixels, begin, end in zip(
            maps.shape[-2:], prepared.picture.shape, (top, left),
            (bottom, right)):
        first = min(math.ceil(begin * size / pixels), size - 1)
        slices.append(slice(first, max(end * size // pixels, first + 1)))
    return maps[(..., *slices)]


# ------------------------------------------------------------ feature maps
Named = Dict[str, Tensor]


@contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[Named]:
    """Keep the feature maps ``(N, C, H, W)`` of some modules by their names,
    ``backbone.stages.2``; where a module gives several maps, with the number
    of one, ``neck[0]``. The dict is filled in a forward pass.

    Raises:
        ValueError: If there is no such module, or it gives no such map.
    """
    modules = dict(model.named_modules())
    maps: Named = {}

    def keep(name: str, index: Optional[str], module: nn.Module, args: tuple,
             output: Any) -> None:
        if index is not None and isinstance(output, (tuple, list)):
            output = dict(enumerate(output)).get(int(index))
        if not isinstance(output, Tensor) or output.dim() != 4:
            kind = type(output).__name__
            if isinstance(output, Tensor):
                kind += f' of {tuple(output.shape)}'
            raise ValueError(
                f'{name} gives no feature map (N, C, H, W) but a {kind}; '
                f'where a module gives several, name one: {name}[0]')
        maps[name] = output

    with ExitStack() as stack:
        for name in names:
            base, index = re.fullmatch(r'(.*?)(?:\[(\d+)\])?', name).groups()
            if base not in modules:
                close = difflib.get_close_matches(base, modules, n=3)
                raise ValueError(
                    f'the model has no module {base!r}; did you mean '
                    f'{", ".join(close or ["backbone", "neck"])}? All of '
                    'them: tools/analysis_tools/get_flops.py --show-arch')
            stack.enter_context(modules[base].register_forward_hook(
                partial(keep, name, index)))
        yield maps


def run(model: nn.Module, inputs: Tensor, names: Sequence[str]) -> None:
    """A forward pass of images ``(N, C, H, W)``, no further than is needed to
    reach the modules that are named: of the backbone, or backbone and neck.

    Raises:
        ValueError: If the model does not run on images alone.
    """
    parts = {re.match(r'\w*', name)[0] for name in names}
    if parts == {'backbone'}:
        model.backbone(inputs)
    elif parts <= {'backbone', 'neck'} and hasattr(model, 'extract_feat'):
        model.extract_feat(inputs)
    elif hasattr(model, 'roi_head'):
        raise ValueError('the heads of a two-stage detector do not run on '
                         'images alone: name modules of its backbone or neck')
    else:
        model(inputs, mode='tensor')


def feature_maps(model: nn.Module, inputs: Tensor,
                 names: Sequence[str]) -> Named:
    """Feature maps ``(N, C, h, w)`` of images ``(N, C, H, W)``, by name and in
    the order of names, see :func:`recorded`.

    Raises:
        ValueError: If there is no such module, or it gives no such map.
    """
    with recorded(model, names) as maps, torch.no_grad():
        run(model, inputs, names)
    missing = [name for name in names if name not in maps]
    if missing:
        raise ValueError(f'{", ".join(missing)} did not run on the image')
    return {name: maps[name] for name in names}


def stage_names(model: nn.Module, inputs: Tensor) -> List[str]:
    """Names, for :func:`feature_maps`, of the last map at each resolution of
    a backbone that gets ``inputs (N, C, H, W)``, the largest first.

    That is what its stages give; of a stage with a norm for its output, what
    the norm gives, as the neck gets it.

    Raises:
        ValueError: If there is no backbone, or it has no feature maps.
    """
    if not hasattr(model, 'backbone'):
        raise ValueError(f'{type(model).__name__} has no `backbone` whose '
                         'stages could be shown: name modules of it')
    names = {module: f'backbone.{name}'
             for name, module in model.backbone.named_modules() if name}
    last: Dict[Tuple[int, int], Tuple[str, Tensor]] = {}

    def keep(name: Optional[str], output: Any) -> None:
        if name and isinstance(output, Tensor) and output.dim() == 4 and \
                min(output.shape[2:]) > 1:
            last[output.shape[2:]] = name, output

    with torch.no_grad(), register_module_forward_hook(
            lambda module, args, output: keep(names.get(module), output)):
        outputs = model.backbone(inputs)
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    for index, output in enumerate(outputs):
        # no module gave it if a function made it of what one gave
        if not any(output is known for _, known in last.values()):
            keep(f'backbone[{index}]', output)
    if not last:
        raise ValueError(f'{type(model.backbone).__name__} has no feature '
                         'maps (N, C, H, W)')
    return [name for _, (name, _) in sorted(
        last.items(), key=lambda item: -item[0][0] * item[0][1])]
