# SPDX-License-Identifier: Apache-2.0
"""Every measured figure has one source, docs/results."""
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

DOCS = Path('docs')
RESULTS = {path.stem: yaml.safe_load(path.read_text(encoding='utf-8'))
           for path in sorted((DOCS / 'results').glob('*.yml'))}
PAGES = [name for name in RESULTS if (DOCS / f'en/{name}.md').is_file()]
READMES = ('README.md', 'README_zh-CN.md')
NUMBER = re.compile(r'[-+]?\d+(?:\.\d+)?')


def numbers(cells):
    text = ' '.join(re.sub(r'\]\([^)]*\)', ']', str(cell)) for cell in cells)
    return NUMBER.findall(text.replace('*', '').replace(',', ' '))


def is_measured(rows):
    """Whether a table has decimals beside its first column."""
    return any('.' in number for row in rows for number in numbers(row[1:]))


def tables(text):
    """Rows of the measured tables of a page, without their heads."""
    text = re.sub(r'```.*?```', '', text, flags=re.S)
    for block in re.findall(r'(?:^\|.*\n)+', text, flags=re.M):
        rows = [re.split(r'(?<!\\)\|', line)[1:-1]
                for line in block.splitlines()][2:]
        if is_measured(rows):
            yield rows


def decimals(path):
    """How often each decimal stands in a page."""
    text = re.sub(r'\]\([^)]*\)|```.*?```', '', path.read_text('utf-8'),
                  flags=re.S)
    return Counter(n.lstrip('+-') for n in NUMBER.findall(text) if '.' in n)


@pytest.mark.parametrize('language', ['en', 'zh_cn'])
@pytest.mark.parametrize('name', PAGES)
def test_the_tables_of_a_page_are_those_of_its_results(name, language):
    text = (DOCS / language / f'{name}.md').read_text('utf-8')
    found = list(tables(text))
    assert len(found) == len(RESULTS[name])
    for rows, table in zip(found, RESULTS[name]):
        for row, expected in zip(rows, table['rows'], strict=True):
            # what stands first may be translated
            assert numbers(row[1:]) == numbers(expected[1:]), (
                table['section'], expected[0])


@pytest.mark.parametrize('name', PAGES)
def test_both_languages_name_the_same_figures(name):
    english, chinese = (decimals(DOCS / language / f'{name}.md')
                        for language in ('en', 'zh_cn'))
    assert set(english) == set(chinese)


@pytest.mark.parametrize('readme', READMES)
def test_the_tables_of_the_readme_are_from_the_results(readme):
    known = {number for results in RESULTS.values() for table in results
             for row in table['rows'] for number in numbers(row)}
    found = list(tables(Path(readme).read_text('utf-8')))
    assert found
    for rows in found:
        for row in rows:
            assert set(numbers(row[1:])) <= known, row


def test_a_changed_figure_is_noticed():
    """The check itself: of a page with one digit changed."""
    text = (DOCS / 'en/training_speed.md').read_text('utf-8')
    rows = RESULTS['training_speed'][0]['rows']
    right, wrong = (next(tables(t)) for t in (
        text, text.replace('| 17.3 |', '| 17.4 |', 1)))
    assert [numbers(r[1:]) for r in right] == [numbers(r[1:]) for r in rows]
    assert [numbers(r[1:]) for r in wrong] != [numbers(r[1:]) for r in rows]
