# SPDX-License-Identifier: Apache-2.0
"""What tests/mutation.py makes of a line, and that its lists are true."""
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from coverage_map import select_tests
from mutants import EQUIVALENT, ROOT, mutants_of
from mutation import ROOMS


@pytest.mark.parametrize('line, changed', [
    ('a < b', ['(a <= b)', '(a >= b)']),
    ('a == b in c', ['(a != b in c)', '(a == b not in c)']),
    ('a and b', ['(a or b)']),
    ('not a', ['(a)']),
    ('a + b * c', ['(a - b * c)', 'a + (b / c)']),
    ('"a" + b', []),
    ('f"{a + 1}"', []),
    ('x = 2', ['x = (3)', 'x = (1)']),
    ('x = True', ['x = (False)']),
    ('a.b = c', ['pass']),
    ('f(a, b)', ['pass', '(f(b, a))']),
    ('x = f(a, b=c)', ['x = (f(a))']),
    ('x = isinstance(a, b)', []),
    ('x = f(a, a)', []),
    ('x = a.transpose(b, c)', []),
    ('x = max(a, b)', ['x = (a)']),
    ('x = a.abs()', ['x = (a)']),
    ('a[b:c]', ['a[b + 1:c]', 'a[b:c + 1]']),
    ('raise ValueError(a + b)', []),
    ('x: Tuple[int, 2] = a', []),
    ('é = a; b = c + d', ['é = a; b = (c - d)']),
])
def test_a_line_is_changed_in_these_ways(line, changed, monkeypatch,
                                         tmp_path):
    monkeypatch.setattr('mutants.ROOT', tmp_path)
    path = tmp_path / 'a.py'
    path.write_text(f'pass\n{line}\n')
    found = [mutant.describe() for mutant in mutants_of(path)]
    assert found == [('a.py:2', line, text) for text in changed]


def test_a_function_may_return_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr('mutants.ROOT', tmp_path)
    path = tmp_path / 'a.py'
    path.write_text('def f(x: int = 1):\n    """1 + 1"""\n    return x\n')
    assert [mutant.describe()[::2] for mutant in mutants_of(path)] == [
        ('a.py:1', 'def f(x: int = (2)):'), ('a.py:1', 'def f(x: int = (0)):'),
        ('a.py:3', 'return None')]


@pytest.mark.parametrize('line, chosen', [
    (2, ['a.py::fast', 'b.py::slow', 'c.py::starts_a_process']),
    # of what no test runs, as a default: all of the file
    (3, ['a.py::other', 'a.py::fast', 'b.py::slow', 'c.py::starts_a_process'])
])
def test_a_mutant_is_tried_on_the_tests_that_run_it(line, chosen, monkeypatch,
                                                    tmp_path):
    monkeypatch.setattr('mutants.ROOT', tmp_path)
    (tmp_path / 'mmfasternet').mkdir()
    path = tmp_path / 'mmfasternet/a.py'
    path.write_text('pass\nx = True\ny = True\n')
    mutants = {m.lines(): m for m in mutants_of(path)}
    assert set(mutants) == {(2, 2), (3, 3)}
    known = {
        name: dict(seconds=seconds, lines=lines) for name, seconds, lines in (
            ('b.py::slow', 5, {'a.py': [2]}),
            ('a.py::fast', 1, {'a.py': [1, 2]}),
            ('c.py::starts_a_process', .1, {'': [0]}),
            ('a.py::other', .2, {'a.py': [1]}),
            ('d.py::of_another_file', .1, {'b.py': [2, 3]}))}
    assert select_tests(mutants[line, line], known) == chosen


def test_what_is_stopped_leaves_nothing_behind(tmp_path):
    """A test writes into a pipe, and waits."""
    tree = tmp_path / 'tree'
    tree.mkdir()
    folders = tmp_path / 'tmp'
    folders.mkdir()
    reader, writer = os.pipe()
    (tree / 'test_it.py').write_text(
        'import os, signal\n\ndef test():\n'
        f'    os.write({writer}, b"begun")\n    signal.pause()\n')
    code = ('import sys; sys.path.insert(0, "tests"); import mutation\n'
            f'mutation.ROOT = mutation.Path({str(tree)!r})\n'
            'mutation.ROOMS["ops"] = "", "../test_it.py"\n'
            'mutation.preload = lambda: None\n'
            'sys.argv[1:] = "--room", "ops"\nmutation.main()')
    process = subprocess.Popen([sys.executable, '-c', code],
                               env=dict(os.environ, TMPDIR=str(folders)),
                               pass_fds=[writer])
    os.close(writer)
    assert os.read(reader, 20) == b'begun'
    assert len([*folders.iterdir()]) == 1
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not [*folders.iterdir()]
    # the pipe's end is that of the last process that could write into it
    assert select.select([reader], [], [], 30)[0], 'the test still runs'
    assert os.read(reader, 20) == b''
    os.close(reader)


@pytest.mark.parametrize('room', ROOMS)
def test_the_files_of_a_room_are_there(room):
    sources, tests = ROOMS[room]
    assert all((ROOT / 'mmfasternet' / name).exists()
               for name in sources.split())
    assert all((Path('tests') / name).exists() for name in tests.split())


def test_what_is_equivalent_is_a_mutant():
    lines = {}
    for path, changed, _ in EQUIVALENT:
        lines.setdefault(path, set()).update(changed)
    for path, left in lines.items():
        file, = (ROOT / 'mmfasternet').rglob(path)
        for mutant in mutants_of(file):
            left.discard(mutant.describe()[2])
            if not left:
                break
    assert not any(lines.values()), lines
