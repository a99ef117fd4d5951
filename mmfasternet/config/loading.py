# SPDX-License-Identifier: Apache-2.0
"""Reading a config with options of the command line."""
import difflib
import inspect
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner

from mmfasternet.checkpoint import secure_mmengine

from .default_hooks import our_hooks
from .knobs import command_line

# knobs that tools read themselves, so that they count in any copy
_READ_BY_TOOLS = ('test_ann_file', 'test_data_prefix')


def load_config(filename: str,
                cfg_options: Optional[Dict[str, Any]] = None) -> Config:
    """Load a config; an option that is one of its knobs counts everywhere.

    A top-level option acts as if the line that assigns the name had been
    edited, where that config binds it (:mod:`.knobs`). Anything
    else is MMEngine's: dicts and dotted options are merged last.

    Args:
        filename (str): Path of the config, or ``package::path`` for one of an
            installed package.
        cfg_options (dict, optional): Overrides as parsed from
            ``--cfg-options``, by (dotted) name.

    Returns:
        Config: The config; ``filename`` is the given one.

    Raises:
        FileNotFoundError: If the config or a base of it does not exist.
        ValueError: If the file cannot be read; if an option names nothing
            that exists, its value is of another kind than the one it
            replaces, or it would change nothing because no file of ours
            derives anything from it; or if a knob was changed in the file
            where it no longer counts.
    """
    secure_mmengine()
    options = dict(cfg_options or {})
    knobs = {k: v for k, v in options.items() if '.' not in k}
    with command_line(knobs) as used:
        cfg = _read(str(filename))
    _drop_scope(cfg._cfg_dict)
    # MMEngine has merged what the file itself says over the command line's
    cfg.merge_from_dict({name: cfg.knobs[name] for name in used})
    _refuse_edited(cfg)
    _refuse_idle_teacher(cfg)
    options = {k: v for k, v in options.items() if k not in used}
    for key, value in options.items():
        _refuse_useless(key, value, cfg)
        _refuse_mistyped(key, cfg)
        _refuse_other_kind(key, value, cfg)
        options[key] = _tuple_for_tuple(cfg, key, value)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'--cfg-options {" ".join(options)}: not all of them '
                         f'fit {cfg.filename}: {error}') from None
    if not isinstance(cfg.get('resume'), (bool, type(None))):
        raise ValueError(f'resume is True or False, got {cfg.resume!r}: give '
                         'a checkpoint to go on from by --resume, or as '
                         'load_from beside resume=True')
    return cfg


def _read(filename: str) -> Config:
    try:
        if '::' in filename:
            return get_config(filename)
        if not Path(filename).is_file():
            raise FileNotFoundError(f'config file not found: {filename}')
        return Config.fromfile(filename)
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(
            f'{filename} inherits {error.filename}, which does not exist: '
            'correct `_base_`, which counts from its folder') from None
    except ImportError:
        raise
    except RecursionError:
        raise ValueError(f'{filename} inherits itself') from None
    except Exception as error:
        if type(error) is ValueError:  # says what is wrong, and where
            raise
        hint = '. Save it as UTF-8 without BOM' if isinstance(
            error, UnicodeError) or 'U+FEFF' in str(error) else ''
        raise ValueError(f'{filename} is not a config that can be read: '
                         f'{type(error).__name__}: {error}{hint}') from error


def _drop_scope(node: Any) -> None:
    """Let names of ours be looked for in the default scope.

    MMEngine makes the package of a ``mmfasternet::`` base the scope of what
    stands in it, but those files are written for their ``default_scope``.
    """
    if isinstance(node, dict):
        if node.get('_scope_') == 'mmfasternet':
            del node['_scope_']
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _drop_scope(child)


def _refuse_edited(cfg: Config) -> None:
    """A knob that was changed where it no longer counts.

    In the complete copy that training and ``mim gridsearch`` write, or in
    another way than a plain assignment.
    """
    for name, value in (cfg.get('knobs') or {}).items():
        given = cfg.get(name)
        if name not in _READ_BY_TOOLS and _as_list(given) != _as_list(value):
            places = list(_places(cfg._cfg_dict, name, value))
            raise ValueError(
                f'{name} is {given!r} in {cfg.filename}, but what follows '
                f'from it stands there as for {value!r}: this is a written '
                f'copy, or no line `{name} = ...`. Change it in the config '
                'that inherits ours' +
                (f', or here {places[0]}' if places else ''))


