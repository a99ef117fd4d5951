# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints as data, finding and writing them."""
import errno
import hashlib
import os
import pickle
import socket
import subprocess
import sys
import time
import zipfile

import pytest
import safetensors.torch
import torch
from conftest import Payload
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from mmfasternet.checkpoint import (
    RELEASES,
    CheckpointError,
    checkpoint_path,
    download,
    get_checkpoint,
    load_model_weights,
    newest_checkpoint,
    noted_classes,
    noted_meta,
    read_checkpoint,
    require_fit,
    save_checkpoint,
    secure_mmengine,
    whole_file,
)
from mmfasternet.checkpoint.reading import refusal

TENSORS = dict(weight=torch.arange(6.).view(2, 3), bias=torch.ones(2))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder and no connection."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')  # discard: refused
    return tmp_path / 'home/hub/checkpoints'


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / 'mirror'
    folder.mkdir()
    monkeypatch.setenv('MMFASTERNET_MIRROR', f'file://{folder}/')
    return folder


# ------------------------------------------------------------ reading
@pytest.mark.parametrize('legacy', [False, True])
def test_a_training_checkpoint_is_read(legacy, tmp_path):
    """Tensors, numpy scalars and MMEngine's HistoryBuffer."""
    import numpy as np
    history = HistoryBuffer()
    history.update(0.5, 1)
    saved = dict(
        state_dict=TENSORS,
        meta=dict(epoch=3, seed=np.int64(7), best=np.float64(0.25)),
        message_hub=dict(loss=history),
        flags=np.array([True, False]))
    torch.save(
        saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    data = read_checkpoint(tmp_path / 'a.pth')
    torch.testing.assert_close(data['state_dict'], TENSORS, rtol=0, atol=0)
    assert data['meta'] == saved['meta']
    assert data['message_hub']['loss'].mean() == 0.5
    for method in ('min', 'max', 'current', 'mean'):
        assert data['message_hub']['loss'].statistics(method) == 0.5
    assert data['flags'].tolist() == [True, False]


def test_safetensors_are_told_by_their_content(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / 'named.pth')
    data = read_checkpoint(tmp_path / 'named.pth')
    torch.testing.assert_close(data, TENSORS, rtol=0, atol=0)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('modules', [False, True])
@pytest.mark.parametrize(
    'function', [os.mkdir, os.system, eval, pickle.loads])
def test_a_poisoned_pickle_does_not_run(function, modules, legacy, tmp_path):
    payload = Payload(tmp_path / 'ran', function)
    if function is pickle.loads:
        code = pickle.dumps(Payload(tmp_path / 'ran'))
        payload.call = function, (code, )
    elif function is not os.mkdir:
        code = f'mkdir {tmp_path}/ran' if function is os.system else \
            f'__import__("os").mkdir({str(tmp_path / "ran")!r})'
        payload.call = function, (code, )
    path = tmp_path / 'evil.pth'
    torch.save(
        dict(TENSORS, x=payload),
        path,
        _use_new_zipfile_serialization=not legacy)
    # the payload works where nobody stops it
    torch.load(path, weights_only=False)
    (tmp_path / 'ran').rmdir()
    with pytest.raises(CheckpointError, match='evil.pth is refused'):
        read_checkpoint(path, modules=modules)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('modules', [False, True])
def test_getattr_gives_nothing_away(modules, tmp_path):
    """HistoryBuffer pickles its methods with it; nothing else may."""
    payload = Payload('')
    payload.call = getattr, (HistoryBuffer, '__init__')
    torch.save(dict(x=payload), tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='refused.*getattr'):
        read_checkpoint(tmp_path / 'evil.pth', modules=modules)


@pytest.mark.parametrize('scheme', ['', 'https://', 'local-file://'])
def test_mmengine_does_not_fall_back_to_unsafe_reading(scheme, cache,
                                                       tmp_path):
    """Not for a path, not for a URL, not for a backend somebody adds."""
    secure_mmengine()
    path = tmp_path / 'evil.pth'
    torch.save(dict(TENSORS, x=Payload(tmp_path / 'ran')), path)
    name = f'{scheme}{path}'
    if scheme == 'https://':
        name = 'https://host/evil.pth'
        key = hashlib.sha256(name.encode()).hexdigest()[:8]
        cache.mkdir(parents=True)
        path.rename(cache / f'{key}-evil.pth')
    elif scheme:

        @CheckpointLoader.register_scheme(prefixes=scheme, force=True)
        def load_from_somewhere(filename, map_location):
            return torch.load(
                filename[len(scheme):], map_location, weights_only=False)

    model = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match='refused.*mkdir'):
        load_checkpoint(model, name)
    assert not (tmp_path / 'ran').exists()


