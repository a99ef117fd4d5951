# SPDX-License-Identifier: GPL-3.0-only
"""The command-line tools as a user runs them."""
import json
import os
import pickle
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Payload, check_drawn, read_csv, table_rows
from mmengine.runner import Runner
from processes import run_script

from mmfasternet.config import load_config
from mmfasternet.engine.optimizers.cpu_amp_optim_wrapper import has_bfloat16

# those with a strategy are for several processes: test_distributed.py
CONFIGS = sorted(
    p.name for p in Path('configs').glob('yolov8_*.py')
    if 'runner_type' not in p.read_text())


def as_arguments(options):
    return ['--cfg-options'] + [
        f'{key}={value}'.replace(' ', '') for key, value in options.items()
    ]


@pytest.mark.parametrize('config', [
    # wider and deeper ones: test_folding.py has them in the default run
    pytest.param(name, marks=pytest.mark.slow)
    if re.search('_[mlx].py', name) else name for name in CONFIGS
])
def test_every_config_trains_and_predicts(config, coco_options, tmp_path):
    cfg = load_config(f'configs/{config}', coco_options)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = f'{config}_{tmp_path.name}'
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=-1, save_last=False)
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    # every tensor that the images reach has moved, none was forgotten (the
    # boxes of the coarsest level are no object's here, so they get no loss)
    still = [
        k for k, v in runner.model.named_parameters()
        if torch.equal(v, before[k]) and 'head' not in k
    ]
    assert still == []
    trained = sum(
        len(group['params'])
        for group in runner.optim_wrapper.optimizer.param_groups)
    assert trained == len(list(runner.model.parameters()))
    assert runner.iter == 3 and 'coco/bbox_mAP' in runner.test()


def letter_resizes(node):
    """The config of each, wherever it stands."""
    if isinstance(node, dict):
        if node.get('type') == 'LetterResize':
            yield node
        node = node.values()
    if isinstance(node, (list, tuple, type({}.values()))):
        for child in node:
            yield from letter_resizes(child)


def test_borders_are_gray_in_training_and_test():
    """As those of mosaic and the affine transform, in all three channels."""
    from mmyolo.registry import TRANSFORMS
    found = list(letter_resizes(
        load_config('configs/yolov8_fasternet_n.py')._cfg_dict))
    assert len(found) >= 4  # last epochs, val, test, augmented test
    for cfg in found:
        resized = TRANSFORMS.build(dict(cfg))(
            dict(img=np.zeros((20, 64, 3), np.uint8)))['img']
        assert resized.shape[0] > 20
        assert (resized[[0, -1]] == 114).all()


@pytest.fixture(scope='module')
def trained(coco_options, tmp_path_factory):
    """A work dir of `tools/train.py` on the COCO-shaped folder."""
    work_dir = tmp_path_factory.mktemp('work_dir')
    # with the AP of each class printed, as the digits config does
    arguments = as_arguments(dict(coco_options, max_epochs=2))
    arguments += ['val_evaluator.classwise=True']
    run_script('tools/train.py', 'configs/yolov8_fasternet_n.py',
               '--work-dir', work_dir, *arguments)
    return work_dir, arguments


def test_train_writes_checkpoints_and_a_complete_config(trained):
    work_dir, _ = trained
    assert (work_dir / 'epoch_2.pth').is_file()
    assert list(work_dir.glob('best_coco_bbox_mAP_epoch_*.pth'))
    # the config beside them needs no option and none of our loading
    cfg = load_config(str(work_dir / 'yolov8_fasternet_n.py'))
    assert cfg.model.bbox_head.head_module.num_classes == 2
    assert cfg.train_cfg.max_epochs == 2
    # squares of 24 pixels: the levels share them, and each epoch says how
    for row in read_csv(work_dir):
        shares = [float(row[f'assigned/stride {s}']) for s in (8, 16, 32)]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert shares[0] > shares[2]


