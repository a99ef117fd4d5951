# SPDX-License-Identifier: Apache-2.0
"""What of MMEngine's ``--cfg-options`` is not what a user typed."""
import re
from argparse import ArgumentParser, Namespace
from typing import Any, Optional

from mmengine.config import DictAction


class Options(DictAction):
    """MMEngine's, with an error of the parser instead of a traceback, and
    with the spaces within names of files and classes, which that one drops."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace,
                 values: Any, option_string: Optional[str] = None) -> None:
        try:
            super().__call__(parser, namespace, [*map(_hide_spaces, values)],
                             option_string)
            setattr(namespace, self.dest,
                    _with_spaces(getattr(namespace, self.dest)))
        except (AssertionError, ValueError):
            parser.error(f'{option_string} wants key=value pairs with closed '
                         f'brackets, got {" ".join(values)}')


def _hide_spaces(option: str) -> str:
    """As zero characters, which no argument has, but for those that only
    stand beside the commas and brackets of a list."""
    key, equals, value = option.partition('=')
    value = value.strip()
    is_list = ',' in value or value[:1] in ('(', '[')
    pattern = r'(?<=[^\s,()[\]]) +(?=[^\s,()[\]])' if is_list else ' +'
    return key + equals + re.sub(
        pattern, lambda spaces: '\0' * len(spaces[0]), value)


def _with_spaces(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_spaces(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_spaces, value))
    return value.replace('\0', ' ') if isinstance(value, str) else value
