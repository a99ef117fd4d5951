# SPDX-License-Identifier: Apache-2.0
"""What the figures show, at places where right and wrong differ."""
import math

import cv2
import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mmfasternet.analysis.inspection.statistics import (
    LayerStatistics,
    PConvStatistics,
)
from mmfasternet.datasets.checks.report import Report, Summary
from mmfasternet.evaluation.detection_quality import (
    ImageResult,
    confusion_matrix,
    precision_curves,
)
from mmfasternet.visualization import comparison, datasets, network
from mmfasternet.visualization.detections import paint
from mmfasternet.visualization.evaluation import (
    plot_confusion,
    plot_images,
    plot_precision,
)
from mmfasternet.visualization.training import plot_results


def result(predicted, true, path=''):
    """Of rows (x1, y1, x2, y2, label, score) and (..., label, ignored)."""
    predicted = np.array(predicted, float).reshape(-1, 6)
    true = np.array(true, float).reshape(-1, 6)
    return ImageResult(
        str(path), predicted[:, :4], predicted[:, 4].astype(int),
        predicted[:, 5], true[:, :4], true[:, 4].astype(int),
        true[:, 5].astype(bool))


def pixel(figure: Figure, axes, x, y):
    """RGB from 0 to 1 of a place in data coordinates, as it is drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    column, row = axes.transData.transform((x, y))
    shown = np.asarray(canvas.buffer_rgba())
    return shown[shown.shape[0] - 1 - round(row), round(column), :3] / 255


def has_room(figure):
    """Whether what is drawn ends within the figure, by 2 pixels of 100."""
    figure.draw_without_rendering()
    left, below, right, above = figure.get_tightbbox().extents
    width, height = figure.get_size_inches()
    return min(left, below, width - right, height - above) > -.02


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist()
            for line in axes.lines}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def has_grid(axes):
    """Faintly, so that it hides nothing."""
    return all(line.get_visible() and line.get_alpha() < .5
               for axis in (axes.xaxis, axes.yaxis)
               for line in axis.get_gridlines())


# ------------------------------------------------------------- detections
def test_confusion_rows_are_true_and_columns_predicted():
    figure = plot_confusion(
        np.array([[3, 1, 0], [0, 0, 2], [5, 0, 0]]), ['cat', 'dog'], 'rule')
    axes = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): '3', (1, 0): '1', (2, 1): '2', (0, 2): '5'}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('predicted', 'true')
    for labels, last in ((axes.get_xticklabels(), 'missed'),
                         (axes.get_yticklabels(), 'false')):
        assert [t.get_text() for t in labels] == [
            'cat', 'dog', f'background\n({last})']
    # the darkest where all of a row are, white where there are none
    assert pixel(figure, axes, 2.3, 1.3).max() < 0.5
    assert pixel(figure, axes, 0.3, 1.3).min() > 0.95
    # light where it is a quarter of its row, and all of its column
    assert pixel(figure, axes, 1.3, 0.3).min() > 0.7
    assert {t.get_position(): t.get_color() for t in axes.texts} == {
        (0, 0): 'white', (1, 0): 'black', (2, 1): 'white', (0, 2): 'white'}
    assert has_room(figure)
    assert {t.get_fontsize() for t in axes.get_xticklabels()} == {10}


def test_precision_is_drawn_over_recall_with_its_mean():
    curves = np.linspace(1, 0, 101)[:, None] * [1, .5, -1]
    axes = plot_precision(curves, ['a', 'b', 'none']).axes[0]
    found = lines(axes)
    assert set(found) == {'a: 0.500', 'b: 0.250', 'mean: 0.375'}
    assert found['a: 0.500'][20] == pytest.approx([.2, .8])
    assert axes.get_title() == 'AP50 0.375, last validation'
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('recall', 'precision')
    assert axes.get_xlim() == (0, 1) and has_grid(axes)
    for line, color in zip(axes.lines, ('C0', 'C1', 'k')):
        assert to_rgb(line.get_color()) == pytest.approx(to_rgb(color))
    # one lets another be seen below it
    assert all(0 < line.get_alpha() < 1 for line in axes.lines[:2])
    # what counts is drawn twice as thick
    assert [line.get_linewidth() / axes.lines[0].get_linewidth()
            for line in axes.lines] == [1, 1, 2]


def test_true_boxes_stand_to_the_left_and_predicted_to_the_right(tmp_path):
    image = np.full((100, 200, 3), 255, np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    figure = plot_images(
        [result([(20, 20, 60, 80, 1, .9), (100, 20, 150, 80, 1, .29)],
                [(120, 20, 180, 80, 0, 0)], tmp_path / 'a.png')],
        ['cat', 'dog'], 0.3)
    left, right = figure.axes
    assert [text.get_text() for text in plot_images(
        [result([(20, 20, 60, 80, 1, .3)], [], tmp_path / 'a.png')],
        ['cat', 'dog'], 0.3).axes[1].texts] == ['dog 0.30']
    blue, orange = to_rgb('C0'), to_rgb('C1')  # a colour for each class
    assert pixel(figure, left, 120, 50) == pytest.approx(blue, abs=.05)
    assert pixel(figure, right, 20, 50) == pytest.approx(orange, abs=.05)
    for axes, x in ((left, 20), (right, 120), (right, 100)):
        assert pixel(figure, axes, x, 50) == pytest.approx((1, 1, 1))
    assert [t.get_text() for t in left.texts] == ['cat']
    assert [t.get_text() for t in right.texts] == ['dog 0.90']
    assert left.get_title() == 'a.png: truth'
    assert right.get_title() == 'score at least 0.3: F1 0.00, mean IoU 0.00'


def test_what_is_said_of_an_image_and_its_boxes(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((100, 200, 3), np.uint8))
    figure = plot_images(
        [result([(0, 30, 10, 70, 0, .9)],
                [(0, 30, 10, 80, 0, 0), (50, 2, 90, 40, 1, 1)],
                tmp_path / 'a.png')], ['cat', 'dog'], 0.3)
    left, right = figure.axes
    # the one that was found, of which four fifths are covered
    assert right.get_title().endswith(': F1 1.00, mean IoU 0.80')
    cat, dog = left.texts
    assert (cat.get_text(), dog.get_text()) == ('cat', 'dog (ignored)')
    assert all(text.get_fontsize() < rcParams['font.size']
               for axes in (left, right) for text in (*axes.texts, axes.title))
    # above its box, but not above the image
    assert (cat.get_va(), dog.get_va()) == ('bottom', 'top')
    assert cat.get_position() == (0, 30) and dog.get_position() == (50, 2)
    assert dog.get_bbox_patch().get_facecolor()[:3] == to_rgb('C1')
    # boxes count from the corner of the first pixel
    for axes in (left, right):
        assert axes.images[0].get_extent() == [0, 200, 100, 0]


def test_painted_boxes_have_the_colours_of_the_figures():
    """And nothing else of the picture changes, but for a caption below."""
    plain = np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8)
    before = plain.copy()
    mask = np.zeros((120, 90), bool)
    mask[100:, :9] = True
    painted = paint(plain, np.array([[20, 30, 60, 70], [0, 90, 90, 120]]),
                    [1, 0], ['dog 0.90', 'cat'],
                    [np.zeros_like(mask), mask], r'$a$_b.png')
    assert painted.dtype == np.uint8 and painted.shape == (146, 90, 3)
    assert (plain == before).all()
    for row, column, color in ((50, 20, 'C1'), (30, 50, 'C1'),
                               (105, 89, 'C0'), (119, 50, 'C0')):
        assert painted[row, column] / 255 == pytest.approx(
            to_rgb(color), abs=.01)
    same = (painted[:120] == plain).all(2)
    assert same[:15].all() and same[35:65, 25:55].all()
    half = 255 * np.array(to_rgb('C0'))
    assert painted[110, 5] == pytest.approx(
        .6 * plain[110, 5] + .4 * half, abs=1)
    assert (painted[120:] < 128).any() and (painted[-1] == 255).all()


def test_results_are_drawn_by_epoch_without_cocos_minus_one():
    names = ['epoch', 'images/s', 'lr', 'loss', 'loss_cls', 'coco/bbox_mAP']
    rows = [dict(zip(names, values.split())) for values in (
        '1 9 .1 3 2 -1', '2 9 .2 1 1 .5')]
    loss, metric, rate = plot_results(rows).axes
    assert lines(loss) == dict(
        loss=[[1, 3], [2, 1]], loss_cls=[[1, 2], [2, 1]])
    assert lines(metric) == {'coco/bbox_mAP': [[2, .5]]}
    assert lines(rate) == dict(lr=[[1, .1], [2, .2]])
    # the only point of a line is seen, too
    assert {line.get_marker() for line in metric.lines} == {'.'}
    assert [axes.get_title() for axes in (loss, metric, rate)] == [
        'training loss', 'validation', 'learning rate']
    assert all(map(has_grid, (loss, metric, rate)))
    # of what is alone its title says it
    assert [axes.get_legend() is None for axes in (loss, metric, rate)] == [
        False, True, True]


def test_results_of_a_run_by_iterations():
    names = ['epoch', 'iteration', 'lr', 'loss', 'coco/bbox_mAP_50']
    rows = [dict(zip(names, ['', *values.split()]))
            for values in ('500 .1 3 .2', '1000 .2 2 .4')]
    loss, metric, _ = plot_results(rows).axes
    assert loss.get_xlabel() == 'iteration'
    assert lines(loss)['loss'] == [[500, 3], [1000, 2]]
    assert lines(metric)['coco/bbox_mAP_50'] == [[500, .2], [1000, .4]]


def test_results_without_average_precision():
    """Time and memory are none of a validation, wherever they stand."""
    row = dict(lr='.1', epoch='1', iteration='9', seconds='3', memory='2',
               loss='4', **{'images/s': '5', 'accuracy/top1': '60'})
    _, metric, _ = plot_results([row]).axes
    assert lines(metric) == {'accuracy/top1': [[1, 60]]}


# ------------------------------------------------------------- data
def test_classes_and_sizes_of_a_data_set():
    report = Report(summaries=dict(
        train=Summary(9, 3, dict(cat=1, dog=2), np.array(
            [[8., 15], [8, 15], [8, 15]])),
        val=Summary(2, 4, dict(dog=4), np.array([[60., 20]]))))
    axes, = datasets.plot_classes(report).axes
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ['cat', 'dog'] and axes.yaxis_inverted()
    assert axes.get_xlabel() == 'boxes'
    assert legend(axes) == ['train: 3', 'val: 4']
    assert [int(y) for y in axes.get_yticks()] == [0, 1]
    assert {
        bars.get_label(): {names[int(bar.get_y())]: bar.get_width()
                           for bar in bars} for bars in axes.containers
    } == {'train: 3': dict(cat=1, dog=2), 'val: 4': dict(cat=0, dog=4)}
    figure = datasets.plot_box_sizes(report, [8, 32])
    assert has_room(figure)
    sizes, ratios = figure.axes
    assert legend(sizes) == legend(ratios) == ['train', 'val']
    # a ratio of 2 is as far from 1 as that of a half
    assert sizes.get_xscale() == sizes.get_yscale() == ratios.get_xscale() \
        == 'log'
    train, val = sizes.collections
    assert train.get_offsets().tolist() == 3 * [[8, 15]]
    assert val.get_offsets().tolist() == [[60, 20]]
    assert [line.get_xdata()[0] for line in sizes.lines[::2]] == [8, 32]
    assert [line.get_ydata()[0] for line in sizes.lines[1::2]] == [8, 32]
    # 8 / 15 lies between 2^-1 and 2^-0.75, 3 between 2^1.5 and 2^1.75
    for drawn, low, high, count in zip(
            ratios.patches, (-1, 1.5), (-.75, 1.75), (3, 1)):
        shown = drawn.get_xy()[drawn.get_xy()[:, 1] > 0]
        assert {*shown[:, 1]} == {count}
        assert np.log2([shown[:, 0].min(), shown[:, 0].max()]) == \
            pytest.approx([low, high])


def test_there_is_room_for_each_bar():
    """Of two splits twice as much as of one, below what all pictures have."""
    def height(**summaries):
        return datasets.plot_classes(Report(summaries={
            split: Summary(1, 3, dict.fromkeys('abcde', 1), np.ones((3, 2)))
            for split in summaries})).get_figheight()

    one = height(train=1)
    assert height(train=1, val=1) - one == pytest.approx(1)  # 5 bars
    assert height(train=1, val=1, test=1) - one == pytest.approx(2)


# ------------------------------------------------------------- comparison
def test_learning_curves_have_a_colour_for_each_detector():
    logs = dict(
        A=[[dict(epoch='1', loss='4'), dict(epoch='2', loss='2')],
           [dict(epoch='1', loss='3')]],
        B=[[{'epoch': '1', 'loss': '5', 'coco/bbox_mAP': '.7'}]])
    ap, loss = comparison.plot_learning(logs).axes
    assert [(line.get_color(), line.get_xydata().tolist())
            for line in loss.lines] == [
                ('C0', [[1, 4], [2, 2]]), ('C0', [[1, 3]]),
                ('C1', [[1, 5]])]
    assert [line.get_xydata().tolist() for line in ap.lines] == [[[1, .7]]]
    assert (ap.get_title(), loss.get_title()) == (
        'AP on val', 'training loss')
    assert legend(loss) == ['A', 'B'] and legend(ap) == ['B']
    for axes, scale in ((ap, 'linear'), (loss, 'log')):
        assert (axes.get_xlabel(), axes.get_yscale()) == ('epoch', scale)
        assert has_grid(axes)
    assert comparison.plot_learning(dict(A=[[]])) is None


def test_pareto_has_mean_and_range_of_the_seeds():
    figure = comparison.plot_pareto(
        dict(A=[.4, .5, .9], B=[.3]), {'onnxruntime fp32': dict(A=7.5)})
    axes, = figure.axes
    assert axes.get_title() == 'onnxruntime fp32' and has_grid(axes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('ms per image', 'AP')
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 7.5
    container, = axes.containers
    (point, _, (bar, )) = container.lines
    assert point.get_xydata().tolist() == [pytest.approx([7.5, .6])]
    low, high = bar.get_segments()[0]
    assert (low[1], high[1]) == pytest.approx((.4, .9))
    assert comparison.plot_pareto({}, {}) is None


def test_curves_are_those_of_each_class():
    found = [result([(0, 0, 10, 10, 0, .9)],
                    [(0, 0, 10, 10, 0, 0), (50, 0, 60, 10, 1, 0)])]
    first, second = comparison.plot_curves(
        dict(A=[found], B=[found, found]), ['cat', 'dog']).axes
    assert first.get_title() == 'cat'
    assert [line.get_color() for line in first.lines] == ['C0', 'C1', 'C1']
    assert legend(first) == ['A', 'B'] and has_grid(first)
    for axes in (first, second):
        assert (axes.get_xlabel(), axes.get_ylabel()) == (
            'recall', 'precision')
    assert first.lines[0].get_ydata() == pytest.approx(np.ones(101))
    assert second.lines[0].get_ydata() == pytest.approx(np.zeros(101))
    # four stand beside each other, all as large
    sizes = [comparison.plot_curves(dict(A=[found]), names).get_size_inches()
             for names in ('ab', 'abcd', 'abcdefgh')]
    for size, columns, rows in zip(sizes, (2, 4, 4), (1, 1, 2)):
        assert size / (columns, rows) == pytest.approx(sizes[0] / (2, 1))


def test_what_the_two_disagree_on_comes_first(tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for path in paths:
        cv2.imwrite(str(path), np.full((20, 20, 3), 255, np.uint8))
    true = [(0, 0, 10, 10, 0, 0)]
    right, wrong = [(0, 0, 10, 10, 0, .9)], [(10, 10, 19, 19, 0, .9)]
    figure = comparison.plot_disagreements(
        dict(A=[result(right, true, p) for p in paths],
             B=[result(found, true, p) for found, p in zip(
                 (right, wrong, right), paths)]), ['a'], 2)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ['1.png: truth', 'A: F1 1.00', 'B: F1 0.00']
    assert titles[4:] == ['A: F1 1.00', 'B: F1 1.00']
    assert [[(t.get_text(), t.get_position()) for t in axes.texts]
            for axes in figure.axes[:3]] == [
                [('a', (0, 0))], [('a 0.90', (0, 0))], [('a 0.90', (10, 10))]]


# ------------------------------------------------------------- networks
def heat(shown, row, column):
    """Redder (1) or bluer (-1): the colour map goes from blue to red."""
    red, _, blue = shown[row, column].astype(int)
    return np.sign(red - blue)


def test_features_and_cams_lie_over_their_place():
    picture = np.full((40, 80, 3), 128, np.uint8)
    maps = torch.zeros(2, 4, 8)
    maps[:, :2, 4:] = 1  # above, right
    cams = dict(a=maps[0].flip(0, 1))  # below, left
    for figure, corner in ((network.draw_features(picture, dict(a=maps)), 1),
                           (network.draw_features(picture, dict(a=maps),
                                                  cams), -1)):
        plain, over = figure.axes
        assert (plain.images[0].get_array() == 128).all()
        shown = np.asarray(over.images[0].get_array())
        assert heat(shown, 5, 75) == corner
        assert heat(shown, 35, 5) == -corner
        assert over.get_title() == 'a\n2x4x8' and has_room(figure)
        assert plain.title.get_fontsize() == over.title.get_fontsize()


def test_channels_have_the_shape_of_the_picture(tmp_path):
    """Five columns of those that sum up to most, 160 pixels high or wide."""
    maps = torch.zeros(30, 2, 4)
    maps[7, 0, 3] = 1  # above, right
    drawn = network.draw_channels(np.zeros((40, 80, 3), np.uint8), maps)
    height, width = drawn.shape[:2]
    assert min(height, width) >= 160
    assert width / height == pytest.approx(5 * 160 / (4 * 80), rel=.1)
    network.save(drawn, tmp_path / 'a.png')
    assert (cv2.imread(str(tmp_path / 'a.png'))[..., ::-1] == drawn).all()


def test_redundancy_shows_twins_beside_each_other():
    torch.manual_seed(0)
    maps = torch.randn(4, 6, 6)
    maps[2] = -3 * maps[0]
    r = torch.corrcoef(maps.flatten(1)).double()
    axes = network.draw_redundancy('x', maps, r).axes
    titles = [axis.get_title() for axis in axes]
    assert titles[0] in ('channel 0', 'channel 2') and titles[1] == 'r = -1.00'
    first, second = (np.asarray(axis.images[0].get_array())
                     for axis in axes[:2])
    assert {first.tobytes(), second.tobytes()} == {
        maps[0].numpy().tobytes(), maps[2].numpy().tobytes()}
    # of many six, each with the seven that are most alike
    maps = torch.randn(12, 3, 3)
    axes = network.draw_redundancy(
        'x', maps, torch.corrcoef(maps.flatten(1))).axes
    assert len(axes) == 6 * 8


def test_fields_have_squares_around_the_middle():
    field = torch.zeros(32, 64)
    field[14:18, 14:18] = 1
    figure = network.draw_fields(
        dict(a=field), dict(a=((15.5, 17), {.5: 2., .95: 4.})))
    axes, = figure.axes
    assert figure.get_figheight() < figure.get_figwidth()  # as the field
    squares = [(p.get_xy(), p.get_width()) for p in axes.patches]
    assert squares == [((16, 14.5), 2), ((15, 13.5), 4)]
    assert axes.get_title() == 'a\n50%: 2 px, 95%: 4 px'
    assert np.asarray(axes.images[0].get_array())[15, 15] == 0  # log10 of 1
    assert np.asarray(axes.images[0].get_array())[0, 0] == -4
    assert axes.images[0].get_clim() == (-4, 0)


def test_pconvs_and_layers_are_drawn_in_their_order():
    rows = [PConvStatistics(f'stages.{i}.spatial_mixing', 1, 3, *values)
            for i, values in enumerate([(1, 2, 3, .1, .2, .3),
                                        (4, 5, 6, .4, .5, .6)])]
    level, alike, share = network.draw_pconvs(rows).axes
    assert lines(level)['convolved, after'] == [[0, 2], [1, 5]]
    assert lines(alike)['convolved, before'] == [[0, .1], [1, .4]]
    assert [bar.get_height() for bar in share.patches] == [.3, .6]
    assert lines(share)['by their number'] == [[0, .25], [1, .25]]
    rows = [LayerStatistics('backbone.a', 'Conv2d', 0, 1, .5, 0, 0., math.nan),
            LayerStatistics('neck.b', 'Conv2d', 0, 2, 0, 0, 4., 8.)]
    std, dead, gradient, weight = network.draw_layers(rows).axes
    assert lines(std) == dict(backbone=[[0, 1]], neck=[[1, 2]])
    assert lines(dead) == dict(backbone=[[0, .5]], neck=[[1, 0]])
    assert weight.get_xlabel() == 'layer, in the order in which they run'
    for axes, room in ((alike, 0), (share, 0), (dead, .02)):
        assert axes.get_ylim() == pytest.approx((-room, 1 + room))
    panels = level, alike, share, std, dead, gradient, weight
    assert [axes.get_yscale() for axes in panels] == [
        'log', 'linear', 'linear', 'log', 'linear', 'log', 'log']
    assert all(map(has_grid, panels))
    assert legend(std) == ['backbone', 'neck'] and legend(level) == [
        'convolved, before', 'convolved, after', 'untouched']
    assert len({text.get_fontsize() for axes in (level, alike, share, std)
                for text in axes.get_legend().get_texts()}) == 1
    # what has vanished lies on the bottom of what is seen
    assert lines(gradient) == dict(backbone=[[0, 4e-9]], neck=[[1, 4]])
    assert lines(weight) == dict(backbone=[], neck=[[1, 8]])


# ------------------------------------------------------------- nothing
@pytest.mark.parametrize('found', [
    ([], []),
    ([], [(0, 0, 5, 5, 0, 0)]),
    ([(0, 0, 5, 5, 1, .9)], []),
    ([(0, 0, 5, 5, 0, .9)], [(0, 0, 5, 5, 0, 1)]),
], ids=['nothing', 'no prediction', 'no truth', 'only a crowd'])
@pytest.mark.parametrize('num_classes', [2, 90])
def test_figures_of_nothing(found, num_classes, tmp_path):
    names = [r'\$x\$', 'b'] + ['long name'] * (num_classes - 2)
    path = tmp_path / 'x.png'
    cv2.imwrite(str(path), np.zeros((30, 50, 3), np.uint8))
    results = [result(*found, path)]
    curves = precision_curves(results, num_classes)
    assert curves.max() <= 0
    matrix = confusion_matrix(results, num_classes, 0.3, 0.5)
    for figure in (plot_precision(curves, names),
                   plot_confusion(matrix, names, ''),
                   plot_images(results, names, 0.3)):
        figure.savefig(tmp_path / 'y.png')
        assert cv2.imread(str(tmp_path / 'y.png')) is not None
