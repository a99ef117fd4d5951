# SPDX-License-Identifier: Apache-2.0
"""Fonts for the names of classes in any script."""
import logging
from functools import cache
from pathlib import Path
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


def find_font(missing: Iterable[str]) -> Optional[str]:
    """The family of a font of this machine that has some characters.

    Args:
        missing (Iterable[str]): The characters.
    """
    codes = {ord(character) for character in missing}

    def rank(font: font_manager.FontEntry) -> tuple:
        return (next((i for i, name in enumerate(_PREFERRED)
                      if font.name.startswith(name)), len(_PREFERRED)),
                font.style != 'normal', abs(int(font.weight) - 400)
                if str(font.weight).isdigit() else 0)

    for font in sorted(font_manager.fontManager.ttflist, key=rank):
        if Path(font.fname).is_file() and codes <= _characters(font.fname):
            return font.name
    return None


def use_fonts_for(texts: Iterable[str]) -> None:
    """Let Matplotlib, and what draws with it, find a font for texts.

    Where its own has not all characters, a font of this machine that has them
    is added behind it; where there is none, it is said, once.

    Args:
        texts (Iterable[str]): What is to be drawn, e.g. names of classes.
    """
    wanted = frozenset(''.join(texts)) - frozenset(' \t\n')
    own = [font_manager.findfont(family, fallback_to_default=True)
           for family in rcParams['font.sans-serif'][:1]]
    for family in rcParams['font.sans-serif'][1:]:
        if family in {f.name for f in font_manager.fontManager.ttflist}:
            own.append(font_manager.findfont(family))
    missing = frozenset(c for c in wanted if not any(
        ord(c) in _characters(path) for path in own))
    if missing:
        _add_font(missing)


@cache
def _add_font(missing: FrozenSet[str]) -> None:
    family = find_font(missing)
    if family is not None:
        rcParams['font.sans-serif'] = [*rcParams['font.sans-serif'], family]
        return
    print_log(
        'no font of this machine has the characters '
        f'{"".join(sorted(missing)[:10])}: figures show squares in their '
        'place. Install one, e.g. fonts-noto-cjk for Chinese, Japanese and '
        'Korean', 'current', logging.WARNING)
