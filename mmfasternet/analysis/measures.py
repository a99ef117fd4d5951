# SPDX-License-Identifier: Apache-2.0
"""Numbers about feature maps, partial convolutions, gradients and layers."""
import math
from collections import defaultdict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from mmfasternet.models.backbones import PartialConv

from .network import recorded, run

ALIKE = 0.9  # |correlation| from which two channels are called alike
# A unit is dead if all that it gives is below this share of the root mean
# square of its layer: ReLU gives 0, GELU and SiLU nearly that.
DEAD = 1e-3


# ------------------------------------------------------------ redundancy
class Redundancy(NamedTuple):
    """How much the channels of a feature map look alike.

    Args:
        channels (int): Channels that are not constant.
        mean_max (float): Mean over channels of the largest absolute
            correlation with another one, 0 to 1.
        alike (float): Share of the channels for which it is at least 0.9.
        by_chance (float): ``mean_max`` of the same channels with their
            pixels shuffled: small maps correlate by chance.
    """

    channels: int
    mean_max: float
    alike: float
    by_chance: float


def channel_correlation(maps: Tensor) -> Tensor:
    """Pearson correlation of each channel with each, over the pixels.

    Args:
        maps (Tensor): ``(C, H, W)``.

    Returns:
        Tensor: float64, ``(C, C)``; NaN for a channel that is constant.
    """
    x = maps.detach().flatten(1).double()
    x = x - x.mean(1, keepdim=True)
    norm = x.norm(dim=1, keepdim=True)
    # what is left of a constant after the subtraction is rounding
    limit = 1e-6 * maps.detach().flatten(1).double().norm(dim=1, keepdim=True)
    x = torch.where(norm > limit, x / norm, math.nan)
    return x @ x.T


def _largest(correlation: Tensor) -> Tensor:
    """Of each channel that varies the largest |r| with another that does."""
    varies = ~correlation.diagonal().isnan()
    r = correlation[varies][:, varies].abs().fill_diagonal_(0)
    return r.amax(1) if len(r) > 1 else r.new_zeros(0)


def channel_redundancy(maps: Tensor) -> Redundancy:
    """How much the channels of a feature map look alike.

    The FasterNet paper shows it as a picture (Fig. 3) and concludes that a
    convolution of a part of the channels is enough.

    Args:
        maps (Tensor): ``(C, H, W)``.

    Raises:
        ValueError: If fewer than two channels vary.
    """
    largest = _largest(channel_correlation(maps))
    if not len(largest):
        raise ValueError('fewer than two channels of this map of '
                         f'{tuple(maps.shape)} vary: nothing to compare')
    generator = torch.Generator().manual_seed(0)
    flat = maps.detach().cpu().flatten(1)
    shuffled = torch.stack([
        row[torch.randperm(len(row), generator=generator)] for row in flat])
    chance = _largest(channel_correlation(shuffled))
    return Redundancy(
        len(largest), largest.mean().item(),
        (largest >= ALIKE).double().mean().item(), chance.mean().item())


# ------------------------------------------------------------ PConv
class PConvStatistics(NamedTuple):
    """The convolved and the untouched channels of one PConv.

    Args:
        name (str): Of the module.
        touched (int): Channels that are convolved.
        untouched (int): Channels that pass through.
        rms_before (float): Root mean square of the former before it.
        rms_after (float): The same after it.
        rms_untouched (float): Root mean square of the latter.
        alike_before (float): Mean over the convolved channels of the largest
            absolute correlation with an untouched one, before it.
        alike_after (float): The same after it: smaller means that the
            convolution adds something that was not there.
        share (float): Of the energy that the 1x1 convolution behind it takes
            in, the part of the convolved channels; energy is the sum over
            channels of the mean square times the squares of the weights. NaN
            if there is none.
    """

    name: str
    touched: int
    untouched: int
    rms_before: float
    rms_after: float
    rms_untouched: float
    alike_before: float
    alike_after: float
    share: float


def _across(maps: Tensor, touched: int) -> float:
    """Mean over the first channels of the largest |r| with a later one."""
    r = channel_correlation(maps)[:touched, touched:].abs()
    largest = r.nan_to_num(-1.).amax(1)
    return largest[largest >= 0].mean().item()


