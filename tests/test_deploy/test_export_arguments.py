# SPDX-License-Identifier: GPL-3.0-only
"""What can be typed wrong: every argument of the demos and deploy tools."""
import argparse
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

from mmfasternet.deploy.engines import MOST_THREADS

TOOLS = sorted(str(path) for folder in ('demo', 'tools/deploy')
               for path in Path(folder).glob('*.py'))
# neither a whole number above 0 nor a share of 1
WRONG = ('', 'x', '-1', '0.5.1', 'nan', 'inf', '1e400', '\u00b2')


def load(tool, monkeypatch):
    monkeypatch.syspath_prepend('demo')  # as for a script of that folder
    spec = importlib.util.spec_from_file_location('tool', tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parser_of(module, monkeypatch):
    found = []

    def keep(parser, *args):
        found.append(parser)
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(argparse.ArgumentParser, 'parse_args', keep)
        module.parse_args()
    return found[0]


@pytest.mark.parametrize('tool', TOOLS)
def test_numbers_and_choices_that_are_none(tool, monkeypatch, capsys):
    module = load(tool, monkeypatch)
    parser = parser_of(module, monkeypatch)
    positional = ['x' for action in parser._actions
                  if not action.option_strings]
    for action in parser._actions:
        if not action.option_strings or not (action.type or action.choices):
            continue
        number = action.nargs if isinstance(action.nargs, int) else 1
        for value in WRONG:
            option = f'{action.option_strings[0]}={value}'
            given = [option] if number == 1 else [
                action.option_strings[0], *number * [value or '-']]
            monkeypatch.setattr(sys, 'argv', [tool, *positional, *given])
            with pytest.raises(SystemExit) as stop:
                module.parse_args()
            said = capsys.readouterr().err
            assert stop.value.code == 2, given
            assert f'argument {"/".join(action.option_strings)}' in said


@pytest.mark.parametrize('tool', TOOLS)
def test_files_that_are_none(tool, small, tmp_path, monkeypatch, capsys):
    """Each positional argument and path in turn: not there, a folder, empty,
    an image, a text; one line says which."""
    module = load(tool, monkeypatch)
    parser = parser_of(module, monkeypatch)
    empty = tmp_path / 'empty.py'
    empty.touch()
    good = dict(img=small.images[0], video=small.images[0],
                config=small.config, checkpoint=small.checkpoint,
                model=small.checkpoint, out=str(tmp_path / 'out.onnx'))
    names = [action.dest for action in parser._actions
             if not action.option_strings]
    for name in names:
        if name == 'out':
            continue
        for wrong in ('none.py', str(tmp_path), str(empty), small.images[0],
                      'README.md', 'http://127.0.0.1:9/x.pth'):
            if name in ('img', 'video') and wrong in (small.images[0],
                                                      str(tmp_path)):
                continue
            given = dict(good, **{name: wrong})
            monkeypatch.setattr(
                sys, 'argv', [tool, *(given[n] for n in names)])
            with pytest.raises(SystemExit) as stop:
                module.main()
            said = str(stop.value)
            assert said.startswith('error: ') and len(said) > 20, (name, wrong)
            assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize('tool, words', [
    ('tools/deploy/export.py', 'CONFIG CHECKPOINT CHECKPOINT'),
    ('tools/deploy/export.py', 'CONFIG CHECKPOINT CONFIG'),
    ('tools/deploy/export.py', 'CONFIG CHECKPOINT a.onnx a.onnx'),
    ('tools/deploy/quantize.py', 'CONFIG MODEL MODEL'),
])
def test_nothing_that_is_read_is_written_over(tool, words, small, exported,
                                              tmp_path, monkeypatch):
    names = dict(CONFIG=small.config, CHECKPOINT=small.checkpoint,
                 MODEL=exported['any.onnx'])
    words = [str(names.get(w, tmp_path / w)) for w in words.split()]
    module = load(tool, monkeypatch)
    monkeypatch.setattr(sys, 'argv', [tool, *words])
    before = {path: Path(path).read_bytes() for path in words
              if Path(path).exists()}
    with pytest.raises(SystemExit, match=f'{words[-1]} would be written over'):
        module.main()
    assert before == {path: Path(path).read_bytes() for path in before}


@pytest.mark.parametrize('change, words', [
    (dict(images='README.md'), 'README.md cannot be read as an image'),
    (dict(images='none.jpg'), 'no such file or folder: none.jpg'),
    (dict(images='configs'), 'no image in the folder configs'),
    (dict(model='README.md'), 'README.md is not an exported file'),
    (dict(model='none.onnx'), 'none.onnx'),
])
def test_what_cannot_be_timed_is_one_error(change, words, small, exported,
                                           monkeypatch):
    tool = 'tools/analysis_tools/benchmark_from_file.py'
    given = dict(dict(model=exported['any.onnx'], images=small.images[0]),
                 **change)
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, given.values())])
    with pytest.raises(SystemExit, match=f'error: .*{words}'):
        load(tool, monkeypatch).main()