def test_test_and_resume(trained, tmp_path):
    work_dir, arguments = trained
    config = work_dir / 'yolov8_fasternet_n.py'
    done = run_script(
        'tools/test.py', config, work_dir / 'epoch_2.pth', '--work-dir',
        tmp_path, '--tta', '--out', tmp_path / 'results.pkl', '--split',
        'test', '--cfg-options', 'test_ann_file=annotations/train.json',
        'test_data_prefix=train/')
    assert 'bbox_mAP_copypaste' in done.stdout + done.stderr
    samples = pickle.loads((tmp_path / 'results.pkl').read_bytes())
    assert [Path(x['img_path']).parts[-2:] for x in samples] == [
        ('train', f'{i}.png') for i in range(1, 6)
    ]
    arguments = [a.replace('max_epochs=2', 'max_epochs=3') for a in arguments]
    done = run_script('tools/train.py', 'configs/yolov8_fasternet_n.py',
                      '--work-dir', work_dir, '--resume', *arguments)
    log = done.stdout + done.stderr
    assert 'resumed epoch: 2' in log
    assert re.findall(r'Epoch\(train\) +\[(\d)\]', log) == ['3']
    assert (work_dir / 'epoch_3.pth').is_file()


def test_benchmark_training(coco_options):
    done = run_script('tools/analysis_tools/benchmark_training.py',
                      'configs/yolov8_fasternet_n.py', '--baseline',
                      'configs/yolov8_fasternet_n.py', '--steps', 1,
                      *as_arguments(coco_options))
    rows = table_rows(done.stdout)
    assert len(rows) == 2 + has_bfloat16()
    assert rows[0]['model'].startswith('baseline: ')
    assert rows[0]['speed'].startswith('1.00 (')
    for row in rows:  # two images per step, in ms and per second
        assert 0 < float(row['images/s of one core']) < \
            2e3 / float(row['ms per step']) + 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason='not on CPU')
def test_amp_trains_on_cpu(trained, tmp_path):
    """In bfloat16, or it says that this CPU has none."""
    _, arguments = trained
    done = run_script('tools/train.py', 'configs/yolov8_fasternet_n.py',
                      '--work-dir', tmp_path, '--amp', *arguments,
                      status=0 if has_bfloat16() else 1)
    if has_bfloat16():
        assert (tmp_path / 'epoch_2.pth').is_file()
        config = (tmp_path / 'yolov8_fasternet_n.py').read_text()
        assert "type='mmfasternet.CPUAmpOptimWrapper'" in config
    else:
        assert 'error: mixed precision (--amp) needs a CPU' in done.stderr
        assert 'Traceback' not in done.stderr


def test_image_demo_draws_and_writes_json(trained, coco, tmp_path):
    work_dir, _ = trained
    config = work_dir / 'yolov8_fasternet_n.py'
    for image, names in ((coco / 'val', '12345'), (coco / 'val/3.png', '3')):
        out = tmp_path / names
        done = run_script('demo/image_demo.py', image, config,
                          work_dir / 'epoch_2.pth', '--out-dir', out,
                          '--score-thr', '0.0001', '--device', 'cpu')
        assert f'{names[-1]}.png: ' in done.stdout
        for name in names:
            picture = cv2.imread(str(out / f'vis/{name}.png'))
            plain = cv2.imread(str(coco / f'val/{name}.png'))
            boxes = json.loads((out / f'preds/{name}.json').read_text())
            assert len(boxes['bboxes']) == len(boxes['scores']) > 0
            check_drawn(picture, plain, boxes['bboxes'][0])


