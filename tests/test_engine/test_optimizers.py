# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmfasternet.engine.optimizers import cpu_amp_optim_wrapper
from mmfasternet.registry import OPTIM_WRAPPERS

WRAPPER = dict(type='mmfasternet.CPUAmpOptimWrapper', clip_grad=None)


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return torch.nn.Conv2d(8, 8, 3, padding=1)


def wrapper(conv):
    return OPTIM_WRAPPERS.build(
        dict(WRAPPER, optimizer=torch.optim.SGD(conv.parameters(), lr=0.1)))


def test_cpu_amp_computes_in_bfloat16_and_steps_in_float32(
        conv, monkeypatch):
    """The step is that of float32, to the 8 bits that bfloat16 keeps."""
    monkeypatch.setattr(cpu_amp_optim_wrapper, 'has_bfloat16', lambda: True)
    before = {k: v.clone() for k, v in conv.named_parameters()}
    image = torch.rand(2, 8, 6, 6)
    loss = conv(image).square().mean()
    expected = dict(
        zip(before, torch.autograd.grad(loss, list(conv.parameters()))))

    amp = wrapper(conv)
    with amp.optim_context(conv):
        out = conv(image)
    assert out.dtype == torch.bfloat16
    assert conv(image).dtype == torch.float32
    amp.update_params(out.float().square().mean())
    for name, parameter in conv.named_parameters():
        assert parameter.dtype == torch.float32
        step = before[name] - parameter
        assert (step - 0.1 * expected[name]).norm() < 0.02 * step.norm()


def test_a_cpu_without_bfloat16_is_refused(conv, monkeypatch):
    monkeypatch.setattr(cpu_amp_optim_wrapper, 'has_bfloat16', lambda: False)
    with pytest.raises(ValueError, match='needs a CPU with bfloat16'):
        wrapper(conv)
