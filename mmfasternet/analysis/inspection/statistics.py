# SPDX-License-Identifier: Apache-2.0
"""Numbers about feature maps, partial convolutions, gradients and layers."""
import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from mmfasternet.models.backbones import PartialConv

from .network import recorded, run

ALIKE = 0.9  # |correlation| from which two channels are called alike
# A unit is dead if all that it gives is below this share of the root mean
# square of its layer: ReLU gives 0, GELU and SiLU nearly that.
DEAD = 1e-3


class Redundancy(NamedTuple):
    """How much the channels of a feature map look alike."""

    channels: int  #: Channels that are not constant.
    #: Mean over channels of the largest absolute correlation with another
    #: one, 0 to 1.
    mean_max: float
    alike: float  #: Share of the channels for which it is at least 0.9.
    #: ``mean_max`` of the same channels with their pixels shuffled: small
    #: maps correlate by chance.
    by_chance: float


def channel_correlation(maps: Tensor) -> Tensor:
    """Pearson correlation ``(C, C)`` of each channel of ``(C, H, W)`` with
    each over the pixels, float64; NaN for a channel that is constant."""
    values = maps.detach().flatten(1).double()
    x = values - values.mean(1, keepdim=True)
    norm = x.norm(dim=1, keepdim=True)
    # what is left of a constant after the subtraction is rounding
    varies = norm > 1e-6 * values.norm(dim=1, keepdim=True)
    x = torch.where(varies, x / norm, math.nan)
    return x @ x.T


def _largest(correlation: Tensor) -> Tensor:
    """Of each channel that varies the largest |r| with another that does."""
    varies = ~correlation.diagonal().isnan()
    r = correlation[varies][:, varies].abs().fill_diagonal_(0)
    return r.amax(1) if len(r) > 1 else r.new_zeros(0)


