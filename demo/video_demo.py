# SPDX-License-Identifier: GPL-3.0-only
"""Detect objects in a video file, a camera or a stream, in the deploy form."""
import argparse
import sys
import time

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.deploy  # noqa: F401  # isort: skip
import cv2

from mmfasternet import cli
from mmfasternet.config import load_config
from mmfasternet.deploy import Predictor, frames
from mmfasternet.deploy.engines import ENGINES


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'video',
        help='video file, URL (rtsp://..., http://...), or the number of a '
        'camera; of a live source only the latest frame is processed')
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        'checkpoint',
        help='checkpoint file or URL, or what tools/deploy/export.py wrote '
        '(.onnx, or .xml of OpenVINO)')
    parser.add_argument(
        '--out', help='video file to write, .mp4 or .avi (with Motion JPEG)')
    parser.add_argument(
        '--show', action='store_true', help='open a window; q ends it')
    parser.add_argument(
        '--backend',
        choices=ENGINES,
        help='what runs the network (default: what the file is for)')
    parser.add_argument(
        '--precision', choices=['fp32', 'bf16', 'fp16'], default='fp32')
    parser.add_argument(
        '--threads', type=int, help='of the backend (default: its choice)')
    parser.add_argument(
        '--device', default='cpu', help='e.g. cuda:0 (default: cpu)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of a box (default: 0.3)')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='frames per forward pass')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.mp4', '.avi')):
        parser.error(f'--out must end in .mp4 or .avi, got {args.out}')
    return args


def open_writer(path, source, frame):
    """A video file of the frame rate of the source."""
    rate = cv2.VideoCapture(source).get(cv2.CAP_PROP_FPS) or 25
    code = 'mp4v' if path.endswith('.mp4') else 'MJPG'
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*code), rate,
                             frame.shape[1::-1])
    if not writer.isOpened():
        raise ValueError(f'{path} cannot be written: does its folder exist?')
    return writer


def main():
    args = parse_args()
    live = args.video.isdigit() or '://' in args.video
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        predictor = Predictor(args.checkpoint, cfg, args.backend,
                              args.precision, args.threads, args.device,
                              args.score_thr)
        writer, count, boxes, begin = None, 0, 0, time.perf_counter()
        try:
            for frame, sample in predictor.stream(
                    frames(args.video), args.batch_size, latest=live):
                count += 1
                boxes += len(sample.pred_instances)
                if not (args.out or args.show):
                    continue
                picture = predictor.draw(frame, sample, args.score_thr)
                if args.out:
                    writer = writer or open_writer(args.out, args.video, frame)
                    writer.write(picture)
                if args.show:
                    cv2.imshow(args.video, picture)
                    if cv2.waitKey(1) == ord('q'):
                        break
        except KeyboardInterrupt:
            print('stopped', file=sys.stderr)
        finally:
            if writer is not None:
                writer.release()
    seconds = time.perf_counter() - begin
    print(f'{args.video}: {count} frames, {boxes} boxes, '
          f'{count / seconds:.1f} frames/s')


if __name__ == '__main__':
    main()
