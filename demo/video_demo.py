# SPDX-License-Identifier: GPL-3.0-only
"""Detect objects in a video file, a camera or a stream, in the deploy form."""
import json
import sys
import time
from contextlib import ExitStack

from mmfasternet import cli


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        'video',
        help='video file, URL (rtsp://..., http://...), or the number of a '
        'camera; of a live source only the latest frame is processed')
    cli.add_checkpoint(parser)
    parser.add_argument(
        '--out', help='video file to write, .mp4 or .avi (with Motion JPEG)')
    parser.add_argument(
        '--out-json',
        help='file to write the boxes to: a line of JSON for each frame')
    parser.add_argument(
        '--show', action='store_true', help='open a window; q ends it')
    cli.add_engine(parser)
    cli.add_device(parser)
    cli.add_score_thr(parser)
    cli.add_batch_size(parser)
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if args.out and not args.out.lower().endswith(('.mp4', '.avi')):
        parser.error(f'--out must end in .mp4 or .avi, got {args.out}')
    return args


def main():
    args = parse_args()
    live = args.video.isdigit() or '://' in args.video
    count, boxes = 0, 0
    with cli.clear_errors(ImportError, OSError, ValueError), \
            ExitStack() as stack:
        from mmfasternet.checkpoint import whole_file
        from mmfasternet.config import load_config
        from mmfasternet.deploy import Predictor, frames
        from mmfasternet.deploy.engines import require_followed
        from mmfasternet.deploy.result_files import as_dict
        from mmfasternet.deploy.video import show_frame, video_file
        for path in filter(None, (args.out, args.out_json)):
            cli.require_output(path, args.video, args.checkpoint, args.config)
        if args.out and args.out_json:
            cli.require_output(args.out_json, args.out)
        require_followed(args.checkpoint, args.cfg_options)
        cfg = load_config(args.config, args.cfg_options)
        predictor = Predictor(args.checkpoint, cfg, args.backend,
                              args.precision, args.threads, args.device,
                              args.score_thr)
        write = stack.enter_context(video_file(args.out, args.video)) if \
            args.out else None
        lines = stack.enter_context(whole_file(args.out_json)) if \
            args.out_json else None
        begin = time.perf_counter()
        try:
            for frame, sample in predictor.stream(
                    frames(args.video), args.batch_size, latest=live):
                if lines:
                    found = dict(
                        frame=count, **as_dict(sample, predictor.classes))
                    lines.write(json.dumps(found).encode() + b'\n')
                count += 1
                boxes += len(sample.pred_instances)
                if not (args.out or args.show):
                    continue
                picture = predictor.draw(frame, sample, args.score_thr)
                if write:
                    write(picture)
                if args.show and show_frame(picture, args.video):
                    break
        except KeyboardInterrupt:
            print('stopped', file=sys.stderr)
    seconds = time.perf_counter() - begin
    print(f'{args.video}: {count} frames, {boxes} boxes, '
          f'{count / seconds:.1f} frames/s')


if __name__ == '__main__':
    main()
