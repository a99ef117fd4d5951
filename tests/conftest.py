# SPDX-License-Identifier: Apache-2.0
# first: where mmcv has no operators, the tests import ours
import mmfasternet  # noqa: F401  # isort: skip
import csv
import fcntl
import gc
import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from processes import leave_configs_unformatted
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from trees import coco_json, write_image

leave_configs_unformatted()


def pytest_collection_finish():
    """What was imported is no garbage: MMEngine collects it, half a second,
    with each data set that it builds."""
    gc.freeze()


def skip_if_not_found_by_name():
    """MMEngine 0.10.7 takes an editable install to be in site-packages."""
    from mmengine.utils import get_installed_path
    folder = Path(get_installed_path('mmfasternet'))
    if not (folder / '.mim').is_dir():
        pytest.skip(f'MMEngine looks for mmfasternet in {folder}')


def read_csv(work_dir):
    """The rows of ``results.csv``, by the names of the columns."""
    with open(work_dir / 'results.csv', newline='') as file:
        return list(csv.DictReader(file))


def table_rows(text):
    """The rows of the Markdown table in a text, by the names of columns."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')]
            for line in text.splitlines() if line.startswith('|')]
    return [dict(zip(rows[0], row)) for row in rows[2:]]


def assert_equal(a, b, path=''):
    """Equal bits of whatever a training run saves, and the same types."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


class Payload:
    """Calls a function with a path when pickle reads it."""

    def __init__(self, path, function=os.mkdir):
        self.call = function, (str(path), )

    def __reduce__(self):
        return self.call


def randomise(model):
    """Values that neither a wrong assignment nor a wrong eps can hide behind;
    of the weights of convolutions, those that they have."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            value.fill_(5)
        elif 'running_var' in name:
            value.uniform_(0.1, 0.5, generator=generator)
        elif value.dim() == 1:
            value.normal_(0.4, 0.4, generator=generator)
    return model


def noise(height=64, width=96, seed=0):
    """A batch of two images, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def randomise_for(detector, batch):
    """Norms as of :func:`randomise`, whose statistics are of a batch, so that
    the scores are not saturated."""
    generator = torch.Generator().manual_seed(1)
    for module in detector.modules():
        if isinstance(module, (_BatchNorm, nn.GroupNorm)) and module.affine:
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.5, generator=generator)
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the statistics of the one batch below
    with torch.no_grad():
        features(detector.train(), batch)
    return detector.eval()


def features(detector, batch):
    """What the head says of images, before any decoding."""
    x = detector.data_preprocessor(dict(inputs=batch))['inputs']
    x = x.to(next(detector.parameters()).dtype)
    return detector.bbox_head(detector.extract_feat(x))


def free_ports(count):
    """Ports that differ: all are held until the last one is known."""
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_server(('127.0.0.1', 0)))
            for _ in range(count)
        ]
        return [server.getsockname()[1] for server in held]


def on_ranks(ranks, function, folder, *arguments):
    """What a function returns in each of some processes joined by gloo."""
    folder.mkdir()
    torch.multiprocessing.start_processes(
        _work, (ranks, function, folder, arguments),
        nprocs=ranks,
        start_method='fork')
    return [
        torch.load(folder / f'{rank}.pth', weights_only=False)
        for rank in range(ranks)
    ]


