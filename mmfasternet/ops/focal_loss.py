# SPDX-License-Identifier: Apache-2.0
"""The focal loss of RetinaNet (https://arxiv.org/abs/1708.02002)."""
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid_focal_loss(input: Tensor,
                       target: Tensor,
                       gamma: float = 2.,
                       alpha: float = 0.25,
                       weight: Optional[Tensor] = None) -> Tensor:
    """The loss of each logit.

    Args:
        input (Tensor): Logits of shape (N, C).
        target (Tensor): The class of each row; C, that there is none. Of
            shape (N, ).
        gamma (float): Exponent that lowers the loss of what is right.
            Defaults to 2.0.
        alpha (float): Weight of positives; negatives have 1 - alpha.
            Defaults to 0.25.
        weight (Tensor, optional): Factors by target, of shape (C, ). Defaults
            to None.

    Returns:
        Tensor: Of shape (N, C), differentiable.
    """
    classes = torch.arange(input.shape[1], device=target.device)
    positive = target[:, None] == classes
    logits = torch.where(positive, input, -input)
    wrong = (-logits).sigmoid()
    factor = torch.where(positive, alpha, 1 - alpha)
    loss = -factor * wrong**gamma * F.logsigmoid(logits)
    return loss if weight is None else loss * weight[target][:, None]
