# SPDX-License-Identifier: GPL-3.0-only
"""The demos, and files in the place of checkpoints, as a user types them."""
import importlib.util
import json
import re
import runpy
import shutil
import sys
from argparse import Namespace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from conftest import check_drawn
from mmengine.registry import MODELS
from processes import run_script
from test_predictor import expected

from mmfasternet.deploy import Predictor, frames, use_exported
from mmfasternet.deploy.result_files import output_names
from mmfasternet.deploy.video import show_frame, video_file

onnxruntime = pytest.importorskip('onnxruntime')


def run(*command, status=0):
    done = run_script(*command, status=status)
    return done, done.stdout + done.stderr


def test_exported_files_get_the_ap_of_the_checkpoint(small, exported, truth,
                                                     tmp_path):
    found = {}
    options = [f'{key}={value}' for key, value in truth.items()]
    phone = [exported['any.ncnn.param']] * bool(
        find_spec('ncnn') and find_spec('pnnx'))
    for model in (small.checkpoint, exported['nms.onnx'],
                  exported['fixed.xml'], *phone):
        done, log = run('tools/test.py', small.config, model, '--work-dir',
                        tmp_path, '--cfg-options', *options)
        found[model] = re.findall(r'bbox_mAP_copypaste: (.*)', log)[-1]
    assert len({*found.values()}) == 1, found
    assert 0.1 < float(found[small.checkpoint].split()[0]) < 0.9
    done, log = run('tools/test.py', small.config, exported['any.onnx'],
                    '--work-dir', tmp_path, '--cfg-options',
                    'metainfo.classes=[blue,green]', status=1)
    assert 'Traceback' not in log
    assert 'detects blue, red, but the config has blue, green' in log


def test_a_file_is_opened_once_to_be_tested(small, exported, tmp_path,
                                            monkeypatch):
    opened = []
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, 'InferenceSession',
        lambda *args, **kwargs: opened.append(args) or start(*args, **kwargs))
    path = tmp_path / 'detector.onnx'
    for name in ('fixed.onnx', 'nms.onnx'):  # written anew, read anew
        opened.clear()
        shutil.copy(exported[name], path)
        cfg = small.cfg.copy()
        use_exported(cfg, path)
        model = MODELS.build(cfg.model)
        assert len(opened) == 1
        assert model.backend.info.nms == (name == 'nms.onnx')


def test_image_demo_of_an_exported_file(small, exported, tmp_path):
    done, log = run('demo/image_demo.py', small.images[0], small.config,
                    exported['nms.onnx'], '--out-dir', tmp_path)
    boxes = json.loads((tmp_path / 'preds/0.json').read_text())
    wanted = expected(small, small.images[0])
    assert {*boxes} == {'bboxes', 'scores', 'labels', 'names'}
    np.testing.assert_allclose(boxes['scores'], wanted.scores, atol=1e-5)
    assert [*zip(boxes['labels'], boxes['names'])] == [
        (label, ('blue', 'red')[label]) for label in boxes['labels']]
    check_drawn(cv2.imread(str(tmp_path / 'vis/0.png')),
                cv2.imread(small.images[0]), boxes['bboxes'][0])


@pytest.fixture
def folder(small, tmp_path):
    """Images that share a name, a stem, a damaged one, and a subfolder."""
    root = tmp_path / 'images'
    for name, image in {'a.png': 0, 'a.jpg': 1, 'b.png': 2, 'sub/b.png': 3,
                        'sub/DJI_0000.JPG': 4}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), cv2.imread(small.images[image]))
    (root / 'broken.jpg').write_bytes(b'no image')
    for name in ('c.heic', 'sub/d.HEIC', 'notes.txt', '.DS_Store'):
        (root / name).touch()
    return root


def test_no_two_results_have_one_name(tmp_path):
    for images, wanted in (
        (['a.jpg', 'a.jpg.png', 'A.png'],
         ['a.jpg.json', 'a.jpg_.json', 'A.png.json']),
        (['b.tif', 's/b.tif', 'c.webp'], ['b.json', 's/b.json', 'c.json']),
    ):
        given = [str(tmp_path / image) for image in images]
        assert [*output_names(given, str(tmp_path))] == [*zip(images, wanted)]
    for url, name in (('http://x/q/c.png?b.jpg', ('c.png', 'c.json')),
                      ('http://x/d', ('d.jpg', 'd.json'))):
        assert [*output_names([url], url)] == [name]


