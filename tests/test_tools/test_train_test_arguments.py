# SPDX-License-Identifier: GPL-3.0-only
"""What one can mistype for tools/train.py and tools/test.py."""
import runpy
import shutil
import sys

import pytest
import torch

N = 'configs/yolov8_fasternet_n.py'


def typed(monkeypatch, tool, *arguments):
    """Run a tool in this process."""
    monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', *arguments])
    runpy.run_path(f'tools/{tool}.py', run_name='__main__')


def as_arguments(options):
    return ['--cfg-options'] + [
        f'{key}={value}'.replace(' ', '') for key, value in options.items()
    ]


@pytest.mark.parametrize('tool, arguments, words', [
    ('train', ['', '--work-dir', 'W'], 'config file not found'),
    ('train', ['setup.cfg', '--work-dir', 'W'], 'Only py/yml/yaml/json'),
    ('train', ['configs', '--work-dir', 'W'], 'config file not found'),
    ('train', ['W/empty.py', '--work-dir', 'W'], 'has no `model`'),
    ('train', [N, '--work-dir', 'W', '--resume', 'W/no.pth'],
     'W/no.pth'),
    ('train', [N, '--work-dir', 'W', '--resume', 'W/empty.py'],
     'it is empty'),
    ('train', [N, '--work-dir', 'W/empty.py'],
     'cannot write into W/empty.py: File exists'),
    ('train', [N, '--work-dir', ''], '--work-dir is empty'),
    ('train', [N, '--work-dir', 'W', 'resume=W/empty.py'],
     'resume is True or False'),
    ('train', [N, '--work-dir', 'W', 'arch=t9'], 'arch'),
    ('train', [N, '--work-dir', 'W', 'model.backbone.nonsense=1'],
     'nonsense'),
    ('train', [N, '--work-dir', 'W', 'model.type=Nothing'], 'Nothing'),
    ('train', [N, '--work-dir', 'W', 'head_module=mmfasternet.Nothing'],
     'Nothing'),
    ('train', [N, '--work-dir', 'W', 'load_from=W/no.pth'], 'W/no.pth'),
    ('train', [N, '--work-dir', 'W', 'pretrained=W/no.pth'], 'W/no.pth'),
    ('train', [N, '--work-dir', 'W', 'max_epochs=0'], 'max_epochs must be'),
    ('train', [N, '--work-dir', 'W', 'train_dataloader.sampler.type=Nothing'],
     'Nothing is not in the mmyolo::data sampler registry'),
    ('train', [N, '--work-dir', 'W', 'optim_wrapper.optimizer.type=Nothing'],
     'optim_wrapper cannot be built'),
    ('train', [N, '--work-dir', 'W',
               'model.bbox_head.head_module.reg_max=1'], 'reg_max=1'),
    ('train', [N, '--work-dir', 'W', 'param_scheduler.0.factor=1'], 'factor'),
    ('train', [N, '--work-dir', 'W', 'train_batch_size_per_gpu=99',
               'train_dataloader.drop_last=True'], 'an epoch has no batch'),
    ('train', [N, '--work-dir', 'W', 'default_hooks.figures=None'],
     'no such hook to leave out, there are '),
    ('train', [N, '--work-dir', 'W', 'model.backbone=t0'],
     'several settings, type, '),
    ('train', [N, '--work-dir', 'W', 'optim_wrapper.optimizer.lr=fast'],
     'must be a number like 0.002, got \'fast\''),
    ('test', [N, 'W/empty.py', '--work-dir', 'W'], 'it is empty'),
    ('test', [N, 'W', '--work-dir', 'W'], 'checkpoint not found: W'),
    ('test', [N, 'W/other.pth', '--work-dir', 'W'], 'does not fit'),
    ('test', [N, 'W/other.pth', '--split', 'test'], 'names no test split'),
    ('test', [N, 'W/other.pth', '--split', 'val',
              'test_dataloader.dataset.ann_file=none.json'],
     'test_dataloader.dataset.ann_file would not count'),
    ('test', [N, 'W/other.pth', '--out', 'W/folder.pkl'],
     'W/folder.pkl is a folder'),
    ('test', [N, 'W/other.pth', '--json-prefix', 'W/x', 'test_evaluator=[]'],
     '--json-prefix needs one CocoMetric'),
    ('test', [N, 'W/other.pth', '--precision', 'bf16'],
     'are for exported files'),
    ('test', [N, 'W/other.onnx', '--work-dir', 'W'], 'other.onnx'),
    ('test', [N, 'W/other.onnx', '--tta'], 'without --tta'),
    ('test', [N, 'W/other.onnx', 'model.test_cfg.score_thr=0.9'],
     'model.test_cfg.score_thr would change nothing: W/other.onnx has what'),
    ('test', [N, 'W/other.pth', '--show-dir', 'W/empty.py'],
     'cannot write into W/empty.py'),
    ('test', [N, 'W/other.pth', '--out', 'W/empty.py/x.pkl'],
     'cannot write into W/empty.py'),
    ('test', [N, 'W/other.pth', '--json-prefix', 'W/empty.py/x'],
     'cannot write into W/empty.py'),
])
def test_a_mistake_is_one_message(tool, arguments, words, coco_options,
                                  tmp_path, monkeypatch):
    """Exit status 1 and no traceback, whatever part of it finds out."""
    (tmp_path / 'empty.py').touch()
    torch.save(dict(x=torch.ones(1)), tmp_path / 'other.pth')
    (tmp_path / 'other.onnx').write_bytes(b'no network')
    (tmp_path / 'folder.pkl').mkdir()
    options = dict(coco_options)
    for argument in [x for x in arguments if '=' in x]:
        arguments = [x for x in arguments if x != argument]
        key, value = argument.split('=')
        options[key] = value.replace('W', str(tmp_path))
    arguments = [
        str(tmp_path) + x[1:] if x == 'W' or x.startswith('W/') else x
        for x in arguments
    ]
    if arguments[0] == N:
        arguments += as_arguments(options)
    words = words.replace('W', str(tmp_path))
    with pytest.raises(SystemExit) as end:
        typed(monkeypatch, tool, *arguments)
    assert str(end.value).startswith('error: '), end.value
    assert words in str(end.value)
    assert not list(tmp_path.glob('**/epoch_*'))


