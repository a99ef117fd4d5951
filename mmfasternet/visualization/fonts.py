# SPDX-License-Identifier: Apache-2.0
"""Fonts for the names of classes in any script."""
import logging
import string
from functools import cache
from typing import FrozenSet, Iterable, Optional

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log

# Fonts made for reading, before symbols and last resorts that have all.
_PREFERRED = ('Noto Sans', 'Source Han Sans', 'WenQuanYi', 'Microsoft YaHei',
              'SimHei', 'PingFang', 'Hiragino', 'Noto')


@cache
def _characters(path: str) -> FrozenSet[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # not a font that Matplotlib reads
        return frozenset()


def find_font(characters: Iterable[str]) -> Optional[str]:
    """The family of a font of this machine that has some characters.

    Args:
        characters (Iterable[str]): All of them are needed.
    """
    codes = {*map(ord, characters)}

    def rank(font: font_manager.FontEntry) -> tuple:
        first = next((i for i, name in enumerate(_PREFERRED)
                      if font.name.startswith(name)), len(_PREFERRED))
        return first, font.style != 'normal', str(font.weight) not in (
            '400', 'regular', 'normal')

    return next((font.name for font in sorted(
        font_manager.fontManager.ttflist, key=rank)
                 if codes <= _characters(font.fname)), None)


def use_fonts_for(texts: Iterable[str]) -> None:
    """Let Matplotlib, and what draws with it, find a font for texts.

    Where its own has not all characters, a font of this machine that has them
    is used in their place; where there is none, it is said, once.

    Args:
        texts (Iterable[str]): What is to be drawn, e.g. names of classes.
    """
    paths = [
        font_manager.findfont(font_manager.FontProperties(family=[family]))
        for family in rcParams['font.family']
    ]
    missing = frozenset(
        character for character in {*''.join(texts)} if character.isprintable()
        and not any(ord(character) in _characters(path) for path in paths))
    if missing:
        _add_font(missing)


@cache
def _add_font(missing: FrozenSet[str]) -> None:
    plain = frozenset(string.ascii_letters + string.digits)
    family = find_font(missing | plain) or find_font(missing)
    if family is None:
        print_log(
            'no font of this machine has the characters '
            f'{"".join(sorted(missing)[:10])}: figures show squares in their '
            'place. Install one, e.g. fonts-noto-cjk for Chinese, Japanese '
            'and Korean', 'current', logging.WARNING)
        return
    rcParams['font.family'] = [*rcParams['font.family'], family]
    if find_font(plain | missing) == family:
        # MMEngine's visualizer takes the first of these and no other
        rcParams['font.sans-serif'] = [family, *rcParams['font.sans-serif']]
