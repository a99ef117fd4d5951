# SPDX-License-Identifier: GPL-3.0-only
"""Detections of every backend against mmyolo's own path from file to boxes."""
import threading
import time
from itertools import count, islice

import cv2
import numpy as np
import pytest
import torch
from conftest import check_drawn
from mmcv.transforms import Compose
from mmdet.apis import inference_detector
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

from mmfasternet.checkpoint import CheckpointError, save_checkpoint
from mmfasternet.config import load_config
from mmfasternet.deploy import DeployInfo, Predictor, TrainedPredictor, frames
from mmfasternet.deploy import predictor as predictor_module
from mmfasternet.deploy.postprocess import postprocess
from mmfasternet.deploy.predictor import as_array
from mmfasternet.deploy.video import prefetch

pytest.importorskip('onnxruntime')


@torch.no_grad()
def expected(small, image, **test_cfg):
    """MMYOLO's pipeline, forward pass, head and NMS; nothing of ours."""
    init_default_scope('mmyolo')
    pipeline = Compose([
        step for step in small.cfg.test_dataloader.dataset.pipeline
        if 'LoadAnnotations' not in step.type
    ])
    data = pipeline(dict(img_path=str(image), img_id=0))
    head = small.detector.bbox_head
    before = head.test_cfg
    head.test_cfg = before.copy()
    head.test_cfg.update(test_cfg)
    try:
        sample, = small.detector.test_step(pseudo_collate([data]))
        return sample.pred_instances
    finally:
        head.test_cfg = before


def assert_same(got, wanted, atol=1e-5):
    assert len(wanted) > 5 and len(wanted.labels.unique()) == 2
    assert len(got) == len(wanted)
    torch.testing.assert_close(got.scores, wanted.scores, rtol=0, atol=atol)
    # equal scores may change places
    apart = (got.bboxes[:, None] - wanted.bboxes).abs().amax(2)
    apart[got.labels[:, None] != wanted.labels] = np.inf
    assert apart.min(0).values.max() < 1e-2 and \
        apart.min(1).values.max() < 1e-2


@pytest.mark.parametrize('name, backend', [
    ('small.pth', None),
    ('any.onnx', None),
    ('any.onnx', 'openvino'),
    ('any.xml', None),
    ('nms.onnx', None),
    ('nms.xml', None),
    ('fixed.onnx', None),
    ('any.ncnn.param', None),
    ('fixed.ncnn.param', None),
])
def test_every_backend_finds_what_mmyolo_finds(small, exported, name, backend):
    if name.endswith('pth'):
        predictor = Predictor(small.checkpoint, small.config, backend)
    else:
        predictor = Predictor(exported[name], backend=backend)
    assert predictor.classes == ('blue', 'red')
    # an odd number, in batches of another size than the file's
    for size in (1, 3):
        samples = predictor(small.images, batch_size=size)
        assert len(samples) == len(small.images)
        for path, sample in zip(small.images, samples):
            assert sample.img_path == path
            assert_same(sample.pred_instances, expected(small, path))


@pytest.fixture(scope='module')
def limited(small, tmp_path_factory):
    """Files without and with NMS of one label and few boxes, and what mmyolo
    finds with these options."""
    pytest.importorskip('onnxscript')
    from mmfasternet.deploy import export, load_deployed
    options = dict(multi_label=False, max_per_img=30, score_thr=0.1)
    cfg = load_config(
        small.config,
        {f'model.test_cfg.{key}': value for key, value in options.items()})
    deployed = load_deployed(cfg, small.checkpoint)
    folder = tmp_path_factory.mktemp('limited')
    for nms in (False, True):
        export(deployed, DeployInfo.from_config(cfg), folder / f'{nms}.onnx',
               nms=nms)
    return sorted(folder.iterdir()), [
        expected(small, image, **options) for image in small.images]


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_one_label_and_few_boxes(small, limited, backend):
    """Both of what decides on the boxes besides the thresholds."""
    pytest.importorskip(backend)
    paths, wanted = limited
    assert any(len(result) == 30 for result in wanted)
    assert len(paths) == 2
    for path in paths:
        for sample, result in zip(
                Predictor(path, backend=backend)(small.images), wanted):
            assert_same(sample.pred_instances, result)


