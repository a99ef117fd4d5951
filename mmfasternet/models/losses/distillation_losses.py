# SPDX-License-Identifier: Apache-2.0
"""How far a detector is from its teacher: 0 where both agree.

Each is computed in float32, whatever the networks are. The teacher's tensors
carry no gradient.
"""
import torch.nn.functional as F
from torch import Tensor


def feature_imitation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 minus the correlation of two feature maps, mean over the channels.

    The loss of PKD (`Cao et al., NeurIPS 2022
    <https://arxiv.org/abs/2207.02039>`_): half the squared distance of the
    maps after each channel was brought to zero mean and unit variance over
    the batch. Scale and offset of a channel do not count, so that networks of
    different kinds can be compared, and no channel outweighs the others.

    Args:
        student (Tensor): ``(N, C, H, W)``.
        teacher (Tensor): Of the same shape.

    Returns:
        Tensor: A scalar, 0 to 2.
    """
    return F.mse_loss(_standardise(student), _standardise(teacher)) / 2


def _standardise(x: Tensor) -> Tensor:
    # eps: where a channel is constant; trained ones vary by more than 1e-2
    return F.batch_norm(x.float(), None, None, training=True, eps=1e-6)


def score_imitation(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the class scores, per object that the teacher sees.

    The binary cross entropy against the teacher's scores, less the least that
    it can be, summed over all priors and classes as in YOLOv8's own loss, so
    that the background of an image without labels is learnt, too; divided by
    the sum of the teacher's best scores, as that is by the assigned ones.

    Args:
        student (Tensor): Logits ``(N, priors, classes)``.
        teacher (Tensor): Logits of the same shape.

    Returns:
        Tensor: A scalar, 0 or more.
    """
    student, teacher = student.float(), teacher.float()
    scores = teacher.sigmoid()
    loss, least = (
        F.binary_cross_entropy_with_logits(x, scores, reduction='sum')
        for x in (student, teacher))
    return (loss - least) / scores.amax(-1).sum().clamp(min=1)


def box_imitation(student: Tensor, teacher: Tensor,
                  teacher_scores: Tensor) -> Tensor:
    """Divergence of the distributions of a box's sides, mean of the four.

    As in LD (`Zheng et al., CVPR 2022 <https://arxiv.org/abs/2102.12252>`_)
    without its temperature. A prior counts by the score that the teacher
    gives it: where it sees nothing its boxes mean nothing.

    Args:
        student (Tensor): Logits ``(N, priors, 4, bins)``.
        teacher (Tensor): Of the same shape.
        teacher_scores (Tensor): Logits ``(N, priors, classes)``.

    Returns:
        Tensor: A scalar, 0 or more.
    """
    divergence = F.kl_div(
        student.float().log_softmax(-1),
        teacher.float().log_softmax(-1),
        reduction='none',
        log_target=True).sum(-1).mean(-1)
    weight = teacher_scores.float().sigmoid().amax(-1)
    return (divergence * weight).sum() / weight.sum().clamp(min=1)
