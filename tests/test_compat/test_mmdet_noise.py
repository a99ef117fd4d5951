# SPDX-License-Identifier: Apache-2.0
"""Our commands print what is true and needed."""
import subprocess
import sys


def test_an_import_says_nothing():
    """onedl-mmdetection would say that no metrics will be computed."""
    done = subprocess.run([sys.executable, 'tools/train.py', '-h'],
                          capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith('usage: train.py')
    assert 'coco_eval' not in done.stderr


def test_what_else_mmengine_logs_is_printed(capsys):
    """The filter is gone after the import."""
    import mmfasternet.models  # noqa: F401  # isort: skip
    from mmengine.logging import print_log
    print_log('Could not import OneDL, but for another reason')
    assert 'another reason' in capsys.readouterr().out
