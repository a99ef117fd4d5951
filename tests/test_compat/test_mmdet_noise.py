# SPDX-License-Identifier: Apache-2.0
"""Our commands print what is true and needed."""
import subprocess
import sys

import pytest


@pytest.mark.parametrize('command', [
    ['tools/train.py', '-h'],
    ['-c', 'import mmfasternet.models, mmfasternet.engine'],
], ids=' '.join)
def test_an_import_says_nothing(command):
    """onedl-mmdetection would say that no metrics will be computed."""
    done = subprocess.run([sys.executable, *command], capture_output=True,
                          text=True)
    assert done.returncode == 0
    assert 'OneDL' not in done.stdout and 'coco_eval' not in done.stderr
    if command[0] == '-c':
        assert done.stdout == ''


def test_what_else_mmengine_logs_is_printed(capsys):
    """The filter is gone after the import."""
    import mmfasternet.models  # noqa: F401  # isort: skip
    from mmengine.logging import print_log
    print_log('Could not import OneDL, but for another reason')
    assert 'another reason' in capsys.readouterr().out