def test_a_full_disk_stops_it_and_the_training_goes_on_later(
        trained, tmp_path):
    """A limit on file sizes stands for the disk; a checkpoint is 40 MB."""
    first, arguments = trained
    work_dir = tmp_path / 'work_dir'
    work_dir.mkdir()
    (work_dir / 'epoch_2.pth').write_bytes(
        (first / 'epoch_2.pth').read_bytes())
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    arguments = [a.replace('max_epochs=2', 'max_epochs=3') for a in arguments]
    command = [
        'tools/train.py', 'configs/yolov8_fasternet_n.py', '--work-dir',
        work_dir, '--resume', *arguments
    ]
    done = run_script(
        *command, status=1,
        before=partial(resource.setrlimit, resource.RLIMIT_FSIZE,
                       (10 * 2**20, 10 * 2**20)))
    assert 'Traceback' not in done.stderr
    assert f'error: cannot write to {work_dir}: File too large' in done.stderr
    # nothing half written is left, and the note names what is whole
    assert not list(work_dir.glob('*epoch_3*'))
    assert not list(work_dir.glob('.*.part'))
    assert (work_dir / 'last_checkpoint').read_text() == str(
        work_dir / 'epoch_2.pth')
    run_script(*command)
    last = torch.load(work_dir / 'epoch_3.pth', weights_only=False)
    assert last['meta']['epoch'] == 3


@pytest.mark.parametrize('command', [
    ['tools/test.py', 'CONFIG', 'CHECKPOINT'],
    ['demo/image_demo.py', 'IMAGE', 'CONFIG', 'CHECKPOINT'],
])
@pytest.mark.parametrize('options, words', [
    (['classes=[blue]'], r'was trained on 2 classes \(blue, red\), but the '
     r'config has 1 \(blue\)'),
    (['model.backbone.arch=t0'], r'does not fit the config.*backbone.patch_'
     r'embed.proj.weight: \(32, 3, 4, 4\) in the file, \(40, 3, 4, 4\)'),
])
def test_a_checkpoint_of_another_model_is_refused(command, options, words,
                                                  trained, coco):
    work_dir, arguments = trained
    paths = dict(
        CONFIG='configs/yolov8_fasternet_n.py',
        CHECKPOINT=str(work_dir / 'epoch_2.pth'),
        IMAGE=str(coco / 'val/1.png'))
    command = [paths.get(word, word) for word in command]
    kept = [a for a in arguments if not a.startswith('classes=')]
    kept += ['classes=[blue,red]'] if 'classes' not in options[0] else []
    done = run_script(*command, *kept, *options, status=1)
    assert re.search(words, done.stderr) and 'Traceback' not in done.stderr


@pytest.mark.parametrize('command, words', [
    (['tools/train.py', 'configs/yolov8_fasternet_s.py'],
     'data/nowhere/annotations/instances_train2017.json'),
    (['tools/test.py', 'configs/yolov8_fasternet_s.py', 'no.pth'],
     'checkpoint not found: no.pth'),
    (['demo/image_demo.py', 'no.jpg', 'configs/yolov8_fasternet_n.py',
      'setup.cfg'], 'no such file or folder: no.jpg'),
    (['tools/train.py', 'no.py'], 'no.py'),
])
def test_a_mistake_is_one_message(command, words):
    options = [] if command[-1] == 'no.py' else [
        '--cfg-options', 'data_root=data/nowhere/'
    ]
    done = run_script(*command, *options, status=1)
    assert words in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize('command', [
    ['tools/train.py', 'CONFIG', '--resume', 'POISON'],
    ['tools/train.py', 'CONFIG', '--cfg-options', 'load_from=POISON'],
    ['tools/train.py', 'CONFIG', '--cfg-options',
     'model.backbone.init_cfg.checkpoint=POISON'],
    ['tools/test.py', 'CONFIG', 'POISON'],
    ['demo/image_demo.py', 'IMAGE', 'CONFIG', 'POISON'],
    ['tools/model_converters/convert_backbone.py', 'POISON', 'OUT'],
    ['tools/model_converters/convert_detector.py', 'POISON', 'CONFIG', 'OUT'],
    ['tools/misc/verify_weights.py', 'POISON'],
], ids=' '.join)
def test_a_poisoned_checkpoint_runs_nothing(command, trained, coco, tmp_path):
    """A checkpoint of training with something to run added to it."""
    work_dir, _ = trained
    checkpoint = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
    checkpoint['payload'] = Payload(tmp_path / 'ran')
    poison = tmp_path / 'poison.pth'
    torch.save(checkpoint, poison)
    paths = dict(
        CONFIG=work_dir / 'yolov8_fasternet_n.py',
        POISON=poison,
        IMAGE=coco / 'val/1.png',
        OUT=tmp_path / 'out.pth')
    for name, path in paths.items():
        command = [word.replace(name, str(path)) for word in command]
    if command[0] == 'tools/train.py':
        # not where it would write its options into the config of the others
        command += ['--work-dir', str(tmp_path / 'run')]
    done = run_script(*command, status=1)
    assert f'error: {poison} is refused: it holds more than tensors and ' \
        'plain values (posix.mkdir)' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'ran').exists()
    assert not (tmp_path / 'out.pth').exists()


