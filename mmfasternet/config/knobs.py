# SPDX-License-Identifier: Apache-2.0
"""Values that an inheriting config assigns count where they are defined.

MMEngine evaluates a base config before the one that inherits it, and merges
``--cfg-options`` after both. So ``max_epochs = 50`` in either place changes a
number at the top level while the training loop, the scheduler and the hooks
keep what the base computed from the old one. A config that calls
:func:`bind_knobs` between its plain values and what follows from them gives
such an assignment the meaning its author had in mind, whoever reads it.
"""
import ast
import math
import re
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Dict, Iterator, Optional, Set

from mmfasternet.compat.mmengine_config import ConfigFile, inheriting_files

_COMMAND_LINE: ContextVar[Dict[str, Any]] = ContextVar('command line')
_USED: ContextVar[Set[str]] = ContextVar('used')
_PLAIN = (bool, int, float, str, type(None))
_KINDS = {bool: 'True or False', float: 'a number', str: 'text'}


def bind_knobs(names: Dict[str, Any],
               derived: Optional[Dict[str, str]] = None,
               ranges: Optional[Dict[str, str]] = None) -> None:
    """Let a config see the plain values that are assigned to it later.

    A plain value is a number, a string, None, or a sequence of them. MMEngine
    tells a base nothing of the config that inherits it, but it reads that one
    first and is still at it: its file stands in the calls under way. The
    values that counted are kept as ``knobs`` in the config.

    Args:
        names (dict): The ``globals()`` of the config, changed in place.
        derived (dict, optional): Names that the config computes from those
            after this call, and what to assign instead of each. Assigned in
            an inheriting config they would change nothing.
        ranges (dict, optional): Interval of a number, like
            ``'whole [1, inf)'`` or ``'(0, 1] or None'``; or ``'text or
            None'``.

    Raises:
        ValueError: If an inheriting config assigns something else to one of
            the names, a value of another kind than the one it replaces, or
            one that is out of its range; or if it assigns a derived name
            without using it itself, or the command line does.
    """
    knobs = {
        name
        for name, value in names.items()
        if not name.startswith('_') and _is_plain(value)
    }
    derived, defaults = derived or {}, dict(names)
    for file in inheriting_files(sys._getframe(1)):
        for name, node in file.assigned.items():
            if name in derived and name not in file.read:
                raise ValueError(
                    f'{name} in {file.filename} would change nothing: what '
                    'follows from it is computed before that file runs. '
                    f'Assign {derived[name]} instead')
            if name in knobs:
                value = _value(name, node, file)
                names[name] = _alike(name, defaults[name], value)
    for name, value in _COMMAND_LINE.get({}).items():
        if name in derived and not isinstance(value, dict):
            raise ValueError(f'--cfg-options {name} would change nothing: it '
                             f'follows from {derived[name]}, which to assign '
                             'instead')
        if name in knobs:
            names[name] = _alike(name, defaults[name], value)
            _USED.get().add(name)
    for name, interval in (ranges or {}).items():
        names[name] = _in_range(name, names[name], interval)
    names['knobs'] = {name: names[name] for name in sorted(knobs)}


@contextmanager
def command_line(values: Dict[str, Any]) -> Iterator[Set[str]]:
    """Values that win over those of all files read meanwhile.

    Args:
        values (dict): By name.

    Yields:
        set[str]: The names that a config has bound.
    """
    used: Set[str] = set()
    tokens = _COMMAND_LINE.set(values), _USED.set(used)
    try:
        yield used
    finally:
        _COMMAND_LINE.reset(tokens[0])
        _USED.reset(tokens[1])


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _value(name: str, node: Any, file: ConfigFile) -> Any:
    value = node
    if isinstance(node, ast.AST):
        try:
            value = ast.literal_eval(node)
        except ValueError:
            value = {}
    from_base = isinstance(value, str) and value in file.base_values
    if from_base or not _is_plain(value):
        raise ValueError(
            f'{name} in {file.filename} must be written out, as a number, a '
            'string, None or a sequence of them: what follows from it is '
            'computed before that file runs')
    return value


def _alike(name: str, old: Any, new: Any) -> Any:
    """``new`` in the kind of ``old``, or an error that shows both."""
    for number in new if isinstance(new, (list, tuple)) else [new]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f'{name} cannot be {_short(new)}: a number must '
                             'be finite')
    if isinstance(old, (list, tuple)):
        if not isinstance(new, (list, tuple)):
            hint = f'; a tuple of one needs its comma: ({new!r},)' \
                if isinstance(new, str) else ''
            raise ValueError(f'{name} must be a sequence like {_short(old)}, '
                             f'got {new!r}{hint}')
        numbers = bool(old) and all(map(_is_number, old))
        if numbers and (len(new) != len(old) or not all(map(_is_number, new))):
            raise ValueError(f'{name} must be {len(old)} numbers like {old!r},'
                             f' got {_short(new)}')
        if old and not numbers and not (
                new and all(isinstance(v, type(old[0])) for v in new)):
            raise ValueError(f'{name} must be a sequence of texts in quotes '
                             f'like {_short(old)}, got {_short(new)}')
        return type(old)(new)
    # None for a number: its range says whether that means something
    if old is not None and _kind(new) is not _kind(old) and not (
            new is None and _is_number(old)):
        raise ValueError(f'{name} must be {_KINDS[_kind(old)]} like {old!r}, '
                         f'got {_short(new)}')
    return new


def _kind(value: Any) -> type:
    return float if _is_number(value) else type(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _in_range(name: str, value: Any, interval: str) -> Any:
    """``'whole [1, inf)'``, ``'(0, 1) or None'``; of each in a sequence.

    Returns:
        Any: The value; 10.0 is 10 where it is whole.
    """
    if value is None and interval.endswith(' or None'):
        return value
    if interval.startswith('text'):
        if not isinstance(value, str):
            raise ValueError(f'{name} must be {interval}, got {value!r}')
        return value
    low, high = (float(x) for x in re.findall(r'-?[\d.]+|inf', interval))
    whole, open_low, open_high = (x in interval for x in ('whole', '(', ')'))
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if not _is_number(number) or not low <= number <= high or (
                open_low and number == low) or (
                    open_high and number == high) or (
                        whole and number != int(number)):
            raise ValueError(
                f'{name} must be a {"whole " if whole else ""}number in '
                f'{interval.removeprefix("whole ")}, got {_short(value)}')
    if not whole:
        return value
    return type(value)(map(int, value)) if isinstance(
        value, (list, tuple)) else int(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:56] + ' ...'
