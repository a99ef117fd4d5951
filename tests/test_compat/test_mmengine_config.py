# SPDX-License-Identifier: Apache-2.0
"""What we know of MMEngine's config reader; fails where that changes."""
import inspect
import sys
from pathlib import Path

import pytest
from conftest import skip_if_not_found_by_name
from mmengine.config import Config
from mmengine.hub import get_config

from mmfasternet.compat.mmengine_config import inheriting_files


@pytest.mark.parametrize('name', [
    'yolov8/yolov8_fasternet_s.py', '_base_/../yolov8_fasternet_s.py',
    'yolov8/_base_/yolov8_fasternet.py', '_base_/yolov8_fasternet.py',
    'retinanet/retinanet_fasternet-t0_fpn_1x_coco.py'
])
def test_our_configs_have_names(name, tmp_path):
    """For who inherits one, and for MMEngine's hub."""
    skip_if_not_found_by_name()
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = "mmfasternet::{name}"\n')
    direct = get_config(f'mmfasternet::{name}')
    assert Path(direct.filename).resolve() == Path(
        'configs', name.removeprefix('yolov8/')).resolve()
    inherited = Config.fromfile(mine)
    assert inherited.train_cfg.max_epochs == direct.train_cfg.max_epochs
    assert Path(inherited.filename) == mine


def test_a_name_that_does_not_exist_is_refused():
    skip_if_not_found_by_name()
    for name in ('yolov8/yolov8_fasternet_z.py', 'nowhere/x.py'):
        with pytest.raises(FileNotFoundError, match=Path(name).name):
            get_config(f'mmfasternet::{name}')
    # names of others are looked for where they were
    with pytest.raises(FileNotFoundError, match='mmdet.*yolov8/x.py'):
        get_config('mmdet::yolov8/x.py')


def test_a_base_sees_the_files_that_inherit_it(tmp_path):
    """The nearest first, placeholders replaced, of whatever kind."""
    for name, text in dict(
            base='import see\nsee.see()\n',
            middle="_base_ = './base.py'\na = 1\nb = a\n",
            mine='_base_: ./middle.py\na: "{{ fileBasename }}"\n').items():
        suffix = 'yml' if name == 'mine' else 'py'
        (tmp_path / f'{name}.{suffix}').write_text(text)
    seen = []
    sys.modules['see'] = see = type(sys)('see')
    see.see = lambda: seen.extend(inheriting_files(inspect.currentframe().
                                                   f_back))
    try:
        Config.fromfile(tmp_path / 'mine.yml', lazy_import=False)
    finally:
        del sys.modules['see']
    middle, mine = seen
    assert [Path(file.filename).name for file in seen] == [
        'middle.py', 'mine.yml']
    assert set(middle.assigned) == {'_base_', 'a', 'b'}
    assert middle.assigned['a'].value == 1 and middle.read == {'a'}
    assert mine.assigned['a'] == 'mine.yml' and mine.read == set()