@pytest.mark.parametrize('tool, arguments', [
    ('train', []), ('train', [N, '--launcher', 'ssh']),
    ('train', [N, '--local-rank', 'first']), ('train', [N, '--nonsense']),
    ('train', [N, '--cfg-options']), ('train', [N, '--cfg-options', 'x']),
    ('test', [N]), ('test', [N, 'x.pth', '--split', 'train']),
    ('test', [N, 'x.pth', '--out', 'x.txt']),
    ('test', [N, 'x.pth', '--backend', 'pytorch']),
    ('test', [N, 'x.pth', '--precision', 'int3']),
    ('test', [N, 'x.pth', '--wait-time', 'long']),
    ('test', [N, 'x.pth', '--json-prefix', 'folder/']),
    ('test', [N, 'x.pth', '--json-prefix', '']),
])
def test_the_parser_refuses(tool, arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        typed(monkeypatch, tool, *arguments)
    assert end.value.code == 2
    assert f'usage: {tool}.py' in capsys.readouterr().err


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_image_is_named(workers, coco, coco_options, tmp_path,
                                  monkeypatch):
    root = tmp_path / 'coco'
    shutil.copytree(coco, root)
    image = root / 'train/3.png'
    image.write_bytes(image.read_bytes()[:300])
    options = dict(coco_options, data_root=f'{root}/',
                   train_num_workers=workers)
    with pytest.raises(SystemExit) as end:
        typed(monkeypatch, 'train', N, '--work-dir', str(tmp_path / 'out'),
              *as_arguments(options))
    assert str(end.value).startswith(
        f'error: {image} cannot be read as an image')
    assert 'Traceback' not in str(end.value)


def test_a_batch_that_cannot_be_normalised_is_explained(
        coco_options, tmp_path, monkeypatch):
    """One image, of which the last map has one pixel."""
    options = dict(coco_options, img_scale=[32, 32],
                   train_batch_size_per_gpu=1)
    with pytest.raises(SystemExit, match='error: the last feature map has one '
                       'value of one image'):
        typed(monkeypatch, 'train', N, '--work-dir', str(tmp_path),
              *as_arguments(options))
