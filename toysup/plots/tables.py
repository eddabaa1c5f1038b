"""Tidy tables as they are: a dot for each row, and shares that add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from toysup import stats
from toysup.checks import InputError
from toysup.plots.intervals import interval
from toysup.plots.looks import GREY, MARKERS, category_colours, chosen, shown

PALE = 0.35  # of dots behind their means


def scatter(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    marker: str | None = None,
    *,
    colours: Mapping[Any, Any] | None = None,
    markers: Mapping[Any, str] | None = None,
    means: bool = False,
    markersize: float = 4,
    alpha: float = 0.6,
) -> Axes:
    """A dot for each row, coloured by `hue` and formed by `marker`; `means` adds each group's mean with its t intervals
    along both axes.

    Rows without finite x and y are left out. `colours` and `markers` map values to looks (default: by appearance).
    Both columns' values are labels for `legend`.
    """
    stats.check_columns("scatter", table, x, y, *(name for name in (hue, marker) if name))
    table = table[np.isfinite(table[[x, y]].to_numpy(dtype=np.float64)).all(1)]
    hues, forms = (list(dict.fromkeys(table[name])) if name else [None] for name in (hue, marker))
    colours = chosen(
        "scatter", hues, colours if hue else None, category_colours(hues) if colours is None else {None: "C0"}
    )
    markers = chosen("scatter", forms, markers if marker else None, dict(zip(forms, MARKERS, strict=False)))
    for one in hues:
        for form in forms:
            own = table
            for name, value in ((hue, one), (marker, form)):
                own = own if name is None else own[own[name] == value]
            if own.empty:
                continue
            look = {"color": colours[one], "marker": markers[form]}
            ax.plot(own[x], own[y], linestyle="none", markersize=markersize, markeredgewidth=0,
                    alpha=PALE * alpha if means else alpha, **look)  # fmt: skip
            if means:
                interval(ax, stats.mean(own[x]), stats.mean(own[y]), markersize=markersize + 3, zorder=3,
                         markeredgecolor="white", **look)  # fmt: skip
    for one in hues if hue else []:
        look = {"marker": "o"} if marker else {"marker": markers[None]}
        ax.plot([], [], linestyle="none", color=colours[one], label=shown(one), **look)
    for form in forms if marker else []:
        ax.plot([], [], linestyle="none", color=GREY, marker=markers[form], label=shown(form))
    ax.set(xlabel=x, ylabel=y)
    return ax


def stack(ax: Axes, table: pd.DataFrame, colours: Mapping[Any, Any] | None = None, *, bars: bool = False) -> Axes:
    """Shares on top of each other, the first column at the bottom: areas over the index, or a bar for each row.

    `table` holds a share for each row (place, or name if `bars`) and column (category), which should add up to 1;
    `colours` maps columns to colours and gives the order. Columns are labels for `legend`.
    """
    colours = chosen("stack", table.columns if colours is None else colours, colours,
                     category_colours(table.columns) if colours is None else {})  # fmt: skip
    stats.check_columns("stack", table, *colours)
    if table.empty:
        raise InputError("stack: expected at least one row, got none")
    if not bars:
        table = table.sort_index()
        ax.stackplot(table.index, table[list(colours)].to_numpy(dtype=np.float64).T, colors=list(colours.values()),
                     labels=[shown(name) for name in colours], linewidth=0)  # fmt: skip
    bottom = np.zeros(len(table))
    for name, colour in colours.items() if bars else ():
        heights = table[name].to_numpy(dtype=np.float64)
        ax.bar(range(len(table)), heights, 0.7, bottom=bottom, color=colour, label=shown(name))
        bottom += heights
    if bars:
        ax.set_xticks(
            range(len(table)), [f"{name:g}" if isinstance(name, float) else str(name) for name in table.index]
        )
    ax.set(ylim=(0, 1))
    return ax
