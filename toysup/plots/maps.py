"""Maps over a plane of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap

from toysup import stats
from toysup.checks import InputError, check_interval
from toysup.plots.frame import colour_bar, which


def _edges(centres: np.ndarray, log: bool) -> np.ndarray:
    """Cell borders half-way between centres (geometrically if `log`), the outermost cells symmetric."""
    at = np.log(centres) if log else centres
    if at.size == 1:
        edges = at + np.array([-0.5, 0.5])
    else:
        inner = (at[1:] + at[:-1]) / 2
        edges = np.concatenate([[2 * at[0] - inner[0]], inner, [2 * at[-1] - inner[-1]]])
    return np.exp(edges) if log else edges


def phase_map(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    *,
    colours: Mapping[Any, Any] | None = None,
    log: bool | str = True,
    bar: bool = True,
    **mesh: Any,
) -> Axes:
    """A heat map of `value` over the grid of `x` and `y`, each cell drawn around its own centre; log axes by default.

    Several rows in a cell show as their mean, or, for a category, as the commonest one (the first by name in a tie).

    Args:
        table: `x` and `y` positive where `log`. Cells without a row stay light grey.
        colours: category -> colour (`category_colours`), shared by the maps to be compared, with one
            `legend(ax, colours, below=True)`. Without it `value` is a number and the map gets its own colour bar.
        log: True: both axes; False: neither; "x" or "y": this one.
        bar: False for maps that share one `colour_bar`.
        mesh: to `Axes.pcolormesh`: cmap, vmin, vmax, norm.
    """
    stats.check_columns("phase_map", table, x, y, value)
    logs = which("phase_map", log)
    for name, its in zip((x, y), logs, strict=True):
        check_interval("phase_map", name, table[name].to_numpy(), 0 if its else -np.inf, open_low=its)
    values = table[value]
    if colours is not None:
        unknown = set(values) - set(colours)
        if unknown:
            raise InputError(f"phase_map: no colour for {sorted(map(str, unknown))}, only for {list(colours)}")
        values = values.map({name: i for i, name in enumerate(sorted(colours, key=str))})
        order = [colours[name] for name in sorted(colours, key=str)]
        mesh = {"cmap": ListedColormap(order), "vmin": -0.5, "vmax": len(order) - 0.5, **mesh}
    cells = values.astype(np.float64).groupby([table[y], table[x]])
    grid = (cells.mean() if colours is None else cells.agg(lambda rows: rows.mode().iloc[0])).unstack()
    axes = zip((grid.columns, grid.index), logs, strict=True)
    edges = (_edges(axis.to_numpy(dtype=np.float64), its) for axis, its in axes)
    ax.pcolormesh(*edges, np.ma.masked_invalid(grid.to_numpy()), **{"rasterized": True, **mesh})
    ax.set(
        xlabel=x, ylabel=y, facecolor="0.9", **{f"{a}scale": "log" for a, its in zip("xy", logs, strict=True) if its}
    )
    if colours is None and bar:
        colour_bar(ax, value)
    return ax


def boundaries(ax: Axes, cells: pd.DataFrame, *, log: bool | str = True) -> Axes:
    """Lines between neighbouring cells of different value, for a map whose index is y and whose columns are x.

    `log` as in `phase_map`: `boundaries(ax, table.pivot(index=y, columns=x, values=value))`.
    """
    values, axes = cells.to_numpy(), zip((cells.columns, cells.index), which("boundaries", log), strict=True)
    x, y = (_edges(axis.to_numpy(dtype=np.float64), its) for axis, its in axes)
    upright = [[(x[j + 1], y[i]), (x[j + 1], y[i + 1])] for i, j in np.argwhere(values[:, 1:] != values[:, :-1])]
    level = [[(x[j], y[i + 1]), (x[j + 1], y[i + 1])] for i, j in np.argwhere(values[1:] != values[:-1])]
    ax.add_collection(LineCollection(upright + level, colors="black", linewidths=1))
    return ax