def channel_redundancy(maps: Tensor) -> Redundancy:
    """How much the channels of a feature map ``(C, H, W)`` look alike.

    The FasterNet paper shows it as a picture (Fig. 3) and concludes that a
    convolution of a part of the channels is enough.

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


class PConvStatistics(NamedTuple):
    """The convolved and the untouched channels of one PConv."""

    name: str  #: Of the module.
    touched: int  #: Channels that are convolved.
    untouched: int  #: Channels that pass through.
    rms_before: float  #: Root mean square of the former before it.
    rms_after: float  #: The same after it.
    rms_untouched: float  #: Root mean square of the latter.
    #: Mean over the convolved channels of the largest absolute correlation
    #: with an untouched one, before it.
    alike_before: float
    #: The same after it: smaller means that the convolution adds something
    #: that was not there.
    alike_after: float
    #: Of the energy that the 1x1 convolution behind it takes in, the part of
    #: the convolved channels; energy is the sum over channels of the mean
    #: square times the squares of the weights. NaN if there is none.
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
    """Convolved against untouched channels of each PConv of a model, in the
    order in which they run on ``inputs``, one image ``(1, C, H, W)``; ``crop``
    gives the part of a map to look at.

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
    seen: Dict[nn.Module, tuple] = {}
    givers: Dict[Tensor, nn.Module] = {}  # the PConv that gave a map
    weights: Dict[nn.Module, Tensor] = {}  # of the 1x1 convolution behind

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        if module in names:
            seen[module] = args[0], output
            givers[output] = module
        elif isinstance(module, nn.Conv2d) and args[0] in givers and \
                module.kernel_size == (1, 1):
            weights[givers[args[0]]] = module.weight

    with register_module_forward_hook(keep), torch.no_grad():
        # the head has some, too, but not every head runs alone
        run(model, inputs, list(names.values()))
    return [
        _pconv(names[module], module.dim_conv3, crop(before), crop(after),
               weights.get(module))
        for module, (before, after) in seen.items()
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


def receptive_fields(model: nn.Module, inputs: Tensor,
                     names: Sequence[str]) -> Dict[str, Tensor]:
    """Effective receptive field of the unit in the middle of each map.

    "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", Luo et al., NeurIPS 2016, https://arxiv.org/abs/1701.04128:
    the gradient of that unit, here of the sum of its channels, with respect
    to the pixels. Averaged over images it is a property of the network.

    Args:
        model (nn.Module): In evaluation mode.
        inputs (Tensor): Images ``(N, C, H, W)``.
        names (Sequence[str]): Of the maps, see :func:`.network.recorded`.

    Returns:
        dict[str, Tensor]: The absolute gradient, summed over the channels of
        the image and averaged over the images, ``(H, W)``.
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
    """Row and column, in pixels of a field ``(H, W)``, of the middle unit of
    a map of a shape."""
    return [(size // 2 + 0.5) * pixels / size - 0.5
            for size, pixels in zip(shape, field.shape)]


def share_side(field: Tensor, shape: Sequence[int], share: float) -> float:
    """Side, in pixels, of the smallest square around the unit in the middle
    of a map of a shape ``(h, w)`` that holds a share (0 to 1) of the sum of
    its field ``(H, W)``; 1 gives the whole receptive field, as far as it is
    inside the image."""
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


def eigen_cam(maps: Tensor) -> Tensor:
    """Eigen-CAM of a feature map: what its first principal component shows.

    "Eigen-CAM: Class Activation Map using Principal Components", Muhammad and
    Yeasin, IJCNN 2020, https://arxiv.org/abs/2008.00299. It needs no
    gradient and no class. A singular vector has no sign; the one is taken
    with which the strong places of the map ``(C, H, W)`` are bright. The
    result ``(H, W)`` is from 0 to 1; all 0 if the map is constant.
    """
    x = maps.detach().flatten(1).T.double()  # pixels, channels
    x = x - x.mean(0)
    _, _, directions = torch.linalg.svd(x, full_matrices=False)
    cam = x @ directions[0]
    if (cam * x.norm(dim=1)).sum() < 0:
        cam = -cam
    cam = cam.clamp(min=0).reshape(maps.shape[1:])
    return cam / cam.max().clamp(min=torch.finfo(cam.dtype).tiny)


class LayerStatistics(NamedTuple):
    """What one training step does in one layer."""

    name: str  #: Of the module.
    kind: str  #: Its class.
    mean: float  #: Of its output.
    std: float  #: Of its output.
    #: Share of its channels that give nothing for the whole batch: see DEAD.
    dead: float
    #: Of the gradient of the loss with respect to the output; NaN if there
    #: is none, as in what is frozen.
    grad_mean: float
    grad_std: float  #: The same, standard deviation.
    #: Norm of the gradient of its weights over the norm of the weights; NaN
    #: without weights.
    weight_grad: float


def _sums(x: Tensor) -> Tensor:
    """The number of values, their sum and that of their squares."""
    x = x.detach().double()
    return torch.stack(
        [x.new_tensor(x.numel()), x.sum(), x.square().sum()]).cpu()


def _moments(sums: Tensor) -> List[float]:
    """Mean, standard deviation and root mean square, NaN of no values."""
    mean, square = sums[1:] / sums[0]
    std = (square - mean**2).clamp(min=0).sqrt()
    return torch.stack([mean, std, square.sqrt()]).tolist()


def _peaks(output: Tensor) -> Tensor:
    """The largest absolute value of each channel, which is the second axis of
    images and the last of tokens."""
    axis = 2 if output.dim() == 3 else 1
    return output.detach().abs().transpose(axis, -1).flatten(0, -2).amax(0)


def layer_statistics(model: nn.Module,
                     data: Dict[str, Any]) -> List[LayerStatistics]:
    """Activations and gradients of each layer in one training step.

    The weights are not changed; running statistics of norms are. The layers
    are the modules that hold no others and give a tensor, in the order in
    which they first run.

    Args:
        model (nn.Module): A model of MMEngine.
        data (dict): A batch, as a data loader gives it.

    Raises:
        ValueError: If the loss is not finite.
    """
    names = {module: name for name, module in model.named_modules()
             if not any(module.children()) and 'preprocessor' not in name}
    sums: Dict[nn.Module, Tensor] = {}  # of the outputs and their gradients
    peaks: Dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        if module not in names or not isinstance(output, Tensor) or \
                output.dim() < 2 or not output.is_floating_point():
            return
        own = sums.setdefault(module, torch.zeros(2, 3, dtype=torch.float64))
        own[0] += _sums(output)
        peak = _peaks(output)
        peaks[module] = torch.maximum(peak, peaks.get(module, peak))

        def keep_gradient(gradient: Tensor) -> None:
            own[1] += _sums(gradient)

        if output.requires_grad:
            output.register_hook(keep_gradient)

    model.train()
    model.zero_grad()
    with register_module_forward_hook(keep):
        data = model.data_preprocessor(data, True)
        loss, log = model.parse_losses(model(**data, mode='loss'))
    model.eval()
    if not loss.isfinite():
        raise ValueError(f'the loss is not finite: {log}. Other images, or '
                         'weights, are needed to see anything')
    loss.backward()
    rows = []
    for module, own in sums.items():
        (mean, std, rms), (grad_mean, grad_std, _) = map(_moments, own)
        dead = (peaks[module] < DEAD * rms).double().mean().item() \
            if rms else 1.
        weight, ratio = getattr(module, 'weight', None), math.nan
        if isinstance(weight, Tensor) and weight.grad is not None:
            ratio = (weight.grad.norm() / weight.norm()).item()
        rows.append(LayerStatistics(
            names[module], type(module).__name__, mean, std, dead, grad_mean,
            grad_std, ratio))
    model.zero_grad()
    return rows