def pconv_statistics(
        model: nn.Module, inputs: Tensor,
        crop: Callable[[Tensor], Tensor] = lambda maps: maps
) -> List[PConvStatistics]:
    """Convolved against untouched channels of each PConv that runs.

    Args:
        model (nn.Module): The model.
        inputs (Tensor): One image, ``(1, C, H, W)``.
        crop (Callable): Gives the part of a map to look at. Defaults to all
            of it.

    Returns:
        list[PConvStatistics]: In the order in which they run.

    Raises:
        ValueError: If the model has no PConv.
    """
    names = {module: name for name, module in model.named_modules()
             if isinstance(module, PartialConv)}
    if not names:
        raise ValueError(
            f'{type(model).__name__} has no partial convolution '
            '(mmfasternet.models.PartialConv): this view is for networks '
            'with one, e.g. a FasterNet backbone')
    seen: Dict[str, tuple] = {}
    results: Dict[Tensor, str] = {}  # what a PConv gave, and which one
    readers: Dict[str, Tensor] = {}  # weights of the 1x1 convolution behind

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        seen[names[module]] = module.dim_conv3, args[0], output
        results[output] = names[module]

    def read(module: nn.Module, args: tuple) -> None:
        if args[0] in results and module.kernel_size == (1, 1):
            readers[results[args[0]]] = module.weight

    handles = [module.register_forward_hook(keep) for module in names] + [
        module.register_forward_pre_hook(read) for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            # the head has some, too, but not every head runs alone
            run(model, inputs, list(names.values()))
    finally:
        for handle in handles:
            handle.remove()
    return [
        _pconv(name, touched, crop(before), crop(after), readers.get(name))
        for name, (touched, before, after) in seen.items()
    ]


def _pconv(name: str, touched: int, before: Tensor, after: Tensor,
           weight: Optional[Tensor]) -> PConvStatistics:
    energy = after.double().square().mean((0, 2, 3))
    entering = before[:, :touched].double().square().mean()
    share = math.nan
    if weight is not None:
        taken = energy * weight.double().square().sum((0, 2, 3))
        share = (taken[:touched].sum() / taken.sum()).item()
    return PConvStatistics(
        name, touched, before.shape[1] - touched, entering.sqrt().item(),
        energy[:touched].mean().sqrt().item(),
        energy[touched:].mean().sqrt().item(), _across(before[0], touched),
        _across(after[0], touched), share)


# ------------------------------------------------------------ receptive field
def receptive_fields(model: nn.Module, inputs: Tensor,
                     names: Sequence[str]) -> Dict[str, Tensor]:
    """Effective receptive field of the unit in the middle of each map.

    "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", Luo et al., NeurIPS 2016, https://arxiv.org/abs/1701.04128:
    the gradient of that unit, here of the sum of its channels, with respect
    to the pixels. Averaged over images it is a property of the network.

    Args:
        model (nn.Module): The model, in evaluation mode.
        inputs (Tensor): Images ``(N, C, H, W)``.
        names (Sequence[str]): See :func:`.network.recorded`.

    Returns:
        dict[str, Tensor]: Of each map the absolute gradient, summed over the
        channels of the image and averaged over the images, ``(H, W)``.
    """
    inputs = inputs.detach().clone().requires_grad_()
    with recorded(model, names) as maps, torch.enable_grad():
        run(model, inputs, names)
    fields = {}
    for name in names:
        height, width = maps[name].shape[2:]
        middle = maps[name][:, :, height // 2, width // 2].sum()
        gradient, = torch.autograd.grad(middle, inputs, retain_graph=True)
        fields[name] = gradient.abs().sum(1).mean(0)
    return fields


def middle_of(field: Tensor, shape: Sequence[int]) -> Sequence[float]:
    """Row and column, in pixels, of the middle unit of a map.

    Args:
        field (Tensor): Of the image, ``(H, W)``.
        shape (Sequence[int]): Height and width of the map.
    """
    return [(size // 2 + 0.5) * pixels / size - 0.5
            for size, pixels in zip(shape, field.shape)]


def share_side(field: Tensor, shape: Sequence[int], share: float) -> float:
    """Side of the smallest square around the unit with a share of the field.

    Args:
        field (Tensor): See :func:`receptive_fields`, ``(H, W)``.
        shape (Sequence[int]): Height and width of the map of the unit.
        share (float): 0 to 1, of the sum of the field; 1 gives the whole
            receptive field, as far as it is inside the image.

    Returns:
        float: Pixels.
    """
    row, column = middle_of(field, shape)
    rows = (torch.arange(field.shape[0]) - row).abs()
    columns = (torch.arange(field.shape[1]) - column).abs()
    distance = torch.maximum(rows[:, None], columns[None]).flatten()
    values = field.detach().cpu().double().flatten()
    if share == 1:  # however little is far away
        return 2 * distance[values > 0].max().item() + 1
    order = distance.argsort()
    sums = values[order].cumsum(0)
    # a hair below, so that rounding of the sum does not ask for more pixels
    enough = sums >= share * sums[-1] * (1 - 1e-12)
    return 2 * distance[order[enough.int().argmax()]].item() + 1


# ------------------------------------------------------------ class activation
def eigen_cam(maps: Tensor) -> Tensor:
    """Eigen-CAM of a feature map: what its first principal component shows.

    "Eigen-CAM: Class Activation Map using Principal Components", Muhammad and
    Yeasin, IJCNN 2020, https://arxiv.org/abs/2008.00299. It needs no
    gradient and no class. A singular vector has no sign; the one is taken
    with which the strong places of the map are bright.

    Args:
        maps (Tensor): ``(C, H, W)``.

    Returns:
        Tensor: ``(H, W)``, 0 to 1; all 0 if the map is constant.
    """
    x = maps.detach().flatten(1).T.double()  # pixels, channels
    x = x - x.mean(0)
    _, _, directions = torch.linalg.svd(x, full_matrices=False)
    cam = x @ directions[0]
    if (cam * x.norm(dim=1)).sum() < 0:
        cam = -cam
    cam = cam.clamp(min=0).reshape(maps.shape[1:])
    return cam / cam.max().clamp(min=torch.finfo(cam.dtype).tiny)


# ------------------------------------------------------------ layers
class LayerStatistics(NamedTuple):
    """What one training step does in one layer.

    Args:
        name (str): Of the module.
        kind (str): Its class.
        mean (float): Of its output.
        std (float): Of its output.
        dead (float): Share of its channels that give nothing for the whole
            batch, see ``DEAD``.
        grad_mean (float): Of the gradient of the loss with respect to the
            output; NaN if there is none, as in what is frozen.
        grad_std (float): The same, standard deviation.
        weight_grad (float): Norm of the gradient of its weights over the
            norm of the weights; NaN without weights.
    """

    name: str
    kind: str
    mean: float
    std: float
    dead: float
    grad_mean: float
    grad_std: float
    weight_grad: float


class _Moments:
    """Mean and standard deviation of numbers that come in parts."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, 0., 0.

    def add(self, x: Tensor) -> None:
        x = x.detach().double()
        self.count += x.numel()
        self.sum += x.sum().item()
        self.squares += x.square().sum().item()

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else math.nan

    @property
    def rms(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else math.nan

    @property
    def std(self) -> float:
        return math.sqrt(max(0., self.rms**2 - self.mean**2)) if \
            self.count else math.nan


def layer_statistics(model: nn.Module,
                     data: Dict[str, Any]) -> List[LayerStatistics]:
    """Activations and gradients of each layer in one training step.

    The weights are not changed; running statistics of norms are.

    Args:
        model (nn.Module): A model of MMEngine.
        data (dict): A batch, as a data loader gives it.

    Returns:
        list[LayerStatistics]: Of the modules that hold no others and give a
        tensor, in the order in which they first run.

    Raises:
        ValueError: If the loss is not finite.
    """
    values: Dict[str, _Moments] = defaultdict(_Moments)
    gradients: Dict[str, _Moments] = defaultdict(_Moments)
    peaks: Dict[str, Tensor] = {}
    modules = {name: module for name, module in model.named_modules()
               if not any(module.children()) and 'preprocessor' not in name}

    def keep(name: str):

        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if not isinstance(output, Tensor) or output.dim() < 2 or \
                    not output.is_floating_point():
                return
            values[name].add(output)
            # channels: the second of images, the last of tokens
            axis = output.dim() - 1 if output.dim() == 3 else 1
            others = [i for i in range(output.dim()) if i != axis]
            peak = output.detach().abs().amax(others)
            peaks[name] = torch.maximum(peaks.get(name, peak), peak)
            if output.requires_grad:
                output.register_hook(gradients[name].add)

        return hook

    handles = [module.register_forward_hook(keep(name))
               for name, module in modules.items()]
    model.train()
    model.zero_grad()
    try:
        data = model.data_preprocessor(data, True)
        loss, log = model.parse_losses(model(**data, mode='loss'))
        if not loss.isfinite():
            raise ValueError(f'the loss is not finite: {log}. Other images, '
                             'or weights, are needed to see anything')
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
        model.eval()
    rows = []
    for name, moments in values.items():
        weight = getattr(modules[name], 'weight', None)
        ratio = math.nan
        if isinstance(weight, Tensor) and weight.grad is not None:
            ratio = (weight.grad.norm() / weight.norm()).item()
        dead = (peaks[name] < DEAD * moments.rms).double().mean().item() if \
            moments.rms else 1.
        rows.append(
            LayerStatistics(name, type(modules[name]).__name__, moments.mean,
                            moments.std, dead, gradients[name].mean,
                            gradients[name].std, ratio))
    model.zero_grad()
    return rows
