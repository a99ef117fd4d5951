# SPDX-License-Identifier: GPL-3.0-only
"""What can be typed wrong: every argument of the other tools.

tests/test_deploy/test_export_arguments.py has the demos and tools/deploy,
test_train_test_arguments.py has tools/train.py and tools/test.py. Nothing is
measured; benchmark_from_file.py, which reads exported files, is in
tests/test_deploy/test_export_arguments.py.
"""
import argparse
import contextlib
import importlib.util
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from trees import voc_xml

sys.path.insert(0, str(Path(__file__).parents[1]))
import ultralytics_reference as reference  # noqa: E402

ROOT = Path.cwd()
TOOLS = sorted(
    str(path) for folder in ('tools/analysis_tools', 'tools/misc',
                             'tools/model_converters',
                             'tools/dataset_converters')
    for path in Path(folder).glob('*.py')
    if path.name != 'benchmark_from_file.py') + ['tools/prepare.py']
TOOLS.remove('tools/misc/torchrun.py')  # its arguments are torchrun's
# neither a whole number nor one that is not huge
NO_NUMBERS = ('', 'x', '0.5.1', 'nan', 'inf', '-inf', '1e400', '\u00b2')
HUGE = ('-' + 30 * '9', 30 * '9')
OPTIONS = ('', 'x', 'x=', '=1', 'a=[', 'nonsense=1', 'model=1',
           'model.type=Nothing', 'model.backbone.arch=t9',
           'model.backbone.nonsense=1', 'model.backbone=none',
           'img_scale=0', 'img_scale=[-1,0]', 'img_scale=x', 'classes=[]',
           'data_root=none/', 'train_ann_file=none.json',
           'train_dataloader=1', 'model.bbox_head.head_module=5')
OUT = ('out', 'out_dir', 'out_file', 'dst', 'work_dir')
NAMES = ('prefix', 'classes', 'target_layers', 'backbones', 'ap')
SIZES = ('shape', 'batch_sizes', 'batch_size', 'img_scale', 'threads',
         'workers', 'number', 'seed', 'seeds', 'epochs')