def by_hand(rows):
    """Boxes ``(N, 4)`` of an image of 60x30, and scores of two classes, as a
    network of 64x64 gives them: x is halved, y doubled, beside a border of 2
    to the left and 4 above."""
    rows = np.array(rows, 'f4')
    boxes = rows[:, :4] * np.array([.5, 2, .5, 2], 'f4') + [2, 4, 2, 4]
    return boxes[None].astype('f4'), rows[None, :, 4:]


META = dict(ori_shape=(30, 60), scale_factor=(.5, 2), pad_param=(4, 0, 2, 0))
A = [0, 0, 20, 10, .9, .2]
B = [0, 0, 20, 6, .8, 0]  # IoU 0.6 with A
C = [0, 0, 20, 10, .1, .7]
D = [40, 20, 70, 33, .6, 0]  # over the border
E = [30, -5, 40, 5, 0, .5]


@pytest.mark.parametrize('options, found', [
    ({}, [(A, 0), (C, 1), (D, 0), (E, 1)]),
    (dict(iou_threshold=.7), [(A, 0), (B, 0), (C, 1), (D, 0), (E, 1)]),
    # the fifth of all scores is no candidate
    (dict(nms_pre=4), [(A, 0), (C, 1), (D, 0)]),
    (dict(max_per_img=2), [(A, 0), (C, 1)]),
    (dict(score_thr=.55), [(A, 0), (C, 1), (D, 0)]),
    (dict(score_thr=.15, iou_threshold=1.),
     [(A, 0), (B, 0), (C, 1), (D, 0), (E, 1), (A, 1)]),
    (dict(score_thr=.15, iou_threshold=1., multi_label=False),
     [(A, 0), (B, 0), (C, 1), (D, 0), (E, 1)]),
])
def test_boxes_by_hand(options, found):
    info = DeployInfo(**dict(dict(
        classes=('a', 'b'), img_scale=(64, 64), pad_val=114, score_thr=.3,
        iou_threshold=.5, nms_pre=99, max_per_img=99, multi_label=True),
        **options))
    outs = by_hand([E, D, C, B, A])
    got, = postprocess(info, outs, [META])
    clipped = [np.clip(row[:4], 0, [60, 30, 60, 30]) for row, _ in found]
    np.testing.assert_allclose(got.bboxes, clipped, atol=1e-4)
    assert got.labels.tolist() == [label for _, label in found]
    np.testing.assert_allclose(
        got.scores, [row[4 + label] for row, label in found])
    # without a way back: in pixels of the network
    got, = postprocess(info, outs)
    np.testing.assert_allclose(
        got.bboxes, by_hand([row for row, _ in found])[0][0], atol=1e-4)


def test_boxes_of_a_network_with_nms_by_hand():
    info = DeployInfo(
        classes=('a', 'b'), img_scale=(64, 64), pad_val=114, score_thr=.3,
        iou_threshold=.5, nms_pre=99, max_per_img=3, multi_label=True,
        nms=True)
    boxes, _ = by_hand([E, D, A])
    outs = (np.array([[2]]), boxes, np.array([[.5, .4, 0]], 'f4'),
            np.array([[1, 0, -1]]))
    got, = postprocess(info, outs, [META])
    np.testing.assert_allclose(
        got.bboxes, [[30, 0, 40, 5], [40, 20, 60, 30]], atol=1e-4)
    assert got.labels.tolist() == [1, 0]
    np.testing.assert_allclose(got.scores, [.5, .4])


