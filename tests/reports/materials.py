"""Sweeps with known answers as their reports show them."""

from __future__ import annotations

from exhibits.materials import material

from ganatomy.reports.record import compose
from ganatomy.writers.page import to_html


def page_of(results, **more):
    """The page of these trials."""
    return to_html(compose(material(results, **more)))
