# SPDX-License-Identifier: Apache-2.0
"""Names of classes in any script."""
import string
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmfasternet.visualization import fonts
from mmfasternet.visualization.detections import paint, show_picture
from mmfasternet.visualization.evaluation import plot_confusion

# U+9F98, four dragons: three squares one above the other here
RARE = '\u9f98'


@pytest.fixture
def fresh(monkeypatch):
    """Matplotlib's fonts as they are before the test."""
    for key in ('font.family', 'font.sans-serif'):
        monkeypatch.setitem(rcParams, key, list(rcParams[key]))
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [
        font for font in font_manager.fontManager.ttflist
        if font.name.startswith('DejaVu')])
    fonts._add_font.cache_clear()


def add_font(path, characters, weight=400):
    """A font file in which each of some characters is three bars."""
    pen = TTGlyphPen(None)
    for y in (0, 300, 600):
        pen.moveTo((100, y))
        for point in ((100, y + 200), (900, y + 200), (900, y)):
            pen.lineTo(point)
        pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(['.notdef', 'bars'])
    builder.setupCharacterMap({ord(c): 'bars' for c in characters})
    builder.setupGlyf({'.notdef': empty, 'bars': pen.glyph()})
    builder.setupHorizontalMetrics({'.notdef': (1000, 0), 'bars': (1000, 100)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable(dict(
        familyName='Four Dragons' if weight == 400 else 'Bold Dragons',
        styleName='Normal' if weight == 400 else 'Bold'))
    builder.setupOS2(usWeightClass=weight)
    builder.setupPost()
    builder.save(path)
    font_manager.fontManager.addfont(path)


def drawn(names):
    """A figure with names, and what Matplotlib says of glyphs."""
    figure = plot_confusion(np.eye(3, dtype=int), names, 'a rule')
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        canvas.draw()
    return figure, [str(w.message) for w in said if 'lyph' in str(w.message)]


def test_names_in_another_script_are_drawn_by_a_font_that_has_them(
        fresh, tmp_path):
    add_font(tmp_path / 'rare.ttf', RARE)
    figure, said = drawn([RARE, 'b'])
    assert said == []
    assert rcParams['font.family'][-1] == 'Four Dragons'
    # the label of the first column: three bars, so six changes down a column
    label = figure.axes[0].get_xticklabels()[0]
    label.set_rotation(0)
    label.set_fontsize(60)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = label.get_window_extent()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, 0]
    column = pixels[int(box.y0) - 5:int(box.y1) + 5,
                    int((box.x0 + box.x1) / 2)] < 128
    assert np.diff(column.astype(int)).tolist().count(1) == 3


def test_names_on_images_are_drawn_by_a_font_that_has_them(fresh, tmp_path):
    """Three white bars on the colour of the class."""
    add_font(tmp_path / 'rare.ttf', RARE)
    black = np.zeros((1600, 400, 3), np.uint8)  # the font is 23 pixels high
    picture = paint(black, [[50, 500, 350, 900]], [0], [RARE])
    column = picture[450:498, 60].min(axis=1) > 150
    assert np.diff(column.astype(int)).tolist().count(1) == 3


def test_a_font_for_reading_comes_before_a_bold_one(fresh, tmp_path):
    add_font(tmp_path / 'bold.ttf', RARE, 700)
    assert fonts.find_font(RARE) == 'Bold Dragons'  # if there is no other
    add_font(tmp_path / 'rare.ttf', RARE)
    assert fonts.find_font(RARE) == 'Four Dragons'


def test_the_name_of_a_file_is_drawn_by_a_font_that_has_it(fresh, tmp_path):
    add_font(tmp_path / 'rare.ttf', RARE)
    axes = Figure().subplots()
    show_picture(axes, np.zeros((8, 8, 3), np.uint8), f'{RARE}.png: truth')
    assert rcParams['font.family'][-1] == 'Four Dragons'


def test_a_font_that_has_letters_too_serves_mmengines_visualizer(
        fresh, tmp_path):
    """It asks for the first sans-serif, and draws squares for the rest."""
    add_font(tmp_path / 'all.ttf',
             RARE + string.ascii_letters + string.digits)
    fonts.use_fonts_for(['a', RARE])
    family = font_manager.FontProperties(family=['sans-serif'])
    assert font_manager.findfont(family) == str(tmp_path / 'all.ttf')


def test_where_no_font_has_them_it_is_said_once(fresh, monkeypatch):
    said = []
    monkeypatch.setattr(fonts, 'print_log', lambda text, *_: said.append(text))
    fonts.use_fonts_for(['a', RARE])
    fonts.use_fonts_for([RARE])
    assert len(said) == 1
    assert f'the characters {RARE}: ' in said[0]
    assert 'fonts-noto-cjk' in said[0]


def test_plain_names_change_nothing(fresh):
    before = list(rcParams['font.family'])
    fonts.use_fonts_for(['cat', 'Größe', 'а'])  # DejaVu has Cyrillic
    assert rcParams['font.family'] == before