def test_arrays_and_a_threshold(small, exported):
    predictor = Predictor(exported['any.onnx'], score_thr=0.5)
    image = cv2.imread(small.images[0])
    (sample, ) = predictor(image)
    wanted = expected(small, small.images[0])
    assert_same(sample.pred_instances, wanted[wanted.scores >= 0.5])
    height, width = image.shape[:2]
    boxes = sample.pred_instances.bboxes
    assert boxes.min() >= 0 and boxes[:, 2].max() <= width and \
        boxes[:, 3].max() <= height
    check_drawn(predictor.draw(image, sample), image, boxes[0])


def test_bf16_is_near(small, exported):
    exact = Predictor(small.checkpoint, small.config)
    images = np.stack([exact.letterbox(path)[0] for path in small.images])
    wanted = exact.backend(images)
    for predictor in (
            Predictor(small.checkpoint, small.config, precision='bf16'),
            Predictor(exported['any.xml'], precision='bf16')):
        got = predictor.backend(images)
        # 8 bits of the mantissa are 0.4 % for each of some 20 roundings
        assert 0 < np.abs(got[1] - wanted[1]).mean() < 0.02
    pytorch = Predictor(small.checkpoint, small.config, precision='bf16')
    # the decoding is float: almost no two coordinates are the same
    boxes = pytorch.backend(images)[0]
    assert len(np.unique(boxes)) > 0.9 * boxes.size


def test_images_of_pillow(small, exported):
    predictor = Predictor(exported['any.onnx'])
    image = Image.open(small.images[0])
    for given in (image, [image], image.convert('RGBA')):
        assert_same(predictor(given)[0].pred_instances,
                    expected(small, small.images[0]))
    grey = image.convert('L')
    assert_same(
        predictor(grey)[0].pred_instances,
        predictor(np.stack(3 * [np.array(grey)], 2))[0].pred_instances)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x112] = 6  # to be turned back by 90 degrees
    assert_same(predictor(turned)[0].pred_instances,
                expected(small, small.images[0]))
    for wrong in ([torch.zeros(3, 8, 8)], None, 0, b'\x89PNG'):
        kind = type(wrong[0] if isinstance(wrong, list) else wrong).__name__
        with pytest.raises(ValueError, match=f'an array, got {kind}'):
            predictor(wrong)


def test_images_of_pillow_with_16_bits(tmp_path):
    """Are what OpenCV reads from their file: the upper 8 bits."""
    pixels = np.arange(0, 2**16, 41, np.uint16)[:1584].reshape(36, 44)
    file = str(tmp_path / '16.png')
    cv2.imwrite(file, pixels)
    wanted = cv2.imread(file)
    assert len(np.unique(wanted)) > 200
    for image in Image.open(file), Image.fromarray(pixels), \
            Image.fromarray(pixels.astype('>u2')):
        np.testing.assert_array_equal(as_array(image)[0], wanted)
    for mode in 'IF':
        with pytest.raises(ValueError, match=f'mode {mode}: scale it'):
            as_array(Image.new(mode, (4, 4)))


