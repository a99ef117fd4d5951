# SPDX-License-Identifier: Apache-2.0
"""A web page to try detectors on images of your own or of a camera.

It needs gradio: pip install -e .[web]. Anyone who can open the page can run
the models that this command names, and nothing else.
"""
import argparse
import os
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

# first: it says how PyTorch's threads wait
import mmfasternet  # noqa: F401  # isort: skip
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmfasternet import cli
from mmfasternet.checkpoint import CheckpointError
from mmfasternet.config import load_config
from mmfasternet.datasets.images import read_image
from mmfasternet.deploy import Predictor
from mmfasternet.deploy.engines import ENGINES, EXPORTED
from mmfasternet.deploy.result_files import as_dict

MAX_BYTES = 20 * 2**20  # of an upload
MAX_PIXELS = 25_000_000  # of an image, 75 MB when it is decoded
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP')
SHOWN = 50  # boxes listed beside a picture
NONE, USUAL = 'none', 'usual'  # choices beside the models and backends
KEPT = 600  # seconds, after which uploads are deleted


def parse_args():
    parser = cli.tool_parser(__doc__)
    cli.add_checkpoint(parser)
    parser.add_argument(
        '--compare',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another model to choose from; may be given several times')
    parser.add_argument(
        '--backend',
        choices=ENGINES,
        help='what runs the networks at first (default: what an exported '
        'file is for, pytorch for a checkpoint)')
    parser.add_argument(
        '--threads',
        type=cli.positive_int,
        help='of a network (default: its choice)')
    cli.add_device(parser)
    cli.add_score_thr(parser)
    parser.add_argument(
        '--server-name',
        default='127.0.0.1',
        help='address to listen on; 0.0.0.0 lets other machines in (default: '
        '127.0.0.1)')
    parser.add_argument(
        '--server-port', type=port, default=7860, help='default: 7860')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def port(text):
    """A port to listen on, for ``type=`` of an argument."""
    value = cli.positive_int(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f'{text} is not a port: 1 to 65535')
    return value


class Models:
    """The models that may be run, each loaded when it is first chosen.

    Args:
        models (Sequence[tuple]): Config and checkpoint, or exported file.
        threads (int, optional): See :class:`.Predictor`.
        device (str): See :class:`.Predictor`.
    """

    def __init__(self, models, threads=None, device='cpu'):
        self.options = dict(threads=threads, device=device)
        self.models, self.predictors = {}, {}
        self.lock = threading.Lock()
        for config, checkpoint in models:
            name = Path(checkpoint).name
            if not name.endswith(EXPORTED):
                name = f'{Path(config.filename).stem}, {name}'
            while name in self.models:  # of another folder
                name += "'"
            self.models[name] = config, checkpoint

    def __call__(self, path, name, backend, score_thr):
        """Detect objects in a file.

        Returns:
            tuple: The picture, RGB; ``[class, score, x1, y1, x2, y2]`` of
            each box; seconds of reading and fitting the image, of the network
            and of making boxes of what it gives.
        """
        with self.lock:
            predictor = self.load(name, backend)
            begin = time.perf_counter()
            image = read_image(path)
            read = time.perf_counter() - begin
            sample, = predictor(image)
            found = sample.pred_instances
            sample.pred_instances = found[found.scores >= score_thr]
            picture = predictor.draw(image, sample, score_thr)
        boxes = as_dict(sample, predictor.classes)
        rows = [[name, round(score, 3), *(round(side, 1) for side in box)]
                for name, score, box in zip(
                    boxes['names'], boxes['scores'], boxes['bboxes'])]
        took = sample.seconds
        return picture[..., ::-1], rows, (read + took['prepare'],
                                          took['network'], took['boxes'])

    def load(self, name, backend=None):
        """The predictor of a model; None is the backend that it is for."""
        if (name, backend) not in self.predictors:
            config, checkpoint = self.models[name]
            predictor = Predictor(checkpoint, config, backend, **self.options)
            # the first run of an engine is slower than all others
            width, height = predictor.backend.info.img_scale
            predictor(np.zeros((height, width, 3), np.uint8))
            self.predictors[name, backend] = predictor
        return self.predictors[name, backend]


def check_image(path):
    """Refuse what is not an image of a usual format and size; decodes nothing.

    Raises:
        ValueError: Saying what is wrong.
    """
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f'the file is larger than {MAX_BYTES >> 20} MiB')
    large = f'the image has more than the {MAX_PIXELS:,} pixels that are taken'
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:  # Pillow's own limit
        raise ValueError(large) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise ValueError('this is not an image, or damaged: give a '
                         f'{", ".join(FORMATS)}') from None
    if width * height > MAX_PIXELS:
        raise ValueError(large)