def test_get_flops():
    """FasterNet-T0 at s: 8.65 M and 21.8 GFLOPs, a quarter of it at half."""
    for extra, macs in (([], '10.876'), (['--train'], '10.876'),
                        (['--shape', '320'], '2.719'),
                        (['--shape', '320', '640'], '5.438')):
        done = run_script('tools/analysis_tools/get_flops.py',
                          'configs/yolov8_fasternet_s.py', *extra)
        *parts, total = table_rows(done.stdout)
        assert total == {
            'module': 'total', 'parameters': '8,652,356', 'GMACs': macs,
            'GFLOPs = 2 x GMACs': total['GFLOPs = 2 x GMACs']}
        assert [row['module'] for row in parts] == [
            'backbone', 'neck', 'bbox_head']
        # three numbers, each rounded to 0.001
        assert sum(float(row['GMACs']) for row in parts) == pytest.approx(
            float(macs), abs=0.002)
        assert float(total['GFLOPs = 2 x GMACs']) == pytest.approx(
            2 * float(macs), abs=0.0011)


def test_two_processes_end_with_equal_weights(coco_options, tmp_path):
    """dist_train.sh on CPU with gloo."""
    (tmp_path / 'save_rank.py').write_text('''
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class SaveRank(Hook):
    def after_train_iter(self, runner, batch_idx, **kwargs):
        model = runner.model.module
        if runner.iter == 0:
            ids = kwargs['data_batch']['inputs'].float().mean().item()
            open(f'{runner.work_dir}/seen_{get_rank()}', 'w').write(str(ids))
        if runner.iter + 1 == runner.max_iters:
            torch.save(model.state_dict(),
                       f'{runner.work_dir}/rank_{get_rank()}.pth')
''')
    config = tmp_path / 'two.py'
    base = Path('configs/yolov8_fasternet_n.py').resolve()
    config.write_text(f'''
_base_ = {str(base)!r}
custom_imports = dict(imports=['mmfasternet.models', 'save_rank'])
custom_hooks = [dict(type='mmengine.SaveRank')]
''')
    work_dir = tmp_path / 'work_dir'
    done = subprocess.run(
        ['bash', 'tools/dist_train.sh', config, '2', '--work-dir', work_dir,
         *as_arguments(coco_options)],
        capture_output=True,
        text=True,
        env=dict(
            os.environ,
            PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
            PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            PORT='0'))  # a free one
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = [
        torch.load(work_dir / f'rank_{r}.pth', weights_only=True)
        for r in range(2)
    ]
    parameters = {
        k for k in ranks[0] if 'running' not in k and 'num_batches' not in k
    }
    assert len(parameters) > 100
    for key in parameters:
        assert torch.equal(ranks[0][key], ranks[1][key]), key
    seen = [(work_dir / f'seen_{r}').read_text() for r in range(2)]
    assert seen[0] != seen[1]  # each rank trained on images of its own