def test_two_files_are_timed_beside_each_other(small, exported, monkeypatch,
                                               capsys):
    tool, paths = 'tools/analysis_tools/benchmark_from_file.py', [
        exported[name] for name in ('any.onnx', 'any.xml')]
    monkeypatch.setattr(sys, 'argv', [
        tool, paths[0], small.images[0], '--baseline', paths[1], '--runs',
        '3'])
    load(tool, monkeypatch).main()
    said = capsys.readouterr().out
    assert f'{paths[0]}: 64x64, 1 thread(s), median of 3 images, ms' in said
    assert re.search(re.escape(paths[1]) + r': [\d.]+ ms, [\d.]+ times', said)


def test_more_threads_than_an_engine_survives(exported):
    from mmfasternet.deploy import load_backend
    for name in ('any.onnx', 'any.xml'):
        for threads in (0, -1, MOST_THREADS + 1, 10**12):
            with pytest.raises(ValueError, match='threads must be 1 to'):
                load_backend(exported[name], threads=threads)


@pytest.fixture
def damaged(small, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i, name in enumerate(('a.png', 'c.png')):
        shutil.copy(small.images[i], folder / name)
    (folder / 'b.png').write_bytes(b'no image')
    return folder


@pytest.mark.parametrize('tool, words', [
    ('tools/deploy/export.py', 'CONFIG CHECKPOINT x.onnx --images IMAGES'),
    ('tools/deploy/quantize.py', 'CONFIG MODEL x.onnx --images IMAGES '
     '--no-test --runs 1'),
    ('tools/analysis_tools/benchmark_from_file.py', 'MODEL IMAGES --runs 3'),
])
def test_a_damaged_image_stops_no_other(tool, words, small, exported, damaged,
                                        tmp_path, monkeypatch, capsys):
    names = {'CONFIG': small.config, 'CHECKPOINT': small.checkpoint,
             'MODEL': exported['any.onnx'], 'IMAGES': str(damaged),
             'x.onnx': str(tmp_path / 'x.onnx')}
    monkeypatch.setattr(sys, 'argv', [
        tool, *(names.get(word, word) for word in words.split())])
    with pytest.raises(SystemExit, match='error: 1 of 3 images were skipped'):
        load(tool, monkeypatch).main()
    out, err = capsys.readouterr()
    assert f'skipped: {damaged}/b.png cannot be read' in err
    assert 'compared with PyTorch' in out or ' ms' in out
    assert (tmp_path / 'x.onnx').is_file() == ('x.onnx' in words)


def test_a_version_is_asked_of_onnx_alone(small, tmp_path, monkeypatch):
    tool = 'tools/deploy/export.py'
    monkeypatch.setattr(sys, 'argv', [
        tool, small.config, small.checkpoint, str(tmp_path / 'x.ncnn.param'),
        '--opset', '13'])
    with pytest.raises(SystemExit, match='error: --opset is of .onnx files'):
        load(tool, monkeypatch).main()
