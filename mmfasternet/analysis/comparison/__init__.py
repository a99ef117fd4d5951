# SPDX-License-Identifier: Apache-2.0
"""Detectors against each other: one recipe, several seeds, a report."""
