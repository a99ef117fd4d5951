# SPDX-License-Identifier: Apache-2.0
"""What the tools share: numbers, ranks, messages, folders."""
import ast
import errno
import io
import runpy
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader

from mmfasternet import cli


@pytest.mark.parametrize('kind, right, wrong', [
    (cli.positive_int, {'1': 1, '2147483647': 2**31 - 1},
     ('0', '2147483648', '1.0')),
    (cli.seed, {'0': 0, '2147483647': 2**31 - 1}, ('-1', '2147483648', 'x')),
    (cli.share, {'0': 0, '1': 1, '.5': .5}, ('-0.01', '1.01', 'nan', 'x')),
])
def test_the_ends_of_what_a_number_may_be(kind, right, wrong):
    assert {text: kind(text) for text in right} == right
    for text in wrong:
        with pytest.raises(ArgumentTypeError, match=f"'{text}' is "):
            kind(text)


def test_a_name_of_a_file_that_is_no_text_can_be_printed(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), 'utf-8'))
    runpy.run_path(cli.__file__)
    print('a\udcff.png', flush=True)
    assert sys.stdout.buffer.getvalue() == b'a\\udcff.png\n'


def test_the_rank_that_a_launcher_sets_counts(monkeypatch, capsys):
    """Or else the one that it passes; the first of a machine speaks."""
    parser = ArgumentParser()
    cli.add_launcher(parser)
    for given, words, rank in (
            (None, [], '0'), (None, ['--local_rank=1'], '1'),
            (None, ['--local-rank=2'], '2'), ('3', ['--local-rank=1'], '3')):
        with monkeypatch.context() as patch:
            patch.delenv('LOCAL_RANK', raising=False)
            cli.say('alone')
            if given:
                patch.setenv('LOCAL_RANK', given)
            cli.set_local_rank(parser.parse_args(words))
            assert cli.os.environ['LOCAL_RANK'] == rank
            cli.say('here')
        assert capsys.readouterr().out == 'alone\n' + 'here\n' * (rank == '0')


@pytest.mark.parametrize('number, is_full', [
    (errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, True),
    (errno.EACCES, False)])
def test_a_full_disk_is_one_message(number, is_full):
    error = OSError(number, 'what the system says')
    with pytest.raises(SystemExit if is_full else OSError) as end, \
            cli.clear_disk_errors('work_dirs/a'):
        raise error
    if is_full:
        assert str(end.value).startswith(
            'error: cannot write to work_dirs/a: what the system says. ')
    else:
        assert end.value is error


@pytest.mark.parametrize('error, said', [
    (KeyError('no model'), 'error: no model'),  # its text is in quotes
    (ValueError('x must be 1'), 'error: x must be 1'), (TypeError('a'), None),
    (FileNotFoundError('no a'), 'error: no a'),
    (FileExistsError(errno.EEXIST, 'File exists', 'a'),
     'error: a cannot be read or written: File exists'),
    (IsADirectoryError(errno.EISDIR, 'Is a directory', '.a.part', None, 'a'),
     'error: a cannot be read or written: Is a directory')])
def test_a_mistake_is_its_words(error, said):
    with pytest.raises(SystemExit if said else TypeError) as end, \
            cli.clear_errors(KeyError, OSError, ValueError):
        raise error
    assert str(end.value) == (said or 'a')


@pytest.mark.parametrize('option', [
    dict(persistent_workers=True), dict(prefetch_factor=2)])
def test_options_of_workers_without_workers_name_the_knob(option):
    with pytest.raises(SystemExit, match='^error: a data loader has '
                       f'{next(iter(option))}, .* train_num_workers or'), \
            cli.clear_data_errors():
        DataLoader([0], num_workers=0, **option)


@pytest.mark.parametrize('typed, value', [
    ('/my data/x y.pth', '/my data/x y.pth'),
    ('/my (old) data/[1] x', '/my (old) data/[1] x'),
    ('/a  b/', '/a  b/'), (' a b ', 'a b'), ('"a b"', 'a b'),
    ('a=b c', 'a=b c'),
    ('[traffic light,person]', ['traffic light', 'person']),
    ('traffic light, stop sign', ['traffic light', 'stop sign']),
    ("('traffic light', 'person')", ('traffic light', 'person')),
    ('[(1, 2), (3, 4)]', [(1, 2), (3, 4)]), ('[ 64 , 64 ]', [64, 64]),
    ('(0.5, None, True)', (0.5, None, True)), ('1e-3', 1e-3),
    ('0 5', '0 5'),
])
def test_spaces_within_a_value_are_kept(typed, value):
    parser = ArgumentParser()
    cli.add_cfg_options(parser)
    assert parser.parse_args(['--cfg-options', f'x={typed}', 'y=1']
                             ).cfg_options == dict(x=value, y=1)