def load(tool):
    spec = importlib.util.spec_from_file_location('tool', ROOT / tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parser_of(module):
    found = []

    def keep(parser, *args):
        found.append(parser)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, \
            contextlib.suppress(SystemExit):
        patch.setattr(argparse.ArgumentParser, 'parse_args', keep)
        module.parse_args()
    return found[0]


@pytest.fixture(scope='session')
def good(small, coco, tmp_path_factory):
    """What each tool takes, by argument: enough to run it."""
    folder = tmp_path_factory.mktemp('good')
    (folder / 'detections.json').write_text('[]')
    ann = str(coco / 'annotations/val.json')
    image = small.images[0]
    voc = folder / 'voc'
    for name in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (voc / name).mkdir(parents=True)
    for i, split in enumerate(('train', 'val')):
        (voc / f'ImageSets/Main/{split}.txt').write_text(split)
        (voc / f'Annotations/{split}.xml').write_text(
            voc_xml(f'{split}.jpg', 64, 48, [('dog', 0, 0, 8, 8)]))
        cv2.imwrite(str(voc / f'JPEGImages/{split}.jpg'),
                    np.full((48, 64, 3), 90 * i, np.uint8))
    recipe = folder / 'yolov8n-fasternet.yaml'
    recipe.write_text(reference.RECIPE)
    listed = folder / 'list.csv'
    listed.write_text('voc2007_id,split\ntrain,train\nval,val\n')
    config = dict(config=[small.config])
    return {
        'benchmark': dict(networks=config['config'], threads=['1']),
        'benchmark_training': dict(config, baseline=config['config']),
        'browse_dataset': config,
        'compare': dict(detectors=[f'A={folder}/detections.json'],
                        ann_file=[ann], samples=['2']),
        'get_flops': dict(config, shape=['64']),
        'layer_stats': dict(config, checkpoint=[small.checkpoint]),
        'vis_network': dict(config, img=[image], view=['levels'],
                            checkpoint=[small.checkpoint]),
        'check_dataset': dict(config, workers=['0']),
        'verify_weights': dict(file=[small.checkpoint]),
        'convert_backbone': dict(src=[small.checkpoint], dst=['out.pth']),
        'convert_detector': dict(config, src=[small.checkpoint],
                                 dst=['out.pth']),
        'publish_model': dict(
            in_file=[small.checkpoint], out_file=['out.pth']),
        'import_recipe': dict(recipe=[str(recipe)], config=['out.py']),
        'voc2007_photographs': dict(
            voc_dir=[str(voc)], out_dir=['out'], list=[str(listed)]),
        'voc2coco': dict(voc_dir=[str(voc)], out_dir=['out']),
        'prepare': dict(data=[str(voc)], config=['out.py'], out_dir=['out'])
    }


def command(parser, given):
    """The words of a command line."""
    words, options = [], []
    for action in parser._actions:
        values = given.get(action.dest)
        if values is None:
            continue
        if not action.option_strings:
            words += values
        elif len(values) == 1:
            options.append(f'{action.option_strings[0]}={values[0]}')
        else:
            options += [action.option_strings[0], *values]
    return [*options, '--', *words] if words else options


def wrong_files(folder, suffix):
    """Not there, a folder, empty, garbage, a text, another kind."""
    text = {'.json': '[1, {}]', '.py': 'x = 1', '.yaml': 'a: [1]'}
    for name, content in dict(
            empty=b'', garbage=bytes(range(256)), text=text.get(
                suffix, 'no').encode(), truncated=b'{"images": [').items():
        path = folder / f'{name}{suffix}'
        path.write_bytes(content)
        yield str(path)
    yield from ('', f'none{suffix}', str(folder / 'folder'),
                f'http://127.0.0.1:9/x{suffix}', 'x' * 300)


def wrong_values(action, given, folder):
    """Each with whether it may be right after all."""
    count = action.nargs if isinstance(action.nargs, int) else 1
    name = action.dest
    if action.choices:
        for value in ('', 'none', '-1'):
            yield [value], False
    elif name == 'cfg_options':
        for value in OPTIONS:
            yield [value], True
    elif name in OUT or (name == 'config' and given['config'] == ['out.py']):
        for value in ('', str(folder / 'empty'), str(folder / 'empty/x.py'),
                      '/proc/none/out.py', 'x' * 300):
            yield [value], value == '' or 'empty' in value
        for source in given.get('src', []):  # it would be written over
            yield [source], False
    elif action.type not in (None, Path):
        for value in NO_NUMBERS + HUGE:
            yield count * [value], action.type is int
        for value in ('0', '-1') + (name in SIZES) * ('100000', '999999999'):
            yield count * [value], True
    else:
        first = given.get(name, [''])[0]
        for value in wrong_files(folder, Path(first).suffix):
            yield count * [value], name in NAMES


def fault(main, may_do, capfd):
    """What is wrong with how a command ends; None if it is right."""
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        return f'{error!r} in {last.filename}:{last.lineno}'
    else:
        code = 0
    said = ''.join(capfd.readouterr())
    if code == 0:
        return None if may_do else 'it was done'
    if code == 1:  # the exit status of what was looked at, not a mistake
        return None if may_do else said
    text = said if code == 2 else f'{code}'
    right = ': error: ' in text if code == 2 else re.match(
        r'error: .{12}', text)
    return None if right and 'Traceback' not in said + text else text


def not_measured(*args, **kwargs):
    sys.exit('error: not measured in this test')


@pytest.mark.parametrize('tool', TOOLS)
def test_a_mistake_is_one_message(tool, good, tmp_path, monkeypatch, capfd):
    """Each argument in turn is wrong, all others are right."""
    module = load(tool)
    parser = parser_of(module)
    right = good[Path(tool).stem]
    for name in ('measure', 'interleave'):  # that takes minutes
        if hasattr(module, name):
            monkeypatch.setattr(module, name, not_measured)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty').touch()
    monkeypatch.chdir(tmp_path)
    faults = []
    for action in parser._actions:
        if action.nargs == 0:
            continue
        for values, may_do in wrong_values(action, right, tmp_path):
            Path('out.py').unlink(missing_ok=True)
            words = command(parser, dict(right, **{action.dest: values}))
            monkeypatch.setattr(sys, 'argv', [tool, *words])
            what = fault(module.main, may_do, capfd)
            if what:
                faults.append(f'{action.dest} {values}: {what}')
    assert not faults, '\n'.join(faults)


@pytest.mark.parametrize('option, name', [
    ('--nproc_per_node=', 'GPUS'), ('--nproc_per_node=x', 'GPUS'),
    ('--nproc_per_node=0', 'GPUS'), ('--nproc_per_node=-1', 'GPUS'),
    ('--nnodes=x', 'NNODES'), ('--nnodes=0', 'NNODES'),
    ('--rdzv_id=x', 'PORT'), ('--rdzv_id=99999', 'PORT')
])
def test_numbers_of_dist_train(option, name, monkeypatch):
    """As tools/dist_*.sh hand them on to torchrun."""
    monkeypatch.setenv('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    monkeypatch.setattr(sys, 'argv', ['torchrun.py', option])
    with pytest.raises(SystemExit, match=f'error: {name} must be a whole num'):
        runpy.run_path(str(ROOT / 'tools/misc/torchrun.py'),
                       run_name='__main__')


@pytest.fixture
def torchrun(monkeypatch):
    """Run the launcher; what it asks PyTorch's for, in an environment."""

    def run(main=None, **environment):
        given = []
        monkeypatch.setattr('torch.distributed.run.main', main or given.append)
        for name in ('GLOO_SOCKET_IFNAME', 'MASTER_ADDR'):
            monkeypatch.setenv(name, '')  # is undone, also where it is not set
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
        monkeypatch.setattr(sys, 'argv', ['torchrun.py', '--nnodes=2'])
        runpy.run_path(str(ROOT / 'tools/misc/torchrun.py'),
                       run_name='__main__')
        return given[0]

    return run


def test_where_the_machines_of_a_run_meet(torchrun):
    assert torchrun(NNODES='1') == ['--nnodes=2']
    assert torchrun(NNODES='2', GLOO_SOCKET_IFNAME='lo') == [
        '--local_addr', '127.0.0.1', '--nnodes=2']
    # torchrun says what is wrong with it
    assert torchrun(NNODES='2', GLOO_SOCKET_IFNAME='none') == ['--nnodes=2']
    option, address, _ = torchrun(NNODES='2', MASTER_ADDR='127.0.0.1')
    assert option == '--local_addr'
    # gloo's interface is the one with that address
    name = os.environ['GLOO_SOCKET_IFNAME']
    assert name in [name for _, name in socket.if_nameindex()]
    assert (name == 'lo') == address.startswith('127.')
    with socket.socket() as s:  # it is one of this machine
        s.bind((address, 0))


def test_the_signal_that_ended_the_processes_is_told(torchrun):
    def main(options):
        raise SignalException('', signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        torchrun(main, NNODES='1')
    assert end.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize('script', ['train', 'test'])
@pytest.mark.parametrize('gpus, per_node, nodes', [
    ('16', '8', 2), ('4', '8', 1), ('6', '3', 2), ('12', '8', None),
    ('many', '8', None)])
def test_machines_of_a_slurm_job(script, gpus, per_node, nodes, tmp_path):
    """As many processes as GPUS says, or none."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    done = subprocess.run(
        ['bash', f'tools/slurm_{script}.sh', 'part', 'job', 'a', 'b'],
        capture_output=True, text=True, cwd=ROOT,
        env=dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}',
                 GPUS=gpus, GPUS_PER_NODE=per_node))
    if nodes is None:
        assert done.returncode == 1 and not done.stdout
        assert f'error: GPUS={gpus} must be a multiple of' in done.stderr
        return
    words = done.stdout.split()
    assert f'--nodes={nodes}' in words
    each = words[words.index('b') + 1] if script == 'test' else \
        words[words.index('a') + 1]
    assert int(each) * nodes == int(gpus)


def test_an_accuracy_of_no_network_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', 'a.py', 'b.py@openvino', '--ap', 'b.py=.4', 'A.py=.5'])
    with pytest.raises(SystemExit):
        load('tools/analysis_tools/benchmark.py').parse_args()
    assert '--ap A.py: no NETWORK is called so, there are a.py, b.py' in \
        capsys.readouterr().err