def _work(rank, ranks, function, folder, arguments):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    distributed.init_process_group(
        'gloo', f'file://{folder}/meet', rank=rank, world_size=ranks)
    torch.save(function(rank, ranks, *arguments), folder / f'{rank}.pth')
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope='module')
def one_thread():
    """For networks so small that more gain nothing, and lose on a busy
    machine: `pytest.mark.usefixtures('one_thread')`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """A COCO-shaped folder: bright squares of two classes on noise."""
    root = tmp_path_factory.mktemp('data') / 'coco'
    (root / 'annotations').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        images = {}
        for i in range(1, 6):
            image = rng.integers(0, 90, (60, 80, 3), dtype=np.uint8)
            x, y = rng.integers(0, 30, 2).tolist()
            image[y:y + 24, x:x + 24] = (0, 0, 255) if i % 2 else (255, 0, 0)
            write_image(root / split / f'{i}.png', 80, 60, image)
            images[f'{i}.png'] = 80, 60, [
                ('blue' if i % 2 == 0 else 'red', x, y, 24, 24)]
        (root / f'annotations/{split}.json').write_text(
            json.dumps(coco_json(images, dict(blue=10, red=20))))
    return root


@pytest.fixture(scope='session')
def coco_options(coco):
    """The knobs that make any of our configs train on it in a second."""
    return dict(
        dataset_type='YOLOv5CocoDataset',
        data_root=f'{coco}/',
        train_ann_file='annotations/train.json',
        train_data_prefix='train/',
        val_ann_file='annotations/val.json',
        val_data_prefix='val/',
        classes=['blue', 'red'],
        img_scale=[64, 64],
        train_batch_size_per_gpu=2,
        train_num_workers=0,
        val_num_workers=0,
        max_epochs=1,
        pretrained=None)


def write_images(folder):
    """Other sizes than the network's: narrow, wide, small, exact."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(120, 60), (50, 130), (30, 40),
                                         (64, 64), (97, 101)]):
        image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        image[5:25, 8:30] = rng.integers(0, 256, 3)
        paths.append(str(folder / f'{i}.png'))
        cv2.imwrite(paths[-1], image)
    return paths


@pytest.fixture(scope='session')
def small(coco, tmp_path_factory):
    """Config, checkpoint and detector; scores are spread over 0 to 1."""
    from mmengine.registry import MODELS, init_default_scope

    from mmfasternet.checkpoint import save_checkpoint
    from mmfasternet.config import load_config
    init_default_scope('mmyolo')
    folder = tmp_path_factory.mktemp('small')
    torch.manual_seed(0)
    cfg = load_config(
        'configs/yolov8_fasternet_n.py',
        dict(
            classes=('blue', 'red'),
            data_root=f'{coco}/',
            train_ann_file='annotations/train.json',
            train_data_prefix='train/',
            val_ann_file='annotations/val.json',
            val_data_prefix='val/',
            val_num_workers=0,
            img_scale=(64, 64),
            head_module='mmfasternet.YOLOv8PConvHeadModule'))
    cfg.merge_from_dict({
        'model.backbone.arch':
        dict(
            _delete_=True,
            embed_dim=16,
            depths=(1, 1, 1, 1),
            drop_path_rate=0.)
    })
    config = folder / 'small.py'
    cfg.dump(config)
    detector = randomise_for(MODELS.build(cfg.model), noise())
    # so that a place of the image has boxes of several classes, but not all
    for layers in detector.bbox_head.head_module.cls_preds:
        layers[-1].bias.data -= 1
    checkpoint = folder / 'small.pth'
    save_checkpoint(
        dict(
            state_dict=detector.state_dict(),
            meta=dict(dataset_meta=dict(classes=('blue', 'red')))), checkpoint)
    return SimpleNamespace(
        cfg=cfg,
        config=str(config),
        checkpoint=str(checkpoint),
        detector=detector,
        images=write_images(folder),
        folder=folder)


@pytest.fixture(scope='session')
def truth(small, coco, tmp_path_factory):
    """Options that let the small detector find its validation images' boxes
    in part: every third of its own, so that AP is neither 0 nor 1."""
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    init_default_scope('mmyolo')
    pipeline = Compose([
        step for step in small.cfg.test_dataloader.dataset.pipeline
        if 'LoadAnnotations' not in step.type
    ])
    data = json.loads((coco / 'annotations/val.json').read_text())
    data['annotations'], seen = [], set()
    for image in data['images']:
        path = str(coco / 'val' / image['file_name'])
        with torch.no_grad():
            sample, = small.detector.test_step(
                pseudo_collate([pipeline(dict(img_path=path, img_id=0))]))
        found = sample.pred_instances
        for i in range(0, 15, 3):
            x, y, right, bottom = found.bboxes[i].tolist()
            # the same box twice is not data that may be tested on
            place = image['id'], int(found.labels[i]), *map(round, (
                x, y, right, bottom))
            if place in seen:
                continue
            seen.add(place)
            data['annotations'].append(
                dict(
                    id=len(data['annotations']) + 1,
                    image_id=image['id'],
                    category_id=data['categories'][found.labels[i]]['id'],
                    bbox=[x, y, right - x, bottom - y],
                    area=(right - x) * (bottom - y),
                    iscrowd=0))
    path = tmp_path_factory.mktemp('truth') / 'val.json'
    path.write_text(json.dumps(data))
    return {'test_dataloader.dataset.ann_file': str(path),
            'test_evaluator.ann_file': str(path)}


