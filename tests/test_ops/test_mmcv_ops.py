# SPDX-License-Identifier: Apache-2.0
"""mmcv without operators gets ours, one with operators keeps its own."""
import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmfasternet import ops
from mmfasternet.ops import extension

MMCV = Path(find_spec('mmcv').origin).parent


@pytest.fixture
def mmcv_with(tmp_path):
    """Run code where mmcv, the real one, has this as its operators."""

    def run(extension, code):
        folder = tmp_path / 'mmcv'
        folder.mkdir()
        for path in MMCV.iterdir():
            if not path.name.startswith(('_ext', '__pycache__')):
                (folder / path.name).symlink_to(path)
        if extension is not None:
            (folder / '_ext.py').write_text(extension)
        path = os.pathsep.join([str(tmp_path), *sys.path])
        return subprocess.run([sys.executable, '-c', code],
                              capture_output=True,
                              text=True,
                              env={**os.environ, 'PYTHONPATH': path})

    return run


def test_without_operators_it_takes_ours(mmcv_with):
    done = mmcv_with(
        None, '''
import mmfasternet
import torch
from mmcv.ops import get_compiler_version, nms
boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
print(nms(boxes, torch.tensor([.5, .6, .1]), .5)[1].tolist())
print(get_compiler_version())
import mmdet.models
''')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['[1, 2]', 'none: mmfasternet.ops']


def test_without_us_it_does_not_import(mmcv_with):
    """If this fails, mmcv does without operators: delete ours."""
    done = mmcv_with(None, 'import mmcv.ops')
    assert "No module named 'mmcv._ext'" in done.stderr


@pytest.mark.parametrize('extension, said', [
    ('def __getattr__(name): return f"theirs {name}"', 'theirs nms'),
    ('raise ImportError("undefined symbol: _ZNK")',
     'ImportError: undefined symbol'),
], ids=['works', 'broken'])
def test_with_operators_it_keeps_them(extension, said, mmcv_with):
    """A broken build is an error that says so, not a slower program."""
    done = mmcv_with(
        extension, '''
import mmfasternet
from mmcv import _ext
print(_ext.nms)''')
    assert said in done.stdout + done.stderr


def test_every_operator_that_we_replace_is_one_of_mmcv():
    """Asked for by that name in the sources of mmcv's functions."""
    asked = set()
    for path in (MMCV / 'ops').glob('*.py'):
        for names in re.findall(r'load_ext\(\s*\'_ext\',\s*\[(.*?)\]',
                                path.read_text(), re.DOTALL):
            asked.update(re.findall(r"'(\w+)'", names))
    ours = {
        name for name, value in vars(extension).items()
        if inspect.isfunction(value) and not name.startswith('_')
    } - (set(ops.__all__) - {'nms'})  # what it imports
    assert ours <= asked
    assert {'nms', 'softnms', 'roi_align_forward'} <= ours
