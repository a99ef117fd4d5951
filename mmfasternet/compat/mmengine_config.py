# SPDX-License-Identifier: Apache-2.0
"""What of MMEngine's config reader is not a public interface.

Written against ``mmengine.config`` of mmengine 0.10.7 and onedl-mmengine
0.10.12; tests/test_compat/test_mmengine_config.py fails where that changes.
"""
import ast
import os.path as osp
import sys
from functools import wraps
from types import FrameType
from typing import Any, Callable, Dict, Iterator, NamedTuple, Set

from mmengine.config import Config
from mmengine.config import config as _config
from mmengine.config import utils as _utils
from mmengine.fileio import load

_FOLDER = 'yolov8/'  # of a name; the files lie flat, as users type them


# ------------------------------------------------------ configs by their name
def name_our_configs() -> None:
    """Let MMEngine resolve ``mmfasternet::folder/name.py``.

    It takes only packages of its own table, and wants a folder in the path.
    The YOLOv8 configs have none, because their paths are typed as
    ``configs/yolov8_fasternet_s.py``, and no second file may have the same
    name (mim looks for that): so ``yolov8/`` in front of them is made known
    here. Called when mmfasternet is imported; nothing else of MMEngine
    changes by that.
    """
    _utils.MODULE2PACKAGE.setdefault('mmfasternet', 'mmfasternet')
    path_of = _utils._get_external_cfg_base_path
    if not hasattr(path_of, '__wrapped__'):
        # mmengine.hub takes it from `utils` when it is imported
        for module in (_utils, _config, sys.modules.get('mmengine.hub.hub')):
            if module is not None:
                module._get_external_cfg_base_path = _with_folder(path_of)


def _with_folder(path_of: Callable[[str, str], str]) -> Callable:

    @wraps(path_of)
    def path(package_path: str, name: str) -> str:
        if osp.basename(package_path) == 'mmfasternet':
            name = name.removeprefix(_FOLDER)
        return path_of(package_path, name)

    return path


# -------------------------------------------------------- files being read
class ConfigFile(NamedTuple):
    """A config that MMEngine has begun to read: it reads the bases first."""

    filename: str  #: Its path.
    #: What it assigns at its top level, an ``ast`` node where it is Python.
    assigned: Dict[str, Any]
    read: Set[str]  #: The names that it reads.
    base_values: Set[str]  #: Texts that stand for ``{{_base_.name}}``.


def inheriting_files(frame: FrameType) -> Iterator[ConfigFile]:
    """The configs whose base is read at the moment.

    MMEngine tells a base nothing of them. But it reads recursively, so each
    has a call of ``Config._file2dict`` under way, with these local names.

    Args:
        frame (FrameType): Of the code of a config.

    Yields:
        ConfigFile: From the one that names this config as its base to the one
        that was asked for.
    """
    caller = frame.f_back and frame.f_back.f_back  # f_back reads the config
    while caller and caller.f_code is Config._file2dict.__code__:
        local = caller.f_locals
        # after {{ fileDirname }} and the like have been replaced
        path = local['temp_config_file'].name
        yield ConfigFile(local['filename'], *_parse(path),
                         set(local.get('base_var_dict', {})))
        caller = caller.f_back


def _parse(path: str):
    """What a file assigns, and the names that it reads."""
    if not path.endswith('.py'):
        return load(path), set()
    with open(path, encoding='utf-8') as file:
        tree = ast.parse(file.read())
    assigned = {
        target.id: node.value
        for node in tree.body if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }
    return assigned, {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
