# SPDX-License-Identifier: GPL-3.0-only
"""What a GPU does otherwise than a CPU: `bash tests/run.sh -m gpu -n 0 -s`.

Skipped where there is no CUDA device; `-s` shows what each run used.
"""
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import assert_equal, read_csv

from mmfasternet.config import load_config
from mmfasternet.deploy import Predictor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason='needs a CUDA device')
]
DIGITS = 'configs/yolov8_fasternet_n_digits.py'
STOCK = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'
two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason='needs two CUDA devices')


def run(*command):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return text


def tool(name, *arguments):
    return run(sys.executable, f'tools/{name}.py', *arguments)


def train(work_dir, *arguments, options=(), config=DIGITS):
    return tool('train', config, '--work-dir', work_dir, *arguments,
                '--cfg-options', 'max_epochs=2', 'val_interval=2',
                'log_interval=10', *options)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    train(work_dir)
    return work_dir, load_config(str(next(work_dir.glob('*.py'))))


WAYS = {
    'fp32': ((), ()),
    'amp': (('--amp', ), ()),
    'channels_last': ((), ('model.channels_last=True', )),
    'compile': ((), ('compile=True', )),
    'compile amp': (('--amp', ), ('compile=True', )),
}


@pytest.mark.parametrize('way', WAYS)
def test_training_learns(way, tmp_path):
    arguments, options = WAYS[way]
    log = train(tmp_path, *arguments, options=options)
    first, last = read_csv(tmp_path)
    assert float(last['loss']) < 0.9 * float(first['loss'])
    # of tensors, in the log line and in the table; n on 128 px needs little
    memory = float(last['memory'])
    assert 10 < memory < 8000
    logged = [int(m) for m in re.findall(r'memory: (\d+)', log)]
    assert logged and max(logged) == pytest.approx(memory, rel=0.5)
    print(f'{way}: {last["images/s"]} images/s, {memory:.0f} MiB')


def test_resume_is_exact(tmp_path):
    """With deterministic kernels, bit by bit, the moving average as well."""
    options = ['randomness.seed=3', 'randomness.deterministic=True',
               'val_interval=1']
    train(tmp_path / 'whole', options=options)
    train(tmp_path / 'parts', '--resume', tmp_path / 'whole/epoch_1.pth',
          options=options)
    whole, parts = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
        for name in ('whole', 'parts'))
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert_equal(whole[key], parts[key])


@pytest.mark.parametrize('count', [1, 2, 300, 5000])
def test_nms_keeps_what_it_keeps_on_the_cpu(count):
    from mmcv.ops import batched_nms
    rng = np.random.default_rng(count)
    corner = rng.integers(0, 500, (count, 2))
    boxes = np.concatenate(
        [corner, corner + rng.integers(1, 120, (count, 2))], 1)
    scores = rng.permutation(count) / max(count, 1)
    boxes, scores = (torch.from_numpy(x).float() for x in (boxes, scores))
    labels = torch.from_numpy(rng.integers(0, 3, count))
    cfg = dict(type='nms', iou_threshold=0.6)
    expected, kept = batched_nms(boxes, scores, labels, cfg)
    found = batched_nms(boxes.cuda(), scores.cuda(), labels.cuda(), cfg)
    assert torch.equal(found[1].cpu(), kept)
    assert torch.equal(found[0].cpu(), expected)


def test_validation_finds_the_ap_of_the_cpu(trained, monkeypatch):
    work_dir, cfg = trained
    found = []
    for devices in ('0', ''):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', devices)
        log = tool('test', cfg.filename, work_dir / 'epoch_2.pth')
        found.append(float(re.findall(r'coco/bbox_mAP: ([0-9.]+)', log)[-1]))
    assert found[0] == pytest.approx(found[1], abs=2e-3)


def test_a_checkpoint_of_a_gpu_exports(trained, coco, tmp_path):
    """export.py compares each file with PyTorch before it is there."""
    work_dir, cfg = trained
    tool('deploy/export', cfg.filename, work_dir / 'epoch_2.pth',
         tmp_path / 'detector.onnx', '--images', coco / 'val')
    assert (tmp_path / 'detector.onnx').is_file()


def test_onnx_runtime_on_cuda_finds_the_boxes_of_the_cpu(exported, small):
    onnxruntime = pytest.importorskip('onnxruntime')
    if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
        pytest.skip('this ONNX Runtime has no CUDA')
    same_boxes(exported['any.onnx'], small)


def test_pytorch_on_cuda_finds_the_boxes_of_the_cpu(small):
    same_boxes(small.checkpoint, small, config=small.config)


def same_boxes(file, small, **options):
    for cpu, gpu in zip(*(Predictor(file, device=device, **options)(
            small.images) for device in ('cpu', 'cuda:0'))):
        cpu, gpu = (x.pred_instances[:20].cpu() for x in (cpu, gpu))
        assert len(cpu) == len(gpu) > 0
        assert torch.allclose(gpu.scores, cpu.scores, atol=1e-3)
        assert torch.allclose(gpu.bboxes, cpu.bboxes, atol=0.1)


def test_benchmark_times_the_gpu(tmp_path):
    tool('analysis_tools/benchmark', 'configs/yolov8_fasternet_n.py',
         '--baselines', STOCK, '--device', 'cuda:0', '--precisions', 'fp32',
         'fp16', '--runs', 5, '--out-dir', tmp_path)
    report = (tmp_path / 'benchmark.md').read_text()
    assert torch.cuda.get_device_name(0) in report
    print(report)


@pytest.mark.parametrize('size', ['n', 's'])
def test_what_prepare_proposes_fits_the_memory(size, trained, tmp_path):
    config = tmp_path / f'{size}.py'
    tool('prepare', 'data/digits', config, '--model', size, '--img-scale',
         640, '--out-dir', tmp_path)
    batch = load_config(str(config)).train_batch_size_per_gpu
    train(tmp_path, config=config, options=['max_epochs=1', 'pretrained=None'])
    used = float(read_csv(tmp_path)[-1]['memory']) * 2**20
    total = torch.cuda.get_device_properties(0).total_memory
    print(f'{size}: batches of {batch}, {used / total:.0%} of the memory')
    assert used < 0.9 * total


@two_gpus
def test_two_gpus_end_with_finite_weights(tmp_path):
    """NCCL and SyncBN; the statistics are those of both processes."""
    run('bash', 'tools/dist_train.sh', DIGITS, 2, '--work-dir', tmp_path,
        '--cfg-options', 'max_epochs=1')
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert all(
        torch.isfinite(x).all() for x in checkpoint['state_dict'].values())
