# SPDX-License-Identifier: Apache-2.0
"""The web page: what it finds, what it refuses, and how it looks.

`bash tests/run.sh tests/test_tools/test_web_demo.py` where gradio is installed
(pip install -e .[web]); with `-m slow` also in Chromium, for which playwright
and a chromium in the PATH are needed.
"""
import asyncio
import base64
import importlib.util
import json
import re
import shutil
import socket
import struct
import sys
import threading
import urllib.request
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
from urllib.error import HTTPError

import cv2
import numpy as np
import pytest
from conftest import check_drawn, free_ports
from processes import run_script

from mmfasternet.config import load_config
from mmfasternet.deploy import Predictor

SCORE = 0.2


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('web', 'demo/web_demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def models(demo, small, tmp_path_factory):
    """The same weights twice, under two names."""
    cfg = load_config(small.config)
    other = tmp_path_factory.mktemp('other') / 'other.pth'
    shutil.copy(small.checkpoint, other)
    return demo.Models([(cfg, small.checkpoint), (cfg, str(other))], threads=1)


def check_found(found, file, small):
    """Of a model against the predictor of its file."""
    picture, rows, seconds = found
    sample, = Predictor(file, small.config, score_thr=SCORE)(small.images[0])
    expected = sample.pred_instances
    assert len(rows) == len(expected) > 0
    np.testing.assert_allclose([row[1] for row in rows], expected.scores,
                               atol=1e-3)
    np.testing.assert_allclose([row[2:] for row in rows], expected.bboxes,
                               atol=0.06)
    assert [row[0] for row in rows] == [
        ('blue', 'red')[label] for label in expected.labels]
    image = cv2.imread(small.images[0])[..., ::-1]
    check_drawn(picture, image, expected.bboxes[0])
    assert min(seconds) > 0


# ------------------------------------------------------------ without gradio
def test_a_model_finds_what_the_predictor_finds(models, small):
    assert [*models.models] == ['small, small.pth', 'small, other.pth']
    check_found(models(small.images[0], 'small, small.pth', None, SCORE),
                small.checkpoint, small)


def test_so_does_an_exported_file_where_it_can_run(demo, small, exported):
    file = exported['any.onnx']
    models = demo.Models([(small.cfg, file)], threads=1)
    check_found(models(small.images[0], 'any.onnx', None, SCORE), file, small)
    with pytest.raises(ValueError, match='onnxruntime or openvino, not by'):
        models(small.images[0], 'any.onnx', 'pytorch', SCORE)


def blank_png(side):
    """A square of black, as far as its header says."""

    def chunk(name, data):
        check = struct.pack('>I', zlib.crc32(name + data))
        return struct.pack('>I', len(data)) + name + data + check

    return b'\x89PNG\r\n\x1a\n' + chunk(
        b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)) + chunk(
            b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')


def test_only_images_of_a_size_are_taken(demo, small, tmp_path):
    demo.check_image(small.images[0])
    text = tmp_path / 'a.png'
    text.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    with pytest.raises(ValueError, match='this is not an image'):
        demo.check_image(text)
    # pictures of 36 and 900 million pixels in a few bytes
    for side in (6000, 30000):
        bomb = tmp_path / f'{side}.png'
        bomb.write_bytes(blank_png(side))
        assert bomb.stat().st_size < 1000
        with pytest.raises(ValueError, match='more than the 25,000,000'):
            demo.check_image(bomb)
    small_enough = tmp_path / 'small.png'
    small_enough.write_bytes(blank_png(5000))
    demo.check_image(small_enough)
    large = tmp_path / 'large.bmp'
    large.write_bytes(bytes(demo.MAX_BYTES + 1))
    with pytest.raises(ValueError, match='larger than 20 MiB'):
        demo.check_image(large)


def test_what_is_said_beside_a_picture(demo):
    rows = [['blue', .9, 1, 2, 3, 4], ['red', .8, 1, 2, 3, 4],
            ['blue', .7, 1, 2, 3, 4]]
    assert demo.summary(rows, (.0012, .0204, .0031)) == (
        '2 blue, 1 red found\n'
        '24.7 ms: reading and fitting the image 1.2, network 20.4, boxes 3.1')
    assert demo.summary([], (0, 0, 0)).startswith('nothing found\n0.0 ms: ')


def test_the_answers_of_one_model_and_of_two(demo, small):
    asked = []

    def models(*args):
        asked.append(args)
        return args[1], 60 * [['blue', .5, 0, 0, 1, 1]], (0, 0, 0)

    path = small.images[0]
    outs = demo.answer(models, path, .2, 'a', 'usual', 'b', 'openvino')
    assert asked == [(path, 'a', None, .2), (path, 'b', 'openvino', .2)]
    for name, (picture, text, rows) in zip('ab', (outs[:3], outs[3:])):
        assert picture == name and text.startswith('60 blue found')
        assert len(rows) == 50  # the best, as the page says
    outs = demo.answer(models, path, .2, 'a', 'usual', 'none', 'usual')
    assert outs[0] == 'a' and outs[3:] == [None, '', []]
    assert demo.answer(models, None, .2, 'a', 'usual', 'b', 'usual') == 2 * [
        None, '', []]
    assert len(asked) == 3


@pytest.mark.parametrize('headers, passed', [
    ({}, True), ({b'content-length': b'100'}, True),
    ({b'content-length': b'101'}, False), ({b'content-length': b'-1'}, False),
    ({b'transfer-encoding': b'chunked'}, False)])
def test_what_is_kept_from_the_server(headers, passed, demo):
    """Large bodies, and those that do not say how large they are."""
    sent = []

    async def app(scope, receive, send):
        await send(dict(type='http.response.start', status=200,
                        headers=[(b'a', b'b')]))
        await send(dict(type='http.response.body', body=b'inside'))

    async def send(message):
        sent.append(message)

    guard = demo.Guard(app, 100)
    asyncio.run(guard(dict(type='http', headers=[*headers.items()]), None,
                      send))
    start, body = sent
    assert start['status'] == (200 if passed else 413)
    assert body['body'] == (b'inside' if passed else b'more than 100 bytes')
    if passed:
        headers = dict(start['headers'])
        assert headers[b'a'] == b'b'
        assert headers[b'content-security-policy'].startswith(
            b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
            b"frame-ancestors 'self'")
        assert headers[b'x-content-type-options'] == b'nosniff'
        assert headers[b'referrer-policy'] == b'no-referrer'


@pytest.mark.parametrize('name, hosts', [
    ('127.0.0.1', ['127.0.0.1', 'localhost']),
    ('localhost', ['127.0.0.1', 'localhost']), ('0.0.0.0', ['*'])])
def test_who_may_ask_the_server(name, hosts, demo, monkeypatch):
    for module in ('gradio', 'starlette', 'starlette.middleware',
                   'starlette.middleware.trustedhost'):
        monkeypatch.setitem(sys.modules, module, MagicMock())
    sys.modules['starlette.middleware'].Middleware = \
        lambda kind, **options: options
    page = MagicMock()
    demo.launch(page, name, 8000)
    options = page.queue.return_value.launch.call_args.kwargs
    assert (options['server_name'], options['server_port']) == (name, 8000)
    trusted, guard = options['app_kwargs']['middleware']
    assert trusted == dict(allowed_hosts=hosts)
    # an upload and what is around it
    assert options['max_file_size'] == 20 * 2**20
    assert guard == dict(max_bytes=20 * 2**20 + 2**16)
    assert not any(options[key] for key in (
        'share', 'ssr_mode', 'pwa', 'mcp_server', 'enable_monitoring'))


def test_gradio_is_asked_for(small):
    if importlib.util.find_spec('gradio'):
        pytest.skip('gradio is installed')
    done = run_script('demo/web_demo.py', small.config, small.checkpoint,
                      status=1)
    assert 'Traceback' not in done.stderr
    assert 'pip install gradio' in done.stderr


# ------------------------------------------------------------ as a server
@pytest.fixture(scope='module')
def server(demo, models, small, tmp_path_factory):
    pytest.importorskip('gradio', reason='gradio is not installed: .[web]')
    monkeypatch = pytest.MonkeyPatch()
    uploads = tmp_path_factory.mktemp('uploads')
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(uploads))
    monkeypatch.setenv('GRADIO_ANALYTICS_ENABLED', 'False')
    (port, ) = free_ports(1)
    page = demo.build_page(models, score_thr=SCORE)
    demo.launch(page, server_port=port, prevent_thread_lock=True, quiet=True)
    yield SimpleNamespace(url=f'http://127.0.0.1:{port}', port=port,
                          uploads=uploads)
    page.close()
    monkeypatch.undo()


