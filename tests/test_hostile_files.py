# SPDX-License-Identifier: GPL-3.0-only
"""Files that are damaged, or made to do harm: thousands of them.

Nothing crashes or hangs, no code of theirs is run, nothing is written, and
nothing is taken for good that is not. The short form tries the same cases in
every run, the long one (`-m slow`) new ones.
"""
import copy
import encodings
import importlib
import io
import json
import math
import pickle
import pkgutil
import re
import sys
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from torch import nn

from mmfasternet.checkpoint import (
    CheckpointError,
    read_checkpoint,
    require_fit,
)
from mmfasternet.config import load_config
from mmfasternet.datasets.checks import check_dataset
from mmfasternet.datasets.images import inspect_image

SHORT, LONG = 25, 1050  # cases of each of the 10 tests


@pytest.fixture(
    params=[SHORT, pytest.param(LONG, marks=pytest.mark.slow)],
    ids=['short', 'long'])
def fuzz(request):
    """A decorator that calls a function with many cases."""

    def decorate(*strategies):

        def call(function):
            cases = []

            @settings(
                max_examples=request.param,
                derandomize=request.param == SHORT,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck))
            @given(st.tuples(*strategies))
            def check(values):
                cases.append(values)
                function(*values)

            check()
            assert len(cases) >= request.param

        return call

    return decorate


# ------------------------------------------------------ what must not happen
_watching = []
for _codec in pkgutil.iter_modules(encodings.__path__):
    # Python imports them when it meets a text that needs them
    with suppress(ImportError):
        importlib.import_module(f'encodings.{_codec.name}')
_HARM = re.compile(r'exec|compile|os\.(system|exec|posix_spawn|spawn|fork|kill'
                   r'|mkdir|remove|rename|rmdir|link|symlink|chmod|putenv)'
                   r'|shutil|subprocess|socket|ctypes|pty|tempfile|ftplib'
                   r'|urllib|webbrowser|import')


def _watch(event, arguments):
    if not _watching:
        return
    if event == 'open':
        mode = str(arguments[1])
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if not ('w' in mode or 'a' in mode or '+' in mode or 'x' in mode
                or flags & 0o103):
            return
    elif not _HARM.match(event):
        return
    _watching[-1].append((event, str(arguments)[:200]))


sys.addaudithook(_watch)


@contextmanager
def harmless():
    """Python reports every file that is written and every bit of code run."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _watching.append([])
        try:
            yield
        finally:
            seen = _watching.pop()
    assert not seen


# ---------------------------------------------------------------- damage
@st.composite
def damage(draw, length):
    """A function that damages bytes: flips, cuts, inserts, repeats."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(['flip', 'set', 'cut', 'insert', 'repeat']),
                st.integers(0, length - 1), st.integers(1, 255),
                st.integers(1, 64)), min_size=1, max_size=4))

    def apply(data):
        data = bytearray(data)
        for kind, place, value, count in edits:
            place = min(place, max(len(data) - 1, 0))
            if kind == 'flip' and data:
                data[place] ^= value
            elif kind == 'set':
                data[place:place + count] = bytes([value]) * count
            elif kind == 'cut':
                data[place:] = b'' if count % 2 else data[place + count:]
            elif kind == 'insert':
                data[place:place] = bytes([value]) * count
            else:
                data[place:place] = data[place:place + count]
        return bytes(data)

    return apply


# ------------------------------------------------------------- checkpoints
def checkpoint():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return model, dict(
        state_dict=dict(model.state_dict()),
        meta=dict(epoch=3, iter=7, classes=('a', 'b')),
        optimizer=dict(state={}, param_groups=[dict(lr=0.1)]))