def _refuse_idle_teacher(cfg: Config) -> None:
    """A teacher in a file whose bases know none, as mmyolo's own."""
    if None not in (cfg.get('teacher'), cfg.get('teacher_checkpoint')
                    ) and 'teacher' not in (cfg.get('model') or {}):
        raise ValueError(
            f'teacher in {cfg.filename} would teach nobody: no file that it '
            'inherits makes a student of the model. Inherit one of our '
            'configs, see docs/en/distillation.md')


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_useless(key: str, value: Any, cfg: Config) -> None:
    """A mistyped name, or a plain value from which nothing is derived.

    The latter has been evaluated: in a config of another package, or in the
    complete copy that training writes. Either would be merged and never read.
    """
    runner = inspect.signature(Runner.__init__).parameters
    name = key.split('.')[0]
    if name not in cfg and name not in runner:
        close = difflib.get_close_matches(name, {*cfg, *runner})
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise ValueError(f'--cfg-options {key}: nothing in {cfg.filename} is '
                         f'called {name!r}{hint}')
    if '.' not in key and key not in runner and not isinstance(
            value, dict) and key not in _READ_BY_TOOLS:
        places = list(_places(cfg._cfg_dict, key, cfg.get(key)))
        hint = f': name those places instead, e.g. {places[0]}=...' if \
            places else ''
        raise ValueError(
            f'--cfg-options {key}: {cfg.filename} has a value of that name, '
            f'but what follows from it has been written out{hint}')


def _reached(cfg: Config, key: str) -> Tuple[Any, List[str]]:
    """What a dotted name leads to, and the names that lead no further."""
    node: Any = cfg._cfg_dict
    names = key.split('.')
    for i, name in enumerate(names):
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, (list, tuple)) and name in map(
                str, range(len(node))):
            node = node[int(name)]
        else:
            return node, names[i:]
    return node, []


def _tuple_for_tuple(cfg: Config, key: str, value: Any) -> Any:
    """A tuple for a tuple: the command line has lists, and many transforms
    take none."""
    old, rest = _reached(cfg, key)
    is_tuple = not rest and isinstance(old, tuple) and isinstance(value, list)
    return tuple(value) if is_tuple else value


def _refuse_mistyped(key: str, cfg: Config) -> None:
    """A new name like a known one: where no signature knows the names, as in
    ``test_cfg`` or ``nms``, it would never be read, or much later."""
    node, rest = _reached(cfg, key)
    if not rest or rest[0] == key or not isinstance(node, dict):
        return
    name = rest[0]
    close = difflib.get_close_matches(name, node, n=1, cutoff=.9) or [
        known for known in node if re.match(f'{re.escape(known)}[a-z]', name)
        or re.match(f'{re.escape(name)}[a-z]', known)]
    if close:
        raise ValueError(f'--cfg-options {key}: nothing there is called '
                         f'{name!r}; did you mean {close[0]}?')


def _refuse_other_kind(key: str, value: Any, cfg: Config) -> None:
    """Text for a number, a value for what has a type, and None for a hook
    that there is not."""
    old, rest = _reached(cfg, key)
    is_plain = isinstance(value, (str, int, float))
    if not rest and isinstance(old, dict) and 'type' in old and is_plain:
        raise ValueError(
            f'--cfg-options {key}={value}: in {cfg.filename} these are several'
            f' settings, {", ".join(old)}; name one of them, '
            f'{key}.{next(iter(old))}=...')
    is_number = isinstance(old, (int, float)) and not isinstance(old, bool)
    # `dynamic` is a scale of AMP, `auto` a number for DeepSpeed to find
    if not rest and is_number and isinstance(value, str) and \
            value not in ('dynamic', 'auto'):
        raise ValueError(f'--cfg-options {key} must be a number like {old!r}, '
                         f'got {value!r}')
    hooks = {*(cfg.get('default_hooks') or ()), *our_hooks()}
    if value is None and re.fullmatch(r'default_hooks\.\w+', key) and \
            key.split('.')[1] not in hooks:
        raise ValueError(f'--cfg-options {key}=None: there is no such hook to '
                         f'leave out, there are {", ".join(sorted(hooks))}')


def _places(node: Any, name: str, value: Any, path: str = '') -> Iterator[str]:
    """Dotted names below the top level that end in a name or hold a value."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in items:
        here = f'{path}.{key}' if path else str(key)
        if here == 'knobs':  # their record
            continue
        if path and (key == name or isinstance(value, str) and value
                     and child == value):
            yield here
        if isinstance(child, (dict, list, tuple)):
            yield from _places(child, name, value, here)
