# SPDX-License-Identifier: Apache-2.0
"""Files as people have them: links, hidden copies, old encodings."""
import codecs
import os
import stat
from pathlib import Path
from typing import Iterator, Union

# Copies and waste that operating systems and storage boxes leave behind.
_COPIES = ('__macosx', '@eadir', '@__thumb', '@recycle', '#recycle',
           '$recycle.bin', 'recycler', 'lost+found')
_BOMS = ((codecs.BOM_UTF8, 'utf-8-sig'), (codecs.BOM_UTF16_LE, 'utf-16'),
         (codecs.BOM_UTF16_BE, 'utf-16'))


def files_below(root: Union[str, Path]) -> Iterator[Path]:
    """All files in a folder and the folders in it, in a fixed order.

    Links are followed, but no folder is visited twice: one that links to a
    folder above it, or above ``root``, ends there. Real folders come before
    linked ones.
    """
    above = Path(os.path.realpath(root)).parents
    seen, folders, links = set(map(str, above)), [Path(root)], []
    while folders or links:
        folder = (folders or links).pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            paths = sorted(folder.iterdir())
        except OSError:  # not ours to read
            continue
        inner = [path for path in paths if path.is_dir()]
        folders[:0] = [path for path in inner if not path.is_symlink()]
        links += [path for path in inner if path.is_symlink()]
        # a link that leads nowhere is one of them, to be found missing
        yield from (path for path in paths if path.is_file()
                    or path.is_symlink() and not path.exists())


def is_hidden(path: Path, root: Union[str, Path]) -> bool:
    """Whether a file is a hidden one, or in a hidden folder below ``root``."""
    return any(part.startswith('.') or part.lower() in _COPIES
               for part in path.relative_to(root).parts)


def read_text(path: Path) -> str:
    """Text in UTF-8, UTF-16 or GBK.

    Raises:
        ValueError: If it is none of these.
    """
    return decode(path.read_bytes(), path)


def decode(data: bytes, path: Path) -> str:
    """As :func:`read_text`, of what was read from ``path``."""
    encoding = next((e for mark, e in _BOMS if data.startswith(mark)), 'utf-8')
    if b'\0' in data[:2]:  # UTF-16 without a mark: one half of a character
        encoding = 'utf-16-be' if data[0] == 0 else 'utf-16-le'
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        pass
    try:
        text = data.decode('gb18030')
    except UnicodeDecodeError:
        text = ''
    # Nearly any text is GBK by its form, but few texts of other scripts have
    # mostly punctuation and the common characters, which come first there.
    wide = [c.encode('gb18030') for c in text if ord(c) > 127]
    common = [0xa1 <= c[0] < 0xd8 and c[1] >= 0xa1 for c in wide]
    if 2 * sum(common) > len(wide):
        return text
    raise ValueError(f'{path}: the text is neither UTF-8 nor UTF-16 nor GBK; '
                     'save it as UTF-8')


def file_error(path: Union[str, Path]) -> str:
    """Why a file cannot be opened, '' if it can; opens nothing."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero character
        return getattr(error, 'strerror', None) or str(error)
    if stat.S_ISDIR(mode):
        return 'Is a directory'
    if not stat.S_ISREG(mode):
        return 'Is not a plain file'
    return '' if os.access(path, os.R_OK) else 'Permission denied'