@pytest.mark.parametrize('size', [1, 3])
def test_says_how_long_each_step_took(small, exported, size, monkeypatch):
    """Each image has its share of what its batch took."""
    predictor = Predictor(exported['any.onnx'])
    clock = [0.]

    def slow(seconds, function):
        def run(*args):
            clock[0] += seconds
            return function(*args)
        return run

    monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])
    monkeypatch.setattr(predictor, 'backend', slow(3, predictor.backend))
    predictor.backend.info = DeployInfo.from_config(small.cfg)
    monkeypatch.setattr(predictor_module, 'postprocess', slow(2, postprocess))
    samples = predictor(small.images, batch_size=size)
    runs = -(-len(samples) // size)
    for name, seconds in dict(network=3, boxes=2).items():
        assert sum(s.seconds[name] for s in samples) == pytest.approx(
            runs * seconds)
    for sample in samples:
        assert {*sample.seconds} == {'prepare', 'network', 'boxes'}
    assert samples[0].seconds['network'] == pytest.approx(3 / size)


@pytest.mark.parametrize('name', ['any.onnx', 'any.xml'])
def test_threads_may_share_one(name, small, exported):
    predictor = Predictor(exported[name], threads=1)
    wanted = {path: expected(small, path) for path in small.images}
    results = []

    def work(first):
        for i in range(20):
            path = small.images[(first + i) % len(small.images)]
            results.append((path, predictor(path)[0].pred_instances))

    threads = [threading.Thread(target=work, args=(i, )) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for path, found in results:
        assert_same(found, wanted[path])


def test_what_is_drawn_has_at_least_the_score(small, exported):
    predictor = Predictor(exported['any.onnx'])
    image = np.full((64, 64, 3), 90, np.uint8)
    sample = DetDataSample(pred_instances=InstanceData(
        bboxes=torch.tensor([[8., 8, 28, 56], [36, 8, 56, 56]]),
        scores=torch.tensor([0.5, 0.25]), labels=torch.tensor([0, 1])))

    def sides(*score_thr):
        drawn = predictor.draw(image, sample, *score_thr)
        assert drawn.shape == image.shape and drawn.flags.c_contiguous
        changed = (drawn != image).any(2)[32]  # the middle row
        return [changed[:32].any(), changed[32:].any()]

    assert sides() == [True, False]  # from 0.3
    assert sides(0.25) == [True, True]
    assert sides(0.5) == [True, False]
    assert sides(0.75) == [False, False]


def test_as_it_was_trained(small):
    predictor = TrainedPredictor(small.checkpoint, small.config, 'cpu')
    assert predictor.classes == ('blue', 'red')
    for size in (1, 3):
        samples = predictor(small.images, batch_size=size)
        for path, sample in zip(small.images, samples, strict=True):
            assert sample.img_path == path
            assert_same(sample.pred_instances, expected(small, path))
    sure = TrainedPredictor(small.checkpoint, small.config, 'cpu', 0.5)
    wanted = expected(small, small.images[0])
    assert_same(sure(small.images[0])[0].pred_instances,
                wanted[wanted.scores >= 0.5])


def test_detectors_without_a_deploy_form(tmp_path):
    """Another head and another framework's pipeline, its classes in the
    checkpoint."""
    cfg = load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
                      {'model.backbone.init_cfg': None,
                       'model.bbox_head.num_classes': 2,
                       'test_dataloader.dataset.pipeline.1.scale': (96, 64)})
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    path = str(tmp_path / 'retinanet.pth')
    save_checkpoint(dict(state_dict=model.state_dict(), meta=dict(
        dataset_meta=dict(classes=('cat', 'dog')))), path)
    predictor = TrainedPredictor(path, cfg, 'cpu')
    assert predictor.classes == ('cat', 'dog')
    image = np.random.default_rng(0).integers(0, 256, (48, 72, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    sample, = predictor(tmp_path / 'a.png')
    model.eval()
    model.cfg = cfg
    wanted = inference_detector(model, str(tmp_path / 'a.png')).pred_instances
    found = sample.pred_instances
    assert len(found) == len(wanted) > 0
    torch.testing.assert_close(found.bboxes, wanted.bboxes)
    torch.testing.assert_close(found.scores, wanted.scores)


def test_classes_that_the_data_set_alone_names(small, tmp_path):
    """Not COCO's, which would be drawn without a word."""
    path = str(tmp_path / 'plain.pth')
    save_checkpoint(small.detector.state_dict(), path)
    cfg = small.cfg.copy()
    cfg.pop('metainfo')
    assert TrainedPredictor(path, cfg, 'cpu').classes == ('blue', 'red')


def test_wrong_inputs_are_named(small, exported, tmp_path):
    predictor = Predictor(exported['any.onnx'])
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no image')
    for images, kind, words in [
        (broken, ValueError, 'broken.jpg cannot be read as an image'),
        ([small.images[0], 'no.jpg'], FileNotFoundError, 'not found: no.jpg'),
        (np.zeros((5, 5), np.uint8), ValueError, r'got uint8 of \(5, 5\)'),
        (np.zeros((5, 5, 3)), ValueError, 'got float64'),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r'of \(0, 5, 3\)'),
        (Image.new('RGB', (0, 5)), ValueError, 'a PIL image of 0x5'),
        ('ftp://a/b.png', ValueError, 'ftp://a/b.png is of a kind that is no'),
        ('s3://a/b.png', ValueError, 's3://a/b.png cannot be fetched: '),
        ('http://127.0.0.1:9/b.png', ValueError,
         'http://127.0.0.1:9/b.png cannot be fetched: .*refused'),
        ('http://a b/c.png', ValueError, 'http://a b/c.png cannot be fetched'),
    ]:
        for detect in predictor, lambda images: [*predictor.stream(images)]:
            with pytest.raises(kind, match=words):
                detect(images)
    sample, = predictor(small.images[0])
    with pytest.raises(ValueError, match=r'got uint8 of \(5, 5\)'):
        predictor.draw(np.zeros((5, 5), np.uint8), sample)
    for score_thr in ('0.3', 2, -0.1, float('nan')):
        with pytest.raises(ValueError, match='score_thr must be a number fro'):
            Predictor(exported['any.onnx'], score_thr=score_thr)
    with pytest.raises(ValueError, match='batch_size must be positive, got 1.'
                       ):
        predictor(small.images, batch_size=1.5)
    with pytest.raises(ValueError, match='for a checkpoint give its config'):
        Predictor(small.checkpoint)
    with pytest.raises(ValueError, match='batch_size must be positive, got 0'):
        predictor(small.images, batch_size=0)
    with pytest.raises(ValueError, match='backend must be one of pytorch'):
        Predictor(exported['any.onnx'], backend='tensorrt')
    cfg = load_config(small.config, dict())
    cfg.metainfo = dict(classes=('a', 'b'))
    with pytest.raises(CheckpointError, match='trained on 2 classes'):
        Predictor(small.checkpoint, cfg)


# ------------------------------------------------------------ videos
def test_every_frame_of_a_video_in_order(exported, video):
    predictor = Predictor(exported['fixed.onnx'])
    seen = [
        (frame.mean(), len(sample.pred_instances))
        for frame, sample in predictor.stream(frames(video), batch_size=5)
    ]
    assert len(seen) == 12
    assert np.diff([mean for mean, _ in seen]).min() > 10


def test_a_live_source_gives_its_latest_frame():
    """The source waits for nobody; what was missed in between is dropped."""
    taken = threading.Event()
    produced = threading.Event()

    def source():
        yield 0
        taken.wait(10)
        yield from range(1, 100)
        produced.set()

    items = prefetch(source(), 1, latest=True)
    assert next(items) == 0
    taken.set()
    assert produced.wait(10)
    assert list(items) == [99]


def test_what_goes_wrong_while_reading_ahead_is_raised_here():
    def source():
        yield 1
        raise OSError('the camera was unplugged')

    items = prefetch(source(), 4)
    assert next(items) == 1
    with pytest.raises(OSError, match='unplugged'):
        next(items)
    before = {*threading.enumerate()}
    kept = prefetch(count(), 2)
    next(kept)
    reader, = {*threading.enumerate()} - before
    assert reader.daemon  # a program that ends waits for no source
    kept.close()
    for _ in range(5):  # left before its end: no thread stays behind
        endless = prefetch(count(), 2)
        assert list(islice(endless, 3)) == [0, 1, 2]
        endless.close()
    assert {*threading.enumerate()} <= before


def test_sources_that_are_none(tmp_path):
    empty = tmp_path / 'empty.mp4'
    empty.touch()
    for source, kind, words in [
        (str(tmp_path / 'none.mp4'), FileNotFoundError, 'video not found'),
        (str(empty), ValueError, 'video .*empty.mp4 cannot be opened'),
        ('77', ValueError, 'the camera 77 cannot be opened'),
    ]:
        with pytest.raises(kind, match=words):
            next(frames(source))
