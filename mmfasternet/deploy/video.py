# SPDX-License-Identifier: Apache-2.0
"""Frames of videos, and reading ahead."""
import logging
import os
import queue
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Union

import cv2
import numpy as np
from mmengine.logging import print_log

from .result_files import written_whole


def prefetch(items: Iterable[Any],
             size: int,
             latest: bool = False) -> Iterator[Any]:
    """Take items from an iterable in another thread, ``size`` ahead, in order.

    What raises there is raised here. With ``latest``, what was not fetched is
    dropped when the next one comes.
    """
    buffer: queue.Queue = queue.Queue(1 if latest else size)
    stop = threading.Event()
    end = object()

    def put(item: Any) -> None:
        drop = latest and item[0] is None
        while not stop.is_set():
            try:
                return buffer.put(item, timeout=0 if drop else 0.1)
            except queue.Full:
                with suppress(queue.Empty):
                    if drop:
                        buffer.get_nowait()

    def fill() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                put((None, item))
            put((end, None))
        except Exception as error:
            put((error, None))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            state, item = buffer.get()
            if state is end:
                return
            if state is not None:
                raise state
            yield item
    finally:
        stop.set()
        thread.join()


def frames(source: Union[str, int]) -> Iterator[np.ndarray]:
    """Frames of a video.

    Args:
        source (str | int): A file, a URL (``rtsp://...``, ``http://...``), or
            the number of a camera.

    Yields:
        np.ndarray: uint8 ``(H, W, 3)``, BGR. If they are fewer than the file
        states, a warning says so.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be opened, or holds no frame.
    """
    source = _source(source)
    if isinstance(source, str) and '://' not in source and \
            not os.path.isfile(source):
        raise FileNotFoundError(f'video not found: {source}')
    video = cv2.VideoCapture(source)
    try:
        if not video.isOpened():
            kind = 'camera' if isinstance(source, int) else 'video'
            raise ValueError(f'the {kind} {source} cannot be opened: it is '
                             'not there, in use, or of a format that OpenCV '
                             'does not know')
        more, frame = video.read()
        if not more:
            raise ValueError(f'{source} holds no frame that can be read')
        count = 0
        while more:
            yield frame
            count += 1
            more, frame = video.read()
        stated = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if count < stated:  # OpenCV ends at a frame that is damaged
            print_log(f'{source} states {stated} frames, and {count} could be '
                      'read: is it truncated or damaged?', 'current',
                      logging.WARNING)
    finally:
        video.release()


@contextmanager
def video_file(path: str,
               source: str) -> Iterator[Callable[[np.ndarray], None]]:
    """A video of the frame rate of its source, complete or not there.

    Args:
        path (str): ``.mp4``, or ``.avi`` with Motion JPEG.
        source (str): See :func:`frames`.

    Yields:
        callable: Appends a frame; the first decides on the size. It raises a
        ValueError if there is no codec.
    """
    writer = cv2.VideoWriter()
    with written_whole(Path(path)) as part:

        def write(frame: np.ndarray) -> None:
            if not writer.isOpened():
                video = cv2.VideoCapture(_source(source))
                rate = video.get(cv2.CAP_PROP_FPS) or 25
                video.release()
                code = 'mp4v' if path.lower().endswith('.mp4') else 'MJPG'
                if not writer.open(
                        str(part), cv2.VideoWriter_fourcc(*code), rate,
                        frame.shape[1::-1]):
                    raise ValueError(f'{path} cannot be written: OpenCV has '
                                     f'no codec {code} here')
            writer.write(frame)

        try:
            yield write
        finally:
            writer.release()


def show_frame(frame: np.ndarray, window: str) -> bool:
    """Show a frame in a window; whether q was pressed in it.

    Raises:
        ValueError: If this OpenCV, or this machine, has no windows.
    """
    try:
        cv2.imshow(window, frame)
        return cv2.waitKey(1) == ord('q')
    except cv2.error:
        raise ValueError(
            '--show needs a screen, and an OpenCV that opens windows '
            '(opencv-python in the place of opencv-python-headless): write '
            'a file with --out instead') from None


def _source(source: Union[str, int]) -> Union[str, int]:
    """A camera by its number, whatever its type."""
    return int(source) if str(source).isdigit() else source