def test_good_files_still_load_through_mmengine(tmp_path):
    secure_mmengine()
    model = nn.Linear(3, 2)
    torch.save(dict(state_dict=TENSORS), tmp_path / 'good.pth')
    load_checkpoint(model, str(tmp_path / 'good.pth'), strict=True)
    assert torch.equal(model.weight, TENSORS['weight'])


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('keep, words', [
    (0, 'is not a checkpoint: it is empty'),
    (0.5, 'cannot be read, it is truncated or damaged'),
])
def test_a_truncated_file_is_named(keep, words, suffix, tmp_path):
    path = tmp_path / f'half.{suffix}'
    save_checkpoint(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=f'half.{suffix} {words}'):
        read_checkpoint(path)


@pytest.mark.parametrize('content', [
    b'<!DOCTYPE html><html>', b'{"images": []}', b'\x89PNG\r\n\x1a\n' + b'0'
])
def test_another_kind_of_file_is_named(content, tmp_path):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(
            CheckpointError, match='not a checkpoint: it begins with'):
        read_checkpoint(tmp_path / 'x.pth')


def test_of_an_error_of_several_lines_the_first_is_said(tmp_path,
                                                        monkeypatch):
    torch.save(TENSORS, tmp_path / 'x.pth')

    def fail(*args, **kwargs):
        raise RuntimeError('what is wrong\nwhere in the program')

    monkeypatch.setattr(torch, 'load', fail)
    with pytest.raises(CheckpointError, match=r'damaged \(\d+ bytes\): what '
                       r'is wrong\. Download'):
        read_checkpoint(tmp_path / 'x.pth')