# ------------------------------------------------------------ the page
def summary(rows, seconds):
    """Two lines: what was found, and how long it took."""
    counts = {}
    for name, *_ in rows:
        counts[name] = counts.get(name, 0) + 1
    found = ', '.join(f'{n} {name}' for name, n in counts.items())
    read, network, boxes = (1e3 * s for s in seconds)
    return (f'{found or "nothing"} found\n'
            f'{read + network + boxes:.1f} ms: reading and fitting the image '
            f'{read:.1f}, network {network:.1f}, boxes {boxes:.1f}')


def answer(models, path, score, *chosen):
    """Picture, summary and rows of one model, and those of the second.

    Args:
        models (Models): What may be run.
        path (str, optional): The image; None leaves the page empty.
        score (float): Lowest score.
        *chosen (str): Name and backend of the first, and of the second.
    """
    outs = []
    if path is not None:
        check_image(path)
    for name, engine in (chosen[:2], chosen[2:]):
        if path is None or name in (None, NONE):
            outs += [None, '', []]
            continue
        picture, rows, seconds = models(
            path, name, None if engine == USUAL else engine, score)
        outs += [picture, summary(rows, seconds), rows[:SHOWN]]
    return outs


def build_page(models, backend=None, score_thr=0.3):
    """The page.

    Args:
        models (Models): What may be run.
        backend (str, optional): The one to start with. Defaults to None,
            what each model is for.
        score_thr (float): The score to start with.

    Returns:
        gradio.Blocks: To be launched by :func:`launch`.
    """
    import gradio as gr
    names = [*models.models]
    engines = [USUAL, *(e.name for e in ENGINES.values() if e.is_installed)]

    def run(path, score, *chosen):
        """Pictures, texts and tables of one or two models."""
        try:
            return answer(models, path, score, *chosen)
        except (CheckpointError, FileNotFoundError, ImportError,
                ValueError) as error:
            raise gr.Error(str(error), duration=None) from None

    with gr.Blocks(
            title='mmfasternet', analytics_enabled=False,
            delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown('# Detect objects')
        with gr.Row():
            with gr.Column(scale=1):
                image = gr.Image(
                    type='filepath', image_mode=None,
                    sources=['upload', 'webcam', 'clipboard'], label='Image',
                    height=320, elem_id='image')
                score = gr.Slider(
                    0, 1, score_thr, step=0.01, label='Lowest score',
                    elem_id='score')
            chosen, outs = [], []
            for side, value in (('first', names[0]),
                                ('second', names[1] if len(names) > 1
                                 else NONE)):
                with gr.Column(scale=2):
                    model = gr.Dropdown(
                        names + [NONE] * (side == 'second'), value=value,
                        label=f'{side.capitalize()} model',
                        elem_id=f'{side}-model')
                    engine = gr.Dropdown(
                        engines, value=backend or USUAL, label='Backend',
                        elem_id=f'{side}-backend')
                    chosen += [model, engine]
                    outs += [
                        gr.Image(format='jpeg', label='Boxes',
                                 interactive=False, buttons=['fullscreen'],
                                 elem_id=f'{side}-picture'),
                        gr.Textbox(label='Found', lines=2, elem_id=(
                            f'{side}-summary')),
                        gr.Dataframe(
                            headers=['class', 'score', 'x1', 'y1', 'x2',
                                     'y2'], label=f'The best {SHOWN} boxes',
                            interactive=False, elem_id=f'{side}-boxes')
                    ]
        gr.on([image.change, score.release, *(c.change for c in chosen)], run,
              [image, score, *chosen], outs, trigger_mode='always_last',
              api_name='detect')
    return page


class Guard:
    """ASGI middleware: no large bodies, nothing from other servers.

    Args:
        app: What it guards.
        max_bytes (int): Of the body of a request.
    """

    # the page carries its own scripts and styles
    POLICY = ("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
              "frame-ancestors 'self'; form-action 'self'")

    def __init__(self, app, max_bytes):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            return await self.app(scope, receive, send)
        headers = dict(scope['headers'])
        length = headers.get(b'content-length', b'0')
        if not length.isdigit() or int(length) > self.max_bytes or (
                b'transfer-encoding' in headers):
            await send(dict(
                type='http.response.start', status=413,
                headers=[(b'content-type', b'text/plain')]))
            return await send(dict(
                type='http.response.body',
                body=f'more than {self.max_bytes} bytes'.encode()))

        async def send_with_policy(message):
            if message['type'] == 'http.response.start':
                message['headers'] = [
                    *message['headers'],
                    (b'content-security-policy', self.POLICY.encode()),
                    (b'x-content-type-options', b'nosniff'),
                    (b'referrer-policy', b'no-referrer')
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def launch(page, server_name='127.0.0.1', server_port=7860, **options):
    """Serve the page, to nobody else than asked for.

    Args:
        page (gradio.Blocks): See :func:`build_page`.
        server_name (str): Address to listen on.
        server_port (int): Port to listen on.
        **options: Others of ``gradio.Blocks.launch``.
    """
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    local = server_name in ('127.0.0.1', 'localhost')
    # another site could otherwise give itself this address in a browser
    hosts = ['127.0.0.1', 'localhost'] if local else ['*']
    return page.queue(max_size=16, default_concurrency_limit=1).launch(
        server_name=server_name,
        server_port=server_port,
        # the system's: no fonts are fetched
        theme=gr.themes.Default(
            font=['system-ui', 'sans-serif'],
            font_mono=['ui-monospace', 'monospace']),
        app_kwargs=dict(middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            # the body of an upload is a little more than the file
            Middleware(Guard, max_bytes=MAX_BYTES + 2**16)
        ]),
        max_file_size=MAX_BYTES,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        **options)


def main():
    args = parse_args()
    # OSError: a missing file, or the port is taken
    with cli.clear_errors(CheckpointError, ImportError, OSError,
                      ValueError), tempfile.TemporaryDirectory() as folder:
        if not find_spec('gradio'):
            raise ImportError('the page needs gradio, which is not installed: '
                              'pip install gradio, or -e .[web]')
        # before gradio is imported: it tells nobody, and uploads go away
        os.environ.update(GRADIO_ANALYTICS_ENABLED='False',
                          HF_HUB_OFFLINE='1', GRADIO_TEMP_DIR=folder)
        specs = [(load_config(args.config, args.cfg_options), args.checkpoint),
                 *((load_config(c), file) for c, file in args.compare)]
        models = Models(specs, args.threads, args.device)
        for name, (_, file) in models.models.items():
            if '://' not in file and not os.path.isfile(file):
                raise FileNotFoundError(f'no such file: {file}')
            # a mistake is said here, and the page answers at once
            models.load(name, args.backend)
        launch(build_page(models, args.backend, args.score_thr),
               args.server_name, args.server_port)


if __name__ == '__main__':
    main()