class Exported(dict):
    """Files of the small detector, as ``tools/deploy/export.py`` makes them:
    suffixes, with ``any``, ``nms`` and ``fixed`` in front of them. Each is
    made when it is asked for, once for all processes of the tests."""

    OPTIONS = dict(
        any=dict(dynamic=True),
        nms=dict(dynamic=True, nms=True),
        fixed=dict(batch_size=2))

    def __init__(self, small, folder):
        self.small, self.folder = small, folder

    def __missing__(self, name):
        from mmfasternet.deploy import DeployInfo, export, load_deployed
        kind, _, suffix = name.partition('.')
        # of the extra [deploy], which the set-up installs and others may lack
        pytest.importorskip('onnxscript')
        for package in {'xml': ['openvino'], 'ncnn.param': ['ncnn', 'pnnx'],
                        'tflite': ['ai_edge_litert', 'litert_torch']}.get(
                            suffix, ()):
            pytest.importorskip(package)
        path = self.folder / kind / name
        with open(self.folder / f'{name}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.parent.with_suffix(f'.{suffix}').exists():
                path.parent.mkdir(exist_ok=True)
                with pytest.MonkeyPatch.context() as patch:
                    self._trace_once(patch)
                    export(
                        load_deployed(self.small.cfg, self.small.checkpoint),
                        DeployInfo.from_config(self.small.cfg), path,
                        **self.OPTIONS[kind])
                path.parent.with_suffix(f'.{suffix}').touch()
        self[name] = str(path)
        return self[name]

    def _trace_once(self, patch):
        """PyTorch takes half a minute for sizes that vary: what it gives is
        kept for the files that differ in what comes after."""
        trace = torch.onnx.export

        def export(network, images, **options):
            kept = self.folder / f'{bool(options["dynamic_shapes"])}.onnx'
            with open(kept.with_suffix('.lock'), 'w') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not kept.exists():
                    trace(network, images, **options).save(kept)
            return SimpleNamespace(model_proto=onnx.load(kept))

        onnx = pytest.importorskip('onnx')
        patch.setattr(torch.onnx, 'export', export)


@pytest.fixture(scope='session')
def exported(small, tmp_path_factory):
    """See :class:`Exported`; of equal seeds, so equal in all processes."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    folder = folder / 'exported'
    folder.mkdir(exist_ok=True)
    return Exported(small, folder)


@pytest.fixture(scope='session')
def video(tmp_path_factory):
    """Twelve frames that differ in brightness."""
    path = str(tmp_path_factory.mktemp('video') / 'video.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 10,
                             (96, 64))
    for i in range(12):
        writer.write(np.full((64, 96, 3), 20 * i, np.uint8))
    writer.release()
    return path


def check_drawn(picture, plain, box):
    """All four edges of a box, x1, y1, x2, y2, are another colour than
    before."""
    assert picture.shape == plain.shape
    changed = (picture != plain).any(2)
    left, top, right, bottom = (
        int(np.clip(round(float(side)), 0, changed.shape[1 - i % 2]))
        for i, side in enumerate(box))
    for x in (left, right):
        edge = changed[top:bottom, max(x - 2, 0):x + 2]
        assert edge.any(1).mean() > 0.9
    for y in (top, bottom):
        edge = changed[max(y - 2, 0):y + 2, left:right]
        assert edge.any(0).mean() > 0.9