def test_a_pickled_module_is_read_by_those_who_ask_for_it(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(nn.Linear(3, 2), path)
    for read in (read_checkpoint, get_checkpoint):
        with pytest.raises(CheckpointError, match='Whole modules are pickled'):
            read(path)
        assert read(path, modules=True)._parameters['bias'].shape == (2, )


def test_an_archive_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    with pytest.raises(CheckpointError, match='x.pth'):
        read_checkpoint(tmp_path / 'x.pth')


# ------------------------------------------------------------ MMEngine
PROBE = """
import os
from mmengine.fileio import LocalBackend
from mmengine.fileio.backends import backends
from mmengine.runner import CheckpointLoader

def state():
    return (dict(CheckpointLoader._schemes), CheckpointLoader.load_checkpoint,
            backends['local'])

before = state()
assert before[2] is LocalBackend
from mmfasternet.models import FasterNet
import mmfasternet.checkpoint.pretrained
FasterNet('n').init_weights()
assert state() == before
if os.fork():
    os.wait()
    import mmfasternet.engine
else:
    from mmfasternet.config import load_config
    load_config("configs/yolov8_fasternet_n.py")
print([a != b for a, b in zip(state(), before)])
"""


def test_who_touches_mmengine():
    """The backbone alone does not; what trains does, and what loads."""
    done = subprocess.run([sys.executable, '-c', PROBE],
                          capture_output=True,
                          text=True)
    assert done.stdout.count('[True, True, True]') == 2, done.stderr


# ------------------------------------------------------------ fitting
@pytest.fixture
def reads(monkeypatch):
    """The files that PyTorch has read."""
    seen, load = [], torch.load

    def count(file, *args, **kwargs):
        seen.append(os.path.basename(file))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', count)
    return seen


def aged(data, path):
    """A file that was not written this moment."""
    torch.save(data, path)
    os.utime(path, ns=(10**18, 10**18 + path.stat().st_ino))
    return path


def test_weights_are_loaded_in_one_read(reads, tmp_path):
    model = nn.Linear(3, 2)
    data = dict(state_dict={f'module.{k}': v for k, v in TENSORS.items()},
                meta=dict(dataset_meta=dict(classes=('blue', 'red'))))
    path = aged(data, tmp_path / 'a.pth')
    found = load_model_weights(model, path, ('blue', 'red'))
    assert found['meta'] == data['meta']
    assert torch.equal(model.weight, TENSORS['weight'])
    assert reads == ['a.pth']
    other = nn.Linear(3, 2)
    load_model_weights(other, path, data=found)
    assert torch.equal(other.bias, TENSORS['bias']) and reads == ['a.pth']


def test_what_was_verified_is_what_mmengine_loads(reads, tmp_path):
    """In one read, unless the file has changed, and never twice."""
    secure_mmengine()
    path, model = tmp_path / 'a.pth', nn.Linear(3, 2)
    aged(TENSORS, path)
    require_fit(model, path)
    load_checkpoint(model, str(path))
    assert torch.equal(model.weight, TENSORS['weight'])
    assert reads == ['a.pth']
    require_fit(model, path)
    aged({k: v + 1 for k, v in TENSORS.items()}, path)
    os.utime(path, ns=(0, 2 * 10**18))
    load_checkpoint(model, str(path))
    assert torch.equal(model.weight, TENSORS['weight'] + 1)
    assert reads == ['a.pth'] * 3
    # whoever gets it may change it
    first = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    assert CheckpointLoader.load_checkpoint(str(path), 'cpu') is not first


def test_a_file_that_is_being_written_is_read_again(tmp_path):
    """Of the same size, in the same tick of the clock."""
    path, model = tmp_path / 'a.pth', nn.Linear(3, 2)
    for i in range(20):
        torch.save({k: v + i for k, v in TENSORS.items()}, path)
        load_model_weights(model, path)
        assert torch.equal(model.weight, TENSORS['weight'] + i)
        require_fit(model, path)


def test_what_may_still_change_is_not_kept(tmp_path):
    """A time that has not passed says nothing of what is written then."""
    path, now = tmp_path / 'a.pth', time.time_ns()
    for seconds, kept in ((3600, False), (-3600, True)):
        when = now + seconds * 10**9
        for x in (1, 2):  # of one size
            torch.save(dict(x=x), path)
            os.utime(path, ns=(when, when))
            found = read_checkpoint(path, keep=x == 1)
        assert found['x'] == (1 if kept else 2)


@pytest.mark.parametrize('words, named', [
    ('one\ntwo\n\nthree\n', 'three'),
    ('GLOBAL os.system was\nGLOBAL x.y was', 'os.system, x.y'),
    ('\n'.join(f'GLOBAL a.b{i} not' for i in range(7)),
     'a.b0, a.b1, a.b2, a.b3, a.b4'),
])
def test_a_refusal_names_what_it_can(words, named):
    error = refusal('none.pth', pickle.UnpicklingError(words))
    assert f'plain values ({named}), and reading that' in str(error)


def test_the_newest_checkpoint_is_read_once(reads, tmp_path):
    aged(dict(optimizer={}, meta={}, x=1), tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    path = newest_checkpoint(tmp_path)
    assert read_checkpoint(path)['x'] == 1 and reads == ['epoch_1.pth']
    for _ in range(2):  # what was not asked to be kept is not
        read_checkpoint(path)
    assert reads == 3 * ['epoch_1.pth']


@pytest.mark.parametrize('classes, fits', [
    (('blue', 'red'), True),
    (('red', 'blue'), False),
    (('blue', ), False),
    ((), True),
])
def test_classes_have_an_order(classes, fits, tmp_path):
    path = aged(
        dict(
            state_dict=TENSORS,
            meta=dict(dataset_meta=dict(classes=['blue', 'red']))),
        tmp_path / 'a.pth')
    for use in (require_fit, load_model_weights):
        model = nn.Linear(3, 2)
        before = model.weight.clone()
        if fits:
            use(model, path, classes)
            continue
        with pytest.raises(CheckpointError, match=r'trained on 2 classes '
                           r'\(blue, red\), but the config has'):
            use(model, path, classes)
        assert torch.equal(model.weight, before)


def test_of_many_classes_the_first_are_named(tmp_path):
    for count, dots in ((4, ''), (5, ', ...')):
        names = list('abcdefgh')[:count]
        path = aged(dict(state_dict=TENSORS, meta=dict(
            dataset_meta=dict(classes=names))), tmp_path / f'{count}.pth')
        with pytest.raises(CheckpointError) as error:
            require_fit(nn.Linear(3, 2), path, ('x', ))
        assert f'trained on {count} classes (a, b, c, d{dots})' in \
            str(error.value)


@pytest.mark.parametrize('tensors, words', [
    (dict(weight=torch.ones(3, 2), bias=torch.ones(2)),
     r'1 tensors differ: weight: \(3, 2\) in the file, \(2, 3\) in the mo'),
    (dict(bias=torch.ones(2), more=torch.ones(1)),
     '2 tensors differ: weight: not in the file; more: not in the model. An'),
    (dict({f'x{i}': torch.ones(1) for i in range(4)}, **TENSORS),
     '4 tensors differ: x0: not in the model; x1: .*; x2: not in the model. '),
    (dict(TENSORS, bias=torch.tensor([0, float('nan')])), 'bias holds NaN'),
    (dict(TENSORS, bias=torch.tensor([1, 2])), 'torch.int64 instead of torc'),
    (dict(TENSORS, bias=torch.ones(2, dtype=torch.complex64)), 'complex64'),
    (dict(TENSORS, bias=torch.ones(2).to_sparse()), 'bias holds NaN or inf'),
    (dict(TENSORS, bias=torch.ones(2, device='meta')), 'bias holds NaN or'),
    (dict(TENSORS, bias=torch.tensor([1, float('nan')]).to(
        torch.float8_e5m2)), 'bias holds NaN or infinite'),
    (dict(TENSORS, bias=3), 'holds no weights'),
    ({3: torch.ones(2)}, 'holds no weights'),
    ([1], 'holds no weights'),
])
def test_what_is_not_of_this_model_is_refused(tensors, words):
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=f'a.pth .*{words}'):
        load_model_weights(model, 'a.pth', data=tensors)
    assert torch.equal(model.weight, before)


def test_other_kinds_of_floating_point_fit():
    for dtype in (torch.float64, torch.bfloat16, torch.float8_e5m2):
        model = nn.Linear(3, 2)
        load_model_weights(model, 'a.pth', data={
            k: v.to(dtype) for k, v in TENSORS.items()})
        assert torch.equal(model.weight, TENSORS['weight'])


def test_a_counter_of_batches_may_be_absent():
    model = nn.BatchNorm1d(2)
    tensors = {k: v + 1 for k, v in model.state_dict().items()}
    counter = tensors.pop('num_batches_tracked')
    load_model_weights(model, 'a.pth', data=tensors)
    assert model.weight.eq(2).all() and model.num_batches_tracked == 0
    load_model_weights(
        model, 'a.pth', data=dict(tensors, num_batches_tracked=counter))
    assert model.num_batches_tracked == 1


# ------------------------------------------------------- which to go on from
WHOLE = dict(optimizer={}, meta={})


@pytest.mark.parametrize('content, note, expected, warned', [
    # name: (age, what is in it)
    ({}, None, None, ''),
    (dict(a=WHOLE, b=WHOLE), None, 'b', ''),
    (dict(b=WHOLE, a=WHOLE), None, 'a', ''),
    (dict(a=WHOLE, b=WHOLE), 'a', 'a', ''),
    (dict(a=WHOLE, b=WHOLE), 'b', 'b', ''),
    (dict(a=WHOLE, b=WHOLE), 'gone', 'b', 'gone.pth'),
    (dict(a=WHOLE, b=WHOLE), '', 'b', 'last_checkpoint does not name it'),
    (dict(a=WHOLE, b=None), None, 'a', 'b.pth cannot be read'),
    (dict(a=WHOLE, b=None), 'b', 'a', 'b.pth cannot be read'),
    (dict(a=WHOLE, best=dict(state_dict=TENSORS)), None, 'a', ''),
    (dict(a=WHOLE, best=dict(WHOLE, meta=None)), None, 'a', ''),
    (dict(a=WHOLE, best=[1]), None, 'a', ''),
    (dict(best=dict(state_dict=TENSORS)), None, None, ''),
])
def test_the_checkpoint_to_go_on_from(content, note, expected, warned,
                                      tmp_path, caplog):
    """The later of two is the newer one; None is a damaged one."""
    for age, (name, data) in enumerate(content.items()):
        path = tmp_path / f'{name}.pth'
        torch.save(data, path)
        if data is None:
            path.write_bytes(path.read_bytes()[:-100])
        os.utime(path, (10**9 + age, 10**9 + age))
    if note is not None:
        (tmp_path / 'last_checkpoint').write_text(
            f'{tmp_path}/{note}.pth' if note else '\0\n')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        found = newest_checkpoint(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert found == (expected and tmp_path / f'{expected}.pth')
    assert ('instead of the last checkpoint' in caplog.text) == bool(warned)
    assert warned in caplog.text


# ------------------------------------------------------------ finding
def test_a_short_name_is_fetched_once_and_then_read_offline(
        cache, mirror, monkeypatch):
    file = 'fasternet_t0-epoch.281-val_acc1.71.9180.pth'
    torch.save(TENSORS, mirror / file)
    path = checkpoint_path('fasternet://t0')
    assert path == cache / file
    assert path.read_bytes() == (mirror / file).read_bytes()
    monkeypatch.delenv('MMFASTERNET_MIRROR')
    assert checkpoint_path('fasternet://t0') == path
    # ... and by MMEngine itself
    secure_mmengine()
    model = nn.Linear(3, 2)
    load_checkpoint(model, 'fasternet://t0')
    assert torch.equal(model.bias, TENSORS['bias'])


def test_the_releases_carry_the_published_accuracies():
    """Names of the authors' files and their accuracies, in percent."""
    published = dict(
        t0=71.918, t1=76.218, t2=78.886, s=81.284, m=82.962, l=83.506)
    assert {
        arch: float(release['file'].split('acc1.')[1][:-len('.pth')])
        for arch, release in RELEASES.items()
    } == published


def test_a_release_with_another_hash_is_refused_and_not_kept(cache, mirror):
    torch.save(TENSORS, mirror / RELEASES['t1']['file'])
    with pytest.raises(CheckpointError, match='SHA-256.*expected 5d85fb08'):
        checkpoint_path('fasternet://t1')
    assert not list(cache.iterdir())


def test_a_damaged_file_in_the_cache_is_refused(cache, mirror):
    cache.mkdir(parents=True)
    (cache / RELEASES['t2']['file']).write_bytes(b'PK half of it')
    with pytest.raises(CheckpointError, match='expected 8424cb88'):
        checkpoint_path('fasternet://t2')


def test_a_given_digest_is_checked(cache, mirror, tmp_path):
    save_checkpoint(TENSORS, mirror / RELEASES['s']['file'])
    whole = hashlib.sha256(
        (mirror / RELEASES['s']['file']).read_bytes()).hexdigest()
    assert checkpoint_path('fasternet://s', sha256=whole[:10]).is_file()
    with pytest.raises(CheckpointError, match=f'SHA-256 {whole}'):
        checkpoint_path('fasternet://s', sha256='0' * 64)
    with pytest.raises(CheckpointError, match='expected ffff'):
        checkpoint_path(
            str(mirror / RELEASES['s']['file']), sha256='ffff')


@pytest.mark.parametrize('name, words', [
    ('fasternet://t3', "no ImageNet release 'fasternet://t3'.*fasternet://l"),
    ('http://host/x.pth', 'over https only'),
    ('fasternet://m', 'cannot download https://github.com.*put the file at '
     '.*val_acc1.82.9620.pth.*HTTPS_PROXY.*MMFASTERNET_MIRROR.*scratch'),
    ('https://host/x.pth', 'cannot download https://host/x.pth'),
])
def test_what_cannot_be_had_says_what_to_do(name, words, cache):
    with pytest.raises(CheckpointError, match=words):
        checkpoint_path(name)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match='no/such.pth'):
        checkpoint_path('no/such.pth')


def test_a_digest_in_the_name_of_a_url_is_checked(cache):
    """As OpenMMLab and PyTorch write it, and behind the name what may be."""
    cache.mkdir(parents=True)
    digits = hashlib.sha256(b'PK').hexdigest()
    for name, right in ((f'a-{digits[:8]}.pth', True),
                        (f'a-{digits}.pth', True), ('a-0123abcd.pth', False),
                        ('a-0123abc.pth', True)):  # too short for one
        for end in ('', '?b=c-0123abcd.pth', '#d'):
            url = f'https://host/folder/{name}{end}'
            key = hashlib.sha256(url.encode()).hexdigest()[:8]
            (cache / f'{key}-{name}').write_bytes(b'PK')
            if right:
                assert checkpoint_path(url) == cache / f'{key}-{name}'
            else:
                with pytest.raises(CheckpointError, match='expected 0123abc'):
                    checkpoint_path(url)
    # the given one counts more, in any case of its letters
    url = 'https://host/a-0123abcd.pth'
    key = hashlib.sha256(url.encode()).hexdigest()[:8]
    (cache / f'{key}-a-0123abcd.pth').write_bytes(b'PK')
    assert checkpoint_path(url, sha256=digits[:9].upper()).is_file()


def test_a_download_has_half_a_minute_and_leaves_the_rest_alone(
        cache, mirror, monkeypatch):
    torch.save(TENSORS, mirror / RELEASES['s']['file'])
    monkeypatch.setenv('MMFASTERNET_MIRROR', f'file://{mirror}///')
    seen, fetch = [], download.download_url_to_file

    def note(url, *args, **kwargs):
        seen.append((url, socket.getdefaulttimeout()))
        return fetch(url, *args, **kwargs)

    monkeypatch.setattr(download, 'download_url_to_file', note)
    before = socket.getdefaulttimeout()
    checkpoint_path('fasternet://s')
    assert seen == [(f'file://{mirror}/{RELEASES["s"]["file"]}', 30)]
    assert socket.getdefaulttimeout() == before
    assert [path.name for path in cache.iterdir()] == [RELEASES['s']['file']]


def test_one_process_of_a_machine_fetches(cache, mirror, monkeypatch):
    """The others wait, and fetch what has not come to their machine."""
    release = mirror / RELEASES['s']['file']
    torch.save(TENSORS, release)
    there = []
    monkeypatch.setattr(download, 'barrier', lambda: there.append(
        (cache / release.name).exists()))
    monkeypatch.setenv('LOCAL_RANK', '1')
    checkpoint_path('fasternet://s')
    assert there == [False] and (cache / release.name).exists()
    (cache / release.name).unlink()
    monkeypatch.setenv('LOCAL_RANK', '0')
    checkpoint_path('fasternet://s')
    assert there == [False, True]


def test_files_of_one_name_from_two_urls_do_not_mix(cache):
    """Every model of timm is called model.safetensors."""
    cache.mkdir(parents=True)
    found = {}
    for name in ('t0', 't1'):
        url = f'https://host/{name}/model.safetensors'
        with pytest.raises(CheckpointError) as error:
            checkpoint_path(url)
        path = str(error.value).split('put the file at ')[1].split(';')[0]
        # the name is what the file is put under, also by those to come
        digits = hashlib.sha256(url.encode()).hexdigest()[:8]
        assert path.endswith(f'/{digits}-model.safetensors')
        found[path] = url
    assert len(found) == 2


# ------------------------------------------------------------ writing
def test_mmengine_replaces_a_file_at_once(tmp_path, monkeypatch):
    """The disk is full when the new content is there, but not yet safe."""
    from mmengine.runner import save_checkpoint as save
    secure_mmengine()
    path = tmp_path / 'a.pth'
    save(dict(x=1), str(path))

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        save(dict(x=2), str(path))
    assert read_checkpoint(path) == dict(x=1)
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']


def test_all_is_on_the_disk_before_the_name_is_there(tmp_path, monkeypatch):
    """A power cut afterwards leaves the new content, and one before it none
    of it."""
    path, seen = tmp_path / 'new/folder/a.txt', []
    monkeypatch.setattr(os, 'fsync', lambda descriptor: seen.append(
        (os.fstat(descriptor).st_size, path.exists())))
    with whole_file(path) as file:
        file.write(b'new')
    assert seen[0] == (3, False)
    assert [there for _, there in seen[1:]] == [True] * hasattr(
        os, 'O_DIRECTORY')  # the folder


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_failed_write_leaves_the_old_file(suffix, tmp_path):
    path = tmp_path / f'folder/a.{suffix}'
    save_checkpoint(TENSORS, path)
    before = path.read_bytes()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_checkpoint(dict(TENSORS, x=lambda: 0), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [f'a.{suffix}']


@pytest.mark.parametrize('meta, names', [
    (dict(dataset_meta=dict(classes=['a', 'b'])), ('a', 'b')),
    (dict(dataset_meta=dict(CLASSES=('a', 'b'))), ('a', 'b')),
    (dict(CLASSES=('a', 'b')), ('a', 'b')),  # of mmcv
    (dict(CLASSES='cat'), ('cat', )),  # of one class, without its comma
    (dict(dataset_meta=['a']), ()), (dict(dataset_meta=None), ()),
    (dict(CLASSES=[1, 2]), ()), ('1.0', ()), (None, ()), ({}, ())])
def test_class_names_that_are_noted(meta, names, tmp_path):
    data = dict(state_dict=TENSORS, meta=meta)
    assert noted_classes(data) == names
    path = aged(data, tmp_path / 'a.pth')
    if names in ((), ('a', 'b')):
        require_fit(nn.Linear(3, 2), path, ('a', 'b'))
    if names:
        with pytest.raises(CheckpointError, match=f'trained on {len(names)} '):
            require_fit(nn.Linear(3, 2), path, ('b', 'a'))


def test_what_is_no_dict_notes_nothing():
    for data in ([1], torch.ones(1), 3, None):
        assert noted_classes(data) == () and noted_meta(data) == {}
