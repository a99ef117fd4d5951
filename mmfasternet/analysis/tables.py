# SPDX-License-Identifier: Apache-2.0
"""The tables that all measuring tools print and write."""
from typing import Any, Dict, Sequence


def markdown(rows: Sequence[Dict[str, Any]]) -> str:
    """A table in Markdown, aligned for a terminal: the first column to the
    left and the others to the right.

    Args:
        rows (Sequence[dict]): Cells by column, which are those of all rows in
            the order in which they come; a cell that a row lacks is empty.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *(
        [str(row.get(column, '')).replace('|', r'\|') for column in columns]
        for row in rows)]
    first, *others = (max(3, *map(len, column)) for column in zip(*cells))
    lines = [[line[0].ljust(first), *map(str.rjust, line[1:], others)]
             for line in cells]
    rule = ['-' * first, *('-' * (width - 1) + ':' for width in others)]
    return '\n'.join(f'| {" | ".join(line)} |'
                     for line in (lines[0], rule, *lines[1:]))
