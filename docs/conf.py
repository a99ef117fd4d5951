# SPDX-License-Identifier: Apache-2.0
"""The pages of both languages and the reference of the Python API.

pip install -e .[docs] && sphinx-build -W -c docs . work_dirs/docs
"""
from mmfasternet import __version__

project = 'mmfasternet'
copyright = 'the authors of mmfasternet'
release = __version__

# The folder above is the source: README and the pages of the configs link to
# each other as they do in the repository.
root_doc = 'docs/index'
include_patterns = [
    'docs/**', 'README*.md', 'CHANGELOG.md', 'CONTRIBUTING.md',
    'configs/*/README.md', 'examples/README.md'
]
exclude_patterns = ['.*', 'data', 'work_dirs', 'mmfasternet', 'tests']

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
myst_heading_anchors = 3
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
html_theme = 'furo'
html_title = 'mmfasternet'
