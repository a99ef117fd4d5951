# SPDX-License-Identifier: Apache-2.0
"""The tables that all measuring tools print and write."""
from typing import Any, Sequence


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, aligned for a terminal: the first column to the
    left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    first, *others = (max(map(len, column)) for column in zip(*cells))
    lines = [[row[0].ljust(first), *map(str.rjust, row[1:], others)]
             for row in cells]
    rule = ['-' * first, *('-' * (width - 1) + ':' for width in others)]
    return '\n'.join(f'| {" | ".join(line)} |'
                     for line in (lines[0], rule, *lines[1:]))