def test_the_error_of_a_loader_is_its_last_line():
    """A worker of it repeats the program that failed, and then says why."""
    words = 'f"failed to load image: {name}"\nOSError: failed to load ' \
        'image: b.png\n'
    with pytest.raises(SystemExit, match='error: b.png cannot be read as an'
                       ), cli.clear_data_errors():
        raise ValueError(words)
    with pytest.raises(ValueError, match='^of another kind$'), \
            cli.clear_data_errors():
        raise ValueError('of another kind')


def test_every_argument_says_what_it_is():
    for path in (Path(cli.__file__), *Path('tools').rglob('*.py'),
                 *Path('demo').glob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and \
                    getattr(node.func, 'attr', None) == 'add_argument':
                words = {word.arg for word in node.keywords}
                assert 'help' in words, (path, node.lineno)


def test_what_is_left_out_has_its_default():
    parser = ArgumentParser()
    for add in (cli.add_engine, cli.add_device, cli.add_score_thr,
                cli.add_batch_size, cli.add_checkpoint):
        add(parser)
    assert vars(parser.parse_args(['a.py', 'a.pth'])) == dict(
        config='a.py', checkpoint='a.pth', backend=None, precision='fp32',
        threads=None, device='cpu', score_thr=.3, batch_size=1)
    words = ['a.py', 'a.pth', '--threads', '1', '--batch-size', '7']
    args = parser.parse_args([*words, '--score-thr', '.5'])
    assert (args.threads, args.batch_size, args.score_thr) == (1, 7, .5)
    for wrong in (['--score-thr', '1.5'], ['--batch-size', '0'],
                  ['--threads', '0'], ['--precision', 'fp1']):
        with pytest.raises(SystemExit):
            parser.parse_args([*words, *wrong])


def test_what_a_tool_may_leave_out():
    def options_of(add, **options):
        parser = ArgumentParser()
        add(parser, **options)
        return {action.dest: action for action in parser._actions}

    whole, files = (options_of(cli.add_engine, exported_only=only)
                    for only in (False, True))
    assert {*whole['backend'].choices} - {*files['backend'].choices} == {
        'pytorch'}
    # that of which no exported file is
    assert {*whole['precision'].choices} >= {*files['precision'].choices}
    assert 'threads' in files
    assert 'threads' not in options_of(cli.add_engine, threads=False)
    parser = ArgumentParser()
    cli.add_checkpoint(parser, optional=True)
    assert parser.parse_args(['a.py']).checkpoint is None
    for exported in (True, False):
        said = options_of(cli.add_checkpoint, exported=exported)[
            'checkpoint'].help
        assert ('.onnx' in said) == exported


def test_what_a_tool_does_is_said_in_its_own_lines():
    said = cli.tool_parser('One thing,\n    and another.').format_help()
    assert '\n\nOne thing,\n    and another.\n\n' in said


def test_a_folder_may_be_there_but_not_a_file_of_its_name(tmp_path):
    for _ in range(2):
        cli.make_folder(tmp_path / 'a/b')
    assert (tmp_path / 'a/b').is_dir()
    (tmp_path / 'c').touch()
    with pytest.raises(ValueError, match='c: File exists. Choose another'):
        cli.make_folder(tmp_path / 'c')
    if Path('/proc/self').is_dir():  # is there, but for the system alone
        with pytest.raises(ValueError, match='cannot write into /proc/self: '):
            cli.make_folder(Path('/proc/self'))
    assert not [*(tmp_path / 'a/b').iterdir()]


def test_what_was_skipped_is_counted(capsys):
    def read(name):
        if name.startswith('bad'):
            raise ValueError(f'{name} is no image')
        return name.upper()

    skipped = cli.Skipped()
    assert [*skipped.readable(['a', 'bad1', 'b', 'bad2'], read)] == [
        ('a', 'A'), ('b', 'B')]
    assert skipped == ['bad1', 'bad2']
    assert capsys.readouterr().err == (
        'skipped: bad1 is no image\nskipped: bad2 is no image\n')
    with pytest.raises(SystemExit, match='^error: 2 of 4 images were skip'):
        skipped.end(4)
    # the reason is all there is to say
    with pytest.raises(SystemExit, match='^error: bad2 is no image; 2 of 2 '):
        skipped.end(2)
    cli.Skipped().end(0)


def test_a_link_to_a_source_is_not_written_over(tmp_path):
    source, link = tmp_path / 'a.pth', tmp_path / 'b.pth'
    source.touch()
    link.symlink_to(source)
    with pytest.raises(ValueError, match='b.pth would be written over'):
        cli.require_output(str(link), 'c.pth', str(source))
    cli.require_output(str(tmp_path / 'e/d.pth'), str(source))
    with pytest.raises(ValueError, match='cannot write into .*a.pth: File ex'):
        cli.require_output(str(source / 'd.pth'))


@pytest.mark.parametrize('typed, given, expected', [
    ('a', 'b', 'a'), (None, 'b', 'b'), (None, None, './work_dirs/mine')])
def test_which_work_dir_counts(typed, given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config(dict(work_dir=given) if given else {})
    cli.set_work_dir(cfg, Namespace(work_dir=typed, config='my/mine.py'))
    assert cfg.work_dir == expected
    assert (tmp_path / expected).is_dir()
