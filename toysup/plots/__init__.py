"""The words that figures are made of: data + axes -> axes. They serve scripts and notebooks alike.

Nothing here changes its data, opens a window or touches global state, and every word works in and outside of
`style()`. Where a word takes intervals it takes a `stats.Interval`, a number (no interval), a sequence of these, or a
table with the columns value, low and high; a mapping gives places and intervals at once. Ends that are not finite are
not drawn as if they were; a value that is NaN is left out.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toysup.plots.boards import board, claims
from toysup.plots.frame import (
    colour_bar,
    figure,
    labels,
    legend,
    note,
    style,
    ticks,
    title,
)
from toysup.plots.intervals import band, bars, curve, curves, forest, interval
from toysup.plots.looks import GREY, MARKERS, category_colours
from toysup.plots.maps import boundaries, phase_map
from toysup.plots.networks import cylinders, directions, feature_bars, gram, neuron_stacks
from toysup.plots.references import level, null, reference, zone
from toysup.plots.tables import scatter, stack

__all__ = [
    "GREY",
    "MARKERS",
    "Axes",
    "Figure",
    "Patch",
    "band",
    "bars",
    "board",
    "boundaries",
    "category_colours",
    "claims",
    "colour_bar",
    "curve",
    "curves",
    "cylinders",
    "directions",
    "feature_bars",
    "figure",
    "forest",
    "gram",
    "interval",
    "labels",
    "legend",
    "level",
    "neuron_stacks",
    "note",
    "null",
    "phase_map",
    "reference",
    "scatter",
    "stack",
    "style",
    "ticks",
    "title",
    "zone",
]