@pytest.mark.parametrize('model', ['small.pth', 'any.onnx'])
def test_image_demo_does_what_it_can(small, exported, folder, tmp_path,
                                     model):
    """Each image has results of its own; the damaged one is named."""
    done, log = run('demo/image_demo.py', folder, small.config,
                    exported[model] if model == 'any.onnx' else
                    small.checkpoint, '--out-dir',
                    tmp_path / 'out', '--device', 'cpu', '--batch-size', 2,
                    status=1)
    assert 'Traceback' not in log
    assert f'skipped: {folder}/broken.jpg cannot be read' in done.stderr
    assert re.search('^left out, images are .jpg, .*: 2 .heic, 1 .txt$',
                     done.stderr, re.MULTILINE)
    assert done.stderr.strip().endswith(
        'error: 1 of 6 images were skipped, see above')
    names = {str(path.relative_to(tmp_path / 'out'))
             for path in (tmp_path / 'out').rglob('*') if path.is_file()}
    assert names == {
        'vis/a.png', 'preds/a.png.json', 'vis/a.jpg', 'preds/a.jpg.json',
        'vis/b.png', 'preds/b.json', 'vis/sub/b.png', 'preds/sub/b.json',
        'vis/sub/DJI_0000.JPG', 'preds/sub/DJI_0000.json'
    }
    for name, image in (('a.png', 0), ('b', 2), ('sub/b', 3)):
        boxes = json.loads((tmp_path / f'out/preds/{name}.json').read_text())
        np.testing.assert_allclose(
            boxes['scores'], expected(small, small.images[image]).scores,
            atol=1e-5)


def test_image_demo_paints_over_no_input(small, exported, folder):
    """Whose pictures lie where those of the demo go."""
    folder.rename(folder.with_name('vis'))
    folder = folder.with_name('vis')
    before = (folder / 'a.png').read_bytes()
    done, log = run('demo/image_demo.py', folder, small.config,
                    exported['any.onnx'], '--out-dir', folder.parent,
                    status=1)
    assert 'would be painted over' in log
    assert (folder / 'a.png').read_bytes() == before


@pytest.mark.parametrize('out', ['', 'out'])
def test_pictures_of_an_earlier_run_are_not_images(out, folder):
    images_of = runpy.run_path('demo/image_demo.py')['images_of']
    args = Namespace(img=str(folder), out_dir=str(folder / out))
    before = images_of(args)
    shutil.copytree(folder / 'sub', folder / out / 'vis/sub')
    assert images_of(args) == before and len(before) == 6
    args.img = str(folder / out / 'vis')
    assert len(images_of(args)) == 2


