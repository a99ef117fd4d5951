# SPDX-License-Identifier: Apache-2.0
"""Seeing inside a network: ``tools/analysis_tools/vis_network.py`` and
``layer_stats.py``.

``network`` runs one and keeps its maps, ``statistics`` measures these, and
``level_shares`` says which level of a detector finds what.
"""