def written(form):
    _, data = checkpoint()
    file = io.BytesIO()
    if form == 'safetensors':
        return safetensors.torch.save(data['state_dict'])
    torch.save(data, file, _use_new_zipfile_serialization=form == 'zip')
    return file.getvalue()


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(
            same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize('form', ['zip', 'legacy', 'safetensors'])
def test_damaged_checkpoints(form, fuzz, tmp_path):
    """Read as it was written, or refused; only zip files have checksums."""
    data, path = written(form), tmp_path / 'x.pth'
    path.write_bytes(data)
    whole = read_checkpoint(path)

    @fuzz(damage(len(data)))
    def check(apply):
        path.write_bytes(apply(data))
        with harmless():
            try:
                got = read_checkpoint(path)
            except CheckpointError as error:
                assert 'x.pth' in str(error) and len(str(error)) < 2000
                return
        assert form != 'zip' or same(whole, got)


NAMES = [
    'os system', 'posix system', 'subprocess Popen', 'subprocess run',
    'builtins eval', 'builtins exec', 'builtins __import__', 'builtins open',
    'builtins getattr', 'builtins setattr', 'operator attrgetter',
    'operator methodcaller', 'functools partial', 'functools reduce',
    'importlib import_module', 'runpy run_path', 'shutil rmtree',
    'pathlib Path', 'pickle loads', 'torch load', 'torch.hub load',
    'torch.serialization load', 'torch.package PackageImporter',
    'torch._dynamo.utils import_submodule', 'numpy load', 'numpy fromfile',
    'numpy.testing._private.utils runstring', 'mmengine.fileio load',
    'mmengine.config Config.fromfile', 'mmengine.utils import_modules_from_'
    'strings', 'ultralytics.utils checks', 'models.common Model',
    'mmfasternet.compat import_mmpretrain', 'cv2 imwrite', 'code interact',
    '__main__ anything', 'a.b.c d', 'types FunctionType', 'ctypes CDLL',
    'socket create_connection', 'logging.config listen'
]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats()
    | st.text(max_size=8) | st.binary(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(
        st.text(max_size=5), x, max_size=3), max_leaves=5)


def short(value, protocol):
    """The pickled value without frame, header and end."""
    data = pickle.dumps(value, protocol)
    return data[2 if protocol >= 2 else 0:-1]


@pytest.mark.parametrize('modules', [False, True])
def test_poisoned_checkpoints(modules, fuzz, tmp_path):
    """Any callable, in each of the ways in which pickle can call it."""
    path = tmp_path / 'x.pth'
    path.write_bytes(written('zip'))
    read_checkpoint(path, modules=modules)

    @fuzz(
        st.sampled_from(NAMES), values, st.sampled_from('RibNOoB'),
        st.sampled_from([2, 3]), st.booleans())
    def check(name, argument, way, protocol, legacy):
        module, name = name.split()
        use = b'c' + f'{module}\n{name}\n'.encode()
        arguments = b'(' + short(argument, protocol) + b't'
        code = b'\x80\x02}(X\x01\x00\x00\x00x' + {
            'R': use + arguments + b'R',
            'N': use + arguments + b'\x81',
            'i': arguments[:-1] + b'i' + use[1:],
            'o': b'(' + use + short(argument, protocol) + b'o',
            'O': b'\x8c%c%s\x8c%c%s\x93' % (
                len(module), module.encode(), len(name), name.encode()) +
            arguments + b'R',
            'b': use + arguments + b'R' + short(argument, protocol) + b'b',
            'B': use + short(dict(x=argument), protocol) + b'b',
        }[way] + b'u.'
        if legacy:
            path.write_bytes(
                pickle.dumps(0x1950a86a20f9469cfc6c, 2) +
                pickle.dumps(1001, 2) + pickle.dumps({}, 2) + code)
        else:
            with zipfile.ZipFile(path, 'w') as archive:
                archive.writestr('x/data.pkl', code)
                archive.writestr('x/version', b'3\n')
                archive.writestr('x/byteorder', b'little')
        with harmless():
            try:
                got = read_checkpoint(path, modules=modules)
            except CheckpointError:
                return
        # read as what stands for it, and never called
        assert modules and type(got['x']).__name__ in ('Inert', 'type'), got


KINDS = [
    torch.float16, torch.float64, torch.bfloat16, torch.int64, torch.uint8,
    torch.bool, torch.complex64, torch.float8_e4m3fn
]


def test_weights_that_are_no_weights(fuzz, tmp_path):
    """Kinds, shapes, NaN, and tensors that are larger than their file."""
    model, data = checkpoint()
    path = tmp_path / 'x.pth'
    keys = list(data['state_dict'])
    torch.save(data, path)
    require_fit(model, str(path))
    like = model.state_dict()

    changes = st.one_of(
        st.tuples(st.just('kind'), st.sampled_from(KINDS)),
        st.tuples(
            st.just('value'),
            st.sampled_from([math.nan, math.inf, -math.inf])),
        st.tuples(st.just('shape'),
                  st.lists(st.integers(0, 5), max_size=3)),
        st.tuples(st.just('expanded'), st.sampled_from([2**20, 2**40])),
        st.tuples(st.just('meta'), st.none()),
        st.tuples(st.just('sparse'), st.none()),
        st.tuples(st.just('object'), values),
        st.tuples(st.just('missing'), st.none()),
        st.tuples(st.just('name'), st.text(max_size=5) | st.integers()))

    @fuzz(st.sampled_from(keys), changes)
    def check(key, change):
        changed = copy.deepcopy(data)
        state, (kind, value) = changed['state_dict'], change
        tensor = state[key]
        if kind == 'kind':
            state[key] = tensor.to(value)
        elif kind == 'value':
            if tensor.is_floating_point() and tensor.ndim:
                tensor.view(-1)[-1] = value
        elif kind == 'shape':
            state[key] = torch.ones(value, dtype=tensor.dtype)
        elif kind == 'expanded':
            state[key] = torch.ones(1).expand(value)
        elif kind == 'meta':
            state[key] = tensor.to('meta')
        elif kind == 'sparse':
            state[key] = tensor.to_sparse() if tensor.ndim else tensor
        elif kind == 'missing':
            del state[key]
        else:
            state[key if kind == 'object' else value] = \
                value if kind == 'object' else tensor
        torch.save(changed, path)
        try:
            require_fit(model, str(path))
        except CheckpointError:
            return
        for name, tensor in like.items():
            if name not in state:  # a counter that nothing reads
                assert name.endswith('num_batches_tracked')
                continue
            got = state[name]
            assert got.shape == tensor.shape and got.layout == torch.strided
            assert got.is_floating_point() == tensor.is_floating_point()
            assert bool(got.float().isfinite().all())


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    """A quarter of a gigabyte of zeros, compressed to a thousandth."""
    import resource
    path = tmp_path / 'bomb.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x/data.pkl', pickle.dumps({}))
        with archive.open('x/data/0', 'w') as part:
            for _ in range(2**8):
                part.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match='compressed or overlap'):
        read_checkpoint(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # KiB


# ------------------------------------------------------------ annotations
odd = values | st.sampled_from(
    [math.nan, math.inf, -1, 0, 1e308, 2**63, '', '\0', '../../x', [], {}])


@st.composite
def edited_json(draw, data):
    """A json with some values replaced, removed or doubled."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        node = data
        for _ in range(draw(st.integers(0, 3))):
            keys = list(node) if isinstance(node, dict) else list(
                range(len(node)))
            children = [k for k in keys if isinstance(node[k], (dict, list))
                        and node[k]]
            if not children:
                break
            node = node[draw(st.sampled_from(children))]
        key = draw(
            st.sampled_from(list(node) if isinstance(node, dict) else list(
                range(len(node)))))
        action = draw(st.sampled_from(['replace', 'remove', 'double']))
        if action == 'replace':
            node[key] = draw(odd)
        elif action == 'remove':
            del node[key]
            if not data or not node:
                break
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
    return json.dumps(data, default=str).encode()


def test_annotations(coco, fuzz, tmp_path):
    """What is not refused can be trained on: mmyolo reads only good boxes."""
    from mmyolo.datasets import YOLOv5CocoDataset
    data = json.loads((coco / 'annotations/train.json').read_text())
    raw, path = json.dumps(data).encode(), tmp_path / 'x.json'
    text = st.builds(lambda apply: apply(raw), damage(len(raw)))

    @fuzz(edited_json(data) | text)
    def check(content):
        path.write_bytes(content)
        with harmless():
            report = check_dataset(
                dict(train=(str(path), str(coco / 'train'))),
                ('blue', 'red'), images=False, progress=False)
        assert str(report)
        if report.refused:
            return
        dataset = YOLOv5CocoDataset(
            ann_file=str(path),
            data_prefix=dict(img=f'{coco}/train/'),
            metainfo=dict(classes=('blue', 'red')),
            filter_cfg=dict(filter_empty_gt=False, min_size=32),
            pipeline=[])
        assert len(dataset) > 0
        for i in range(len(dataset)):
            for box in dataset.get_data_info(i)['instances']:
                assert box['bbox_label'] in (0, 1)
                assert np.isfinite(box['bbox']).all()

    assert not (tmp_path.parent / 'x').exists()


# ------------------------------------------------------------------ images
@pytest.mark.parametrize('suffix', ['png', 'jpg'])
def test_images(suffix, fuzz, tmp_path):
    """An image that is called good is one that training can load."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    path = tmp_path / f'x.{suffix}'
    data = cv2.imencode(f'.{suffix}', image)[1].tobytes()
    path.write_bytes(data)
    assert inspect_image(str(path)).size == (32, 24)

    @fuzz(damage(len(data)))
    def check(apply):
        path.write_bytes(apply(data))
        with harmless():
            picture = inspect_image(str(path))
        loaded = mmcv.imfrombytes(path.read_bytes()) if \
            path.stat().st_size else None
        if picture.broken or picture.missing:
            return
        assert loaded.shape[1::-1] == picture.size
        assert len(picture.digest) == 16


# ----------------------------------------------------------------- configs
def test_options(fuzz):
    """An option is taken, or refused by its name."""
    names = sorted(
        set(re.findall(r'^(\w+) = ', Path(
            'configs/_base_/yolov8_fasternet.py').read_text(), re.M)))
    dotted = ['model.backbone.arch', 'train_dataloader.batch_size',
              'train_cfg.max_epochs', 'optim_wrapper.optimizer.lr', 'a.b']

    @fuzz(st.sampled_from(names + dotted) | st.text(max_size=8), odd)
    def check(name, value):
        try:
            cfg = load_config('configs/yolov8_fasternet_n.py', {name: value})
        except (ValueError, TypeError, KeyError, AttributeError,
                ZeroDivisionError, OverflowError) as error:
            assert str(error)
            return
        assert isinstance(cfg, Config)
