# SPDX-License-Identifier: Apache-2.0
import hashlib
import re
import runpy
import sys

import pytest
import torch

from mmfasternet.checkpoint import RELEASES
from mmfasternet.models import FasterNet

TOOL = 'tools/misc/verify_weights.py'


class Other(torch.nn.Module):
    """A timm whose networks give zeros."""

    __version__ = '1.0'

    def create_model(self, name, num_classes):
        assert (name, num_classes) == ('fasternet_t1', 1000)
        return self

    def load_state_dict(self, tensors, strict):
        assert strict

    def forward(self, images):
        return torch.zeros(len(images), 1000)


def certificate(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [TOOL, str(path)])
    runpy.run_path(TOOL, run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    # aligned: the name, at least two spaces, the value
    return dict(re.split(r' {2,}', line, maxsplit=1) for line in lines)


def test_a_classifier_gets_its_published_numbers(tmp_path, monkeypatch,
                                                 capsys):
    """Table 8 of the paper for T1; no file made here is the release."""
    path = tmp_path / 't1.pth'
    torch.save(
        dict(model=FasterNet('t1', num_classes=1000).state_dict()), path)
    rows = certificate(path, monkeypatch, capsys)
    assert rows['variant'] == 'FasterNet-t1'
    assert rows['layout'] == 'authors layout, plain keys'
    assert rows['parameters'] == '7,595,368'
    assert rows['GMACs at 224'] == '0.85'
    assert rows['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert rows['published top-1'].startswith('76.218 %')
    assert rows['release'].startswith('not fasternet://t1')
    assert 'timm' in rows['logits']
    if sys.modules.get('timm'):
        assert rows['logits'].startswith('equal to timm')
    # as if it were the file, of which timm computes something else
    monkeypatch.setattr('mmfasternet.analysis.complexity.count',
                        lambda *args: {'': (1, 1)})
    monkeypatch.setitem(RELEASES, 't1', dict(
        RELEASES['t1'], sha256=rows['sha256']))

    def without_timm():
        raise ImportError('no timm')

    monkeypatch.setattr('mmfasternet.compat.import_timm', without_timm)
    rows = certificate(path, monkeypatch, capsys)
    assert rows['release'] == 'this is the file of fasternet://t1'
    assert rows['logits'] == 'not compared, timm cannot be imported (no timm)'
    monkeypatch.setattr('mmfasternet.compat.import_timm', Other)
    with pytest.raises(SystemExit, match='error: the logits differ from timm'):
        certificate(path, monkeypatch, capsys)


def test_a_backbone_has_no_logits(tmp_path, monkeypatch, capsys):
    """2,216,100 parameters with four output norms."""
    torch.save({
        f'backbone.{k}': v
        for k, v in FasterNet('t0', out_indices=(0, 1, 2,
                                                 3)).state_dict().items()
    }, tmp_path / 'x.pth')
    rows = certificate(tmp_path / 'x.pth', monkeypatch, capsys)
    assert rows['variant'] == 'FasterNet-t0'
    assert rows['parameters'] == '2,216,100'
    assert 'logits' not in rows


def test_what_is_not_a_fasternet_gets_none(tmp_path, monkeypatch, capsys):
    torch.save(
        FasterNet(dict(embed_dim=8, depths=(1, 1, 1, 1))).state_dict(),
        tmp_path / 'x.pth')
    with pytest.raises(SystemExit, match='none of the variants n, t0'):
        certificate(tmp_path / 'x.pth', monkeypatch, capsys)