@pytest.mark.parametrize('arguments, words', [
    (dict(device='cuda:0'), 'the device cuda:0 cannot be used, there are cpu'),
    (dict(device='0'), 'the device 0 cannot be used, there are cpu'),
    (dict(device='gpu'), 'the device gpu cannot be used, there are cpu'),
    (dict(device='meta'), 'the device meta cannot be used, there are cpu'),
    (dict(out='file'), 'file: File exists. Choose another folder'),
    (dict(img='none.jpg'), 'no such file or folder: none.jpg'),
    (dict(img='http://127.0.0.1:9/a.jpg'), 'images were skipped, see above'),
    (dict(img='file:///a.jpg'), 'file:///a.jpg is of a kind that is no'),
    (dict(checkpoint='a.onnx', options=['model.test_cfg.score_thr=0.9']),
     'model.test_cfg.score_thr would change nothing: a.onnx has what it was'),
    (dict(img='configs'), 'no image in the folder configs'),
    (dict(checkpoint='none.pth'), 'none.pth'),
    (dict(config='none.py'), 'none.py'),
])
@pytest.mark.skipif(torch.cuda.is_available(), reason='not on CPU')
def test_image_demo_names_what_is_wrong(small, tmp_path, monkeypatch, capsys,
                                        arguments, words):
    given = dict(dict(img=small.images[0], config=small.config,
                      checkpoint=small.checkpoint, device='cpu'), **arguments)
    out = str(tmp_path)
    if 'out' in given:  # is a file
        out = str(tmp_path.parent / f'{tmp_path.name}_file')
        open(out, 'w').close()
    spec = importlib.util.spec_from_file_location('demo', 'demo/image_demo.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    monkeypatch.setattr(sys, 'argv', [
        'image_demo.py', given['img'], given['config'], given['checkpoint'],
        '--device', given['device'], '--out-dir', out,
        *(['--cfg-options', *given['options']] if 'options' in given else [])
    ])
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert str(stop.value).startswith('error: ') and words in str(stop.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('name, code', [
    ('a.avi', 'MJPG'), ('a.mp4', 'mp4v'), ('A.MP4', 'mp4v')])
def test_a_written_video_is_of_the_kind_of_its_name(name, code, video,
                                                    tmp_path):
    with video_file(str(tmp_path / name), video) as write:
        for frame in frames(video):
            write(frame)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    written = cv2.VideoCapture(str(tmp_path / name))
    found = int(written.get(cv2.CAP_PROP_FOURCC)).to_bytes(
        4, 'little').decode()
    assert found.replace('FMP4', 'mp4v') == code
    # of a source that does not say its rate
    with video_file(str(tmp_path / name), str(tmp_path / 'none')) as write:
        write(frame)
    assert cv2.VideoCapture(str(tmp_path / name)).get(
        cv2.CAP_PROP_FPS) == 25


def test_video_demo(small, exported, video, tmp_path):
    out = tmp_path / 'out.avi'
    done, log = run('demo/video_demo.py', video, small.config,
                    exported['any.onnx'], '--out', out, '--batch-size', 5,
                    '--out-json', tmp_path / 'out.jsonl')
    lines = [json.loads(line)
             for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [line['frame'] for line in lines] == [*range(12)]
    predictor = Predictor(exported['any.onnx'], score_thr=0.3)
    for line, frame in zip(lines, frames(video)):
        found = predictor(frame)[0].pred_instances
        assert line['labels'] == found.labels.tolist()
        np.testing.assert_allclose(line['bboxes'], found.bboxes, atol=1e-3)
    assert re.search(r'video.avi: 12 frames, \d+ boxes, [\d.]+ frames/s', log)
    assert len([*frames(str(out))]) == 12
    given, written = (cv2.VideoCapture(str(path)) for path in (video, out))
    for what in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH,
                 cv2.CAP_PROP_FRAME_HEIGHT):
        assert written.get(what) == given.get(what) > 0
    done, log = run('demo/video_demo.py', tmp_path / 'no.mp4', small.config,
                    exported['any.onnx'], status=1)
    assert 'Traceback' not in log
    assert log.strip().endswith('error: video not found: '
                                f'{tmp_path}/no.mp4')


def test_an_image_with_no_pixels_left_is_skipped(small, exported, tmp_path):
    """2 of 3,000 pixels are none of 64; of 1 of 1 all is there."""
    for name, size in dict(thin=(2, 3000), one=(1, 1)).items():
        cv2.imwrite(str(tmp_path / f'{name}.png'),
                    np.full((*size, 3), 90, np.uint8))
    for model in (small.checkpoint, exported['any.onnx']):
        done, log = run('demo/image_demo.py', tmp_path, small.config, model,
                        '--out-dir', tmp_path / 'out', '--device', 'CPU',
                        status=1)
        assert f'skipped: {tmp_path}/thin.png of 3000x2 pixels' in log
        assert log.strip().endswith('1 of 2 images were skipped, see above')
        assert (tmp_path / 'out/preds/one.json').is_file()
        shutil.rmtree(tmp_path / 'out')


@pytest.mark.parametrize('options, words', [
    (['--out-json', 'D.json'], 'D.json is a folder: give a file to write'),
    (['--out', 'V'], 'would be written over'),
    (['--out', 'x.avi', '--out-json', 'x.avi'], 'would be written over'),
])
def test_where_a_video_cannot_go(small, exported, video, options, words,
                                 tmp_path):
    shutil.copy(video, tmp_path / 'v.avi')
    before = (tmp_path / 'v.avi').read_bytes()
    (tmp_path / 'D.json').mkdir()
    options = [o if o.startswith('--') else str(
        tmp_path / o.replace('V', 'D.json/../v.avi')) for o in options]
    done, log = run('demo/video_demo.py', tmp_path / 'v.avi', small.config,
                    exported['any.onnx'], *options, status=1)
    assert words in log and 'Traceback' not in log
    assert (tmp_path / 'v.avi').read_bytes() == before


def test_without_windows_a_video_is_not_shown(monkeypatch):
    """As opencv-python-headless, which the set-up installs, has none."""
    def imshow(*args):
        raise cv2.error('The function is not implemented')

    monkeypatch.setattr(cv2, 'imshow', imshow)
    with pytest.raises(ValueError, match='--show needs a screen'):
        show_frame(np.zeros((8, 8, 3), np.uint8), 'video')


def test_frames_that_are_lost_are_said(video, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmfasternet.deploy.video.print_log',
                        lambda text, *args: said.append(text))
    assert len([*frames(video)]) == 12 and not said
    path = tmp_path / 'part.avi'
    with open(video, 'rb') as file:
        path.write_bytes(file.read()[:8000])
    number = len([*frames(str(path))])
    assert 0 < number < 12
    assert f'part.avi states 12 frames, and {number} could be read' in \
        said.pop()