def get(server, path, data=None, **headers):
    request = urllib.request.Request(server.url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode(errors='replace')
    except HTTPError as error:
        return error.code, error.read().decode(errors='replace')


def upload(server, content, name='a.png'):
    body = (b'--x\r\nContent-Disposition: form-data; name="files"; filename="'
            + name.encode() + b'"\r\nContent-Type: image/png\r\n\r\n' +
            content + b'\r\n--x--\r\n')
    return get(server, '/gradio_api/upload', body,
               **{'Content-Type': 'multipart/form-data; boundary=x'})


def ask(server, image, model='small, small.pth', backend='usual', second=None):
    """What the page gets for its inputs: an event and its data."""
    chosen = [image, SCORE, model, backend, second or 'none', 'usual']
    status, text = get(server, '/gradio_api/call/detect',
                       json.dumps(dict(data=chosen)).encode(),
                       **{'Content-Type': 'application/json'})
    assert status == 200, text
    _, text = get(server, '/gradio_api/call/detect/' +
                  json.loads(text)['event_id'])
    event, data = text.strip().split('\n')[-2:]
    return event.partition(': ')[2], json.loads(data.partition(': ')[2])


def file_data(path, **more):
    return dict(path=str(path), meta=dict(_type='gradio.FileData'), **more)


def test_an_upload_is_detected_side_by_side(server, small):
    status, text = upload(server, Path(small.images[0]).read_bytes())
    assert status == 200
    event, data = ask(server, file_data(json.loads(text)[0]),
                      second='small, other.pth')
    assert event == 'complete'
    sample, = Predictor(small.checkpoint, small.config, score_thr=SCORE)(
        small.images[0])
    for picture, summary, boxes in (data[:3], data[3:]):
        assert ' found\n' in summary and ' ms: reading' in summary
        scores = [row[1] for row in boxes['data']]
        np.testing.assert_allclose(
            scores, sample.pred_instances.scores[:50], atol=2e-3)
        status, _ = get(server, f'/gradio_api/file={picture["path"]}')
        assert status == 200


def test_files_of_the_server_are_not_read(server, small, tmp_path):
    secret = Path(small.images[0]).resolve()  # an image that is no upload
    for path in (secret, Path('README.md').resolve(), '/etc/passwd',
                 'README.md', '../../../../../../etc/passwd'):
        for route in ('/gradio_api/file=', '/file=', '/static/'):
            assert get(server, f'{route}{path}')[0] in (403, 404)
        event, data = ask(server, file_data(path))
        assert event == 'error' and 'found' not in str(data)
    # the name of an upload does not lead out of the folder of uploads
    status, text = upload(server, secret.read_bytes(), '../../../escaped.png')
    assert status == 200
    assert server.uploads.resolve() in Path(json.loads(text)[0]).resolve(
    ).parents


def test_only_the_named_models_run(server, small):
    for model in (small.checkpoint, 'small.pth', '../small.pth'):
        event, data = ask(server, data_url(small), model)
        assert event == 'error' and 'not in the list of choices' in str(data)
    event, data = ask(server, data_url(small), backend='tensorrt')
    assert event == 'error' and 'not in the list of choices' in str(data)
    text = dict(data_url(small), url='data:image/png;base64,aGVsbG8=')
    event, data = ask(server, text)
    assert event == 'error' and 'found' not in str(data)


def data_url(small):
    content = base64.b64encode(Path(small.images[0]).read_bytes()).decode()
    return dict(url=f'data:image/png;base64,{content}',
                meta=dict(_type='gradio.FileData'))


def test_the_server_fetches_nothing(server, small):
    """Or it would reach what its network has and the visitor has not."""
    asked = []

    class Handler(BaseHTTPRequestHandler):

        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    inner = HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=inner.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{inner.server_port}/a.png'
    for image in (file_data(url), file_data('a.png', url=url)):
        assert ask(server, image)[0] == 'error'
    for route in ('file=', 'proxy='):
        assert get(server, f'/gradio_api/{route}{url}')[0] in (400, 403)
    inner.shutdown()
    assert asked == []


def test_large_requests_and_other_hosts_are_refused(server, demo):
    status, text = upload(server, bytes(demo.MAX_BYTES + 1))
    assert status == 413 and 'maximum' in text
    length = str(2 * demo.MAX_BYTES)
    assert get(server, '/gradio_api/call/detect', b'{}',
               **{'Content-Length': length})[0] == 413
    assert get(server, '/', Host='evil.example')[0] == 400
    # and nothing but 127.0.0.1 is listened to
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(('127.0.0.2', server.port), 5)
    with urllib.request.urlopen(server.url) as reply:
        assert reply.headers['content-security-policy'].startswith(
            "default-src 'self'")


# ------------------------------------------------------------ in a browser
@pytest.mark.slow
def test_the_page_in_chromium(server, small, tmp_path):
    """Upload, threshold, side by side, camera."""
    sync_api = pytest.importorskip('playwright.sync_api',
                                   reason='playwright is not installed')
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    if not chromium:
        pytest.skip('there is no chromium in the PATH')
    options = ['--no-sandbox', '--disable-gpu',
               '--disable-background-networking', '--disable-sync',
               '--disable-component-update',
               '--use-fake-device-for-media-stream',
               '--use-fake-ui-for-media-stream']
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(tmp_path / 'profile'), executable_path=chromium,
            headless=True, args=options, permissions=['camera'],
            viewport=dict(width=1500, height=1000))
        page = browser.new_page()
        asked, expect = [], sync_api.expect
        page.on('request', lambda request: asked.append(request.url))
        page.goto(server.url)
        first = page.locator('#first-summary textarea')
        second = page.locator('#second-summary textarea')
        page.locator('#image input[type=file]').set_input_files(
            small.images[0])
        expect(first).to_have_value(_timed(), timeout=60_000)
        expect(second).to_have_value(_timed())
        # boxes are drawn: the picture is there and is not the upload
        for side in ('first', 'second'):
            expect(page.locator(f'#{side}-picture img')).to_be_visible()
        before = first.input_value()
        score = page.locator('#score input[type=number]')
        score.fill('1')
        score.press('Enter')
        score.blur()
        expect(first).to_have_value(_timed('nothing found'), timeout=30_000)
        assert before != first.input_value()
        score.fill('0')
        score.press('Enter')
        score.blur()
        expect(first).to_have_value(_timed('.* blue'), timeout=30_000)
        page.locator('#second-model input').click()
        page.get_by_role('option', name='none').click()
        expect(second).to_have_value('', timeout=30_000)
        # the camera, which Chromium plays
        image = page.locator('#image')
        image.get_by_label(re.compile('^(clear|remove)', re.I)).first.click()
        expect(first).to_have_value('', timeout=30_000)
        image.get_by_label('Capture from camera').click()
        image.get_by_text('Click to Access Webcam').click()
        page.wait_for_function(
            "document.querySelector('#image video')?.videoWidth > 0")
        image.get_by_label('capture photo').click()
        expect(first).to_have_value(_timed(), timeout=60_000)
        page.screenshot(path=str(tmp_path / 'page.png'), full_page=True)
        browser.close()
    assert {url.split('/')[2] for url in asked if url.startswith('http')} == {
        f'127.0.0.1:{server.port}'}


def _timed(found='.* found'):
    return re.compile(rf'^{found}.*\n[\d.]+ ms: reading and fitting', re.S)
