# SPDX-License-Identifier: Apache-2.0
"""The layers of YOLOv8 in plain PyTorch, named as Ultralytics names them.

Written from the published description of the architecture, to compare with:
every layer sits at its position in the YAML, C2f has cv1, cv2 and m, Detect
has cv2 (boxes), cv3 (classes) and dfl, and every batch norm has eps 1e-3.
"""
import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Module):

    def __init__(self, c1, c2, k=1, s=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):

    def __init__(self, c, shortcut):
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c, 3), Conv(c, c, 3)
        self.shortcut = shortcut

    def forward(self, x):
        out = self.cv2(self.cv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):

    def __init__(self, c1, c2, n, shortcut=False):
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, 2 * half)
        self.cv2 = Conv((2 + n) * half, c2)
        self.m = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(n))

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):

    def __init__(self, c1, c2):
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2)
        self.cv2 = Conv(c1 // 2 * 4, c2)

    def forward(self, x):
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.cv2(torch.cat(parts, 1))


class DFL(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(16.).view(1, 16, 1, 1)


class Detect(nn.Module):

    def __init__(self, nc, channels):
        super().__init__()
        self.nc = nc
        c2, c3 = max(16, channels[0] // 4, 64), max(channels[0], min(nc, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(
                Conv(c, c2, 3), Conv(c2, c2, 3), nn.Conv2d(c2, 64, 1))
            for c in channels)
        self.cv3 = nn.ModuleList(
            nn.Sequential(
                Conv(c, c3, 3), Conv(c3, c3, 3), nn.Conv2d(c3, nc, 1))
            for c in channels)
        self.dfl = DFL()

    def forward(self, features, size):
        """Boxes (N, A, 4) as corners in pixels and class scores (N, A, nc)."""
        boxes, scores = [], []
        for x, box, cls in zip(features, self.cv2, self.cv3):
            n, _, h, w = x.shape
            stride = size[0] / h
            bins = box(x).view(n, 4, 16, h, w).softmax(2)
            sides = (bins * torch.arange(16.).view(1, 1, 16, 1, 1)).sum(2)
            cx = (torch.arange(w) + 0.5).expand(h, w)
            cy = (torch.arange(h) + 0.5).view(-1, 1).expand(h, w)
            left, top, right, bottom = sides.unbind(1)
            corners = torch.stack(
                (cx - left, cy - top, cx + right, cy + bottom), -1) * stride
            boxes.append(corners.flatten(1, 2))
            scores.append(cls(x).sigmoid().flatten(2).transpose(1, 2))
        return torch.cat(boxes, 1), torch.cat(scores, 1)


class YOLOv8(nn.Module):
    """YOLOv8 at n scale, with any backbone that gives P3, P4 and P5.

    Args:
        backbone (list[nn.Module]): Layers 0, 1, ...; the outputs of those
            with an index in ``taps`` are P3 and P4, of the last P5. Or one
            module that returns four maps, of which the last three are taken.
        widths: Channels of P3, P4, P5.
    """

    def __init__(self, backbone, widths, nc, taps=()):
        super().__init__()
        p3, p4, p5 = widths
        c3, c4, c5 = 64, 128, 256
        self.taps, self.shift = taps, len(backbone)
        self.model = nn.ModuleList([
            *backbone,
            SPPF(p5, c5),
            nn.Upsample(scale_factor=2),
            nn.Identity(),
            C2f(c5 + p4, c4, 1),
            nn.Upsample(scale_factor=2),
            nn.Identity(),
            C2f(c4 + p3, c3, 1),
            Conv(c3, c3, 3, 2),
            nn.Identity(),
            C2f(c3 + c4, c4, 1),
            Conv(c4, c4, 3, 2),
            nn.Identity(),
            C2f(c4 + c5, c5, 1),
            Detect(nc, (c3, c4, c5)),
        ])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-3, 0.03

    def forward(self, image):
        x, features = image, []
        for i, layer in enumerate(self.model[:self.shift]):
            x = layer(x)
            if i in self.taps:
                features.append(x)
        p3, p4, p5 = (*features, x) if self.taps else x[1:]
        layer = self.model[self.shift:]
        sppf = layer[0](p5)
        td4 = layer[3](torch.cat((layer[1](sppf), p4), 1))
        out3 = layer[6](torch.cat((layer[4](td4), p3), 1))
        out4 = layer[9](torch.cat((layer[7](out3), td4), 1))
        out5 = layer[12](torch.cat((layer[10](out4), sppf), 1))
        return layer[13]((out3, out4, out5), image.shape[2:])


def stock(nc):
    """YOLOv8n with its own backbone."""
    backbone = [
        Conv(3, 16, 3, 2),
        Conv(16, 32, 3, 2),
        C2f(32, 32, 1, True),
        Conv(32, 64, 3, 2),
        C2f(64, 64, 2, True),
        Conv(64, 128, 3, 2),
        C2f(128, 128, 2, True),
        Conv(128, 256, 3, 2),
        C2f(256, 256, 1, True)
    ]
    return YOLOv8(backbone, (64, 128, 256), nc, taps=(4, 6))


RECIPE = """\
nc: 3
scales: # [depth, width, max_channels]
  n: [0.33, 0.25, 1024]
  s: [0.33, 0.50, 1024]
  m: [0.67, 0.75, 768]
  l: [1.00, 1.00, 512]
  x: [1.00, 1.25, 512]

backbone:
  - [-1, 1, FasterNet, []]
  - [-1, 1, SPPF, [1024, 5]]

head:
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 3], 1, Concat, [1]]
  - [-1, 3, C2f, [512]]

  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 3, C2f, [256]]

  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 8], 1, Concat, [1]]
  - [-1, 3, C2f, [512]]

  - [-1, 1, Conv, [512, 3, 2]]
  - [[-1, 5], 1, Concat, [1]]
  - [-1, 3, C2f, [1024]]

  - [[11, 14, 17], 1, Detect, [nc]]
"""
