"""Estimates with their intervals: points, curves, bars, forests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from toysup import stats
from toysup.checks import InputError
from toysup.plots.frame import ticks
from toysup.plots.looks import GREY, LINES, MARKERS, category_colours, chosen, room, shown
from toysup.plots.references import level, zone

ENDS = ["value", "low", "high"]


def ends_of(word: str, found: Any) -> np.ndarray:
    """(one, 3): value, low, high of an interval, a number, a sequence of these, or a table with these columns."""
    if isinstance(found, pd.DataFrame):
        stats.check_columns(word, found, *ENDS)
        return found[ENDS].to_numpy(dtype=np.float64)
    if isinstance(found, stats.Interval) or np.ndim(found) == 0:
        found = [found]
    rows = []
    for one in found:
        if isinstance(one, stats.Interval):
            rows.append((one.value, one.low, one.high))
            continue
        try:
            rows.append((float(one), np.nan, np.nan))
        except (TypeError, ValueError):
            raise InputError(f"{word}: expected stats.Intervals or numbers, got {type(one).__name__}") from None
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _pairs(word: str, ax: Axes, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places and intervals, from two arguments or from a mapping or a table with an index; texts become ticks."""
    if y is None:
        if isinstance(x, pd.DataFrame):
            x, y = x.index, x
        elif isinstance(x, Mapping | pd.Series):
            x, y = list(x.keys()), list(x.values() if isinstance(x, Mapping) else x)
        else:
            raise InputError(f"{word}: expected places and intervals, or a mapping place -> interval, got only one")
        if len(x) and all(isinstance(place, str) for place in x):
            ticks(ax, x=list(x))
            x = range(len(x))
    if isinstance(x, str) or (np.ndim(x) and len(x) and isinstance(next(iter(x)), str)):
        raise InputError(f"{word}: places must be numbers; give texts as a mapping text -> interval")
    across, up = ends_of(word, x), ends_of(word, y)
    if len(across) != len(up):
        raise InputError(f"{word}: expected as many places as intervals, got {len(across)} and {len(up)}")
    return across, up


def _reach(ends: np.ndarray) -> np.ndarray | None:
    """How far the finite ends lie below and above the values, (2, one), NaN where there is neither; None where there is
    none at all."""
    reach = np.stack([ends[:, 0] - ends[:, 1], ends[:, 2] - ends[:, 0]])
    finite = np.isfinite(reach)
    reach = np.where(finite, reach.clip(min=0), np.where(finite.any(0), 0.0, np.nan))  # a NaN takes both sides away
    return reach if finite.any() else None


def interval(
    ax: Axes,
    x: Any,
    y: Any = None,
    *,
    color: Any = None,
    label: Any = None,
    marker: str = "o",
    markersize: float = 5,
    linestyle: Any = "none",
    shift: float = 0.0,
    **look: Any,
) -> Axes:
    """Points with their intervals, each along its axis; an arrow where an end is infinite; NaN is left out.

    Args:
        x, y: places and intervals, one or as many of each. Either may be the intervals: `interval(ax, found, rows)`
            lies level, and where both are, a cross is drawn. Without `y`, `x` maps places, or texts, to intervals.
        linestyle: "-" joins the points.
        shift: added to x, so that series at the same places stand beside each other.
        look: to `Axes.errorbar`: capsize, markerfacecolor, alpha...
    """
    across, up = _pairs("interval", ax, x, y)
    across = across + shift
    known = np.isfinite(across[:, 0]) & np.isfinite(up[:, 0])
    across, up = across[known], up[known]
    drawn = ax.errorbar(across[:, 0], up[:, 0], xerr=_reach(across), yerr=_reach(up), color=color, marker=marker,
                        markersize=markersize, linestyle=linestyle, label=None if label is None else shown(label),
                        **{"capsize": 2, "elinewidth": 1.2, **look})  # fmt: skip
    arrows = (
        (across[:, 1] == -np.inf, (-8, 0), r"$\leftarrow$"), (across[:, 2] == np.inf, (8, 0), r"$\rightarrow$"),
        (up[:, 1] == -np.inf, (0, -8), r"$\downarrow$"), (up[:, 2] == np.inf, (0, 8), r"$\uparrow$"),
    )  # fmt: skip
    for open_end, (right, higher), arrow in arrows:
        if open_end.any():
            moved = ax.transData + ScaledTranslation(right / 72, higher / 72, ax.figure.dpi_scale_trans)
            ax.plot(across[open_end, 0], up[open_end, 0], linestyle="none", marker=arrow, markersize=8, transform=moved,
                    color=drawn.lines[0].get_color(), markeredgewidth=0)  # fmt: skip
    return ax


def curve(
    ax: Axes,
    x: Any,
    y: Any = None,
    *,
    color: Any = None,
    label: Any = None,
    marker: str = "o",
    markersize: float = 5,
    alpha: float = 0.2,
    **line: Any,
) -> Axes:
    """A marked line through the values in the band of their intervals, by rising x. No band where an end is infinite.

    Args:
        x, y: places and intervals (or numbers, which have no band), as many of each; or a mapping place -> interval.
        alpha: how dark the band is.
        line: to `Axes.plot`: linestyle, linewidth, zorder...
    """
    across, up = _pairs("curve", ax, x, y)
    order = np.argsort(across[:, 0], kind="stable")
    at, up = across[order, 0], np.where(np.isfinite(up[order]), up[order], np.nan)
    name = None if label is None else shown(label)
    (drawn,) = ax.plot(at, up[:, 0], color=color, marker=marker, markersize=markersize, label=name, **line)
    if np.isfinite(up).all(1).any():
        ax.fill_between(at, up[:, 1], up[:, 2], color=drawn.get_color(), alpha=alpha, linewidth=0)
    return ax


def curves(
    ax: Axes,
    groups: Mapping[Any, Mapping[Any, Any]],
    *,
    colours: Mapping[Any, Any] | None = None,
    markers: Mapping[Any, str] | None = None,
    **line: Any,
) -> Axes:
    """A labelled `curve` for each group, name -> {x: interval}, in a colour and with a marker of its own."""
    colours = chosen("curves", groups, colours, {} if colours else category_colours(groups))
    markers = chosen("curves", groups, markers, dict(zip(groups, MARKERS, strict=False)))
    for name, found in groups.items():
        curve(ax, found, color=colours[name], marker=markers[name], label=name, **line)
    return ax


def band(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    *,
    line: str | None = None,
    colours: Mapping[Any, Any] | None = None,
    lines: Mapping[Any, Any] | None = None,
    log: bool = False,
    level: float | None = 0.95,
    **look: Any,
) -> Axes:
    """The mean of `y` at each `x`, a marked line per value of `hue`, in the band of the t interval over rows (seeds).

    Rows without a finite `y` are left out; a single row has no band. `colours` maps values of `hue` to colours, in the
    order to draw (default: sorted, `category_colours`). `line` is a second column, told apart by line style; `lines`
    maps its values to styles. `log` makes the x axis logarithmic, ticked at powers of two. `level` None draws no band.
    `look` goes to `Axes.plot`: linestyle, marker, linewidth... The lines carry labels for `legend`.
    """
    stats.check_columns("band", table, x, y, *(name for name in (hue, line) if name))
    table = table[np.isfinite(table[y].to_numpy(dtype=np.float64))]
    groups = dict(iter(table.groupby(hue))) if hue else {y: table}
    kinds = list(dict.fromkeys(table[line])) if line else [None]
    dashes = chosen("band", kinds, lines, dict(zip(kinds, LINES, strict=False))) if line else {None: None}
    for i, (name, colour) in enumerate((colours or category_colours(groups)).items()):
        if name not in groups:
            continue
        named = False
        for kind in kinds:
            rows = groups[name] if line is None else groups[name][groups[name][line] == kind]
            means = {at: stats.mean(own, level or 0.95) for at, own in rows.groupby(x)[y]}
            if not means:
                continue
            own = {"linestyle": dashes[kind]} if line else {}
            curve(ax, means if level else {at: one.value for at, one in means.items()}, color=colour,
                  label=None if named else name, **{"marker": MARKERS[i % 10], **own, **look})  # fmt: skip
            named = True
    if line:
        for kind in kinds:
            ax.plot([], [], color=GREY, linestyle=dashes[kind], label=shown(kind))
    if log:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    ax.set(xlabel=x, ylabel=y)
    return ax


def bars(
    ax: Axes,
    groups: Iterable[Any],
    bars: Mapping[Any, Iterable[Any]],
    colours: Mapping[Any, Any] | None = None,
    *,
    turn: float = 0,
) -> Axes:
    """For each group a bar of every kind beside each other, with its interval; `bars` maps a kind to its intervals, one
    for each group, and `colours` to its colour. Infinite ends are not drawn. Kinds are labels for `legend`. Group names
    are turned by `turn` degrees. `forest(..., bars=True)` draws bars that lie level."""
    groups = [str(group) for group in groups]
    colours = chosen("bars", bars, colours, {} if colours else category_colours(bars))
    width = 0.8 / max(len(bars), 1)
    for number, (kind, found) in enumerate(bars.items()):
        ends = ends_of("bars", list(found) if not isinstance(found, pd.DataFrame) else found)
        if len(ends) != len(groups):
            raise InputError(f"bars: {kind!r} has {len(ends)} intervals, expected one for each of {len(groups)} groups")
        x = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * width
        reach = _reach(ends)
        ax.bar(x, ends[:, 0], width, yerr=None if reach is None else np.nan_to_num(reach), error_kw={"elinewidth": 1},
               color=colours[kind], label=shown(kind))  # fmt: skip
    ticks(ax, x=groups, turn=turn)
    return ax


def forest(
    ax: Axes,
    rows: Mapping[Any, Any] | pd.DataFrame,
    *,
    colours: Mapping[Any, Any] | None = None,
    markers: Mapping[Any, str] | None = None,
    levels: Mapping[str, float] | None = None,
    zones: Mapping[str, tuple[float, float]] | None = None,
    form: str | None = None,
    bars: bool = False,
) -> Axes:
    """Labelled rows, the first on top, each with its interval or with those of several series below each other.

    Args:
        rows: label -> interval, or label -> {series: interval}; or a table with value, low and high by row, or of
            intervals, row by series. Rows may lack a series; one without any number says "undefined".
        colours: by series, or by row where there is one series. markers: by series.
        levels: label -> value, upright dotted lines, and zones: label -> (low, high), shaded; named in a strip of their
            own above the rows. Put the scale on first: `ax.set_xscale("log")`.
        form: writes each value, "{:.2f}" or "{:.0%}", above its point, or at its right where rows hold several.
        bars: bars from 0 instead of points.
    """
    if isinstance(rows, pd.DataFrame):
        one_each = set(ENDS) <= set(rows.columns)
        rows = ({row: stats.Interval(*ends) for row, ends in zip(rows.index, ends_of("forest", rows), strict=True)}
                if one_each else rows.to_dict("index"))  # fmt: skip
    if not rows:
        raise InputError("forest: expected at least one row, got none")
    inside = [dict(own) if isinstance(own, Mapping) else {None: own} for own in rows.values()]
    series = list(dict.fromkeys(name for own in inside for name in own))
    by_row = series == [None]
    looks = category_colours([""] if by_row else series)
    if by_row:
        names = rows if colours else [None]
        looks = chosen("forest", names, colours, {None: looks.get("")})
    else:
        looks = chosen("forest", series, colours, looks)
    markers = chosen("forest", series, markers, dict(zip(series, MARKERS, strict=False)))
    step = min(0.22, 0.7 / len(series))
    for number, name in enumerate(series):
        offset, named = (number - (len(series) - 1) / 2) * step, by_row
        for row, (label, own) in enumerate(zip(rows, inside, strict=True)):
            ends = ends_of("forest", own.get(name, np.nan))
            if len(ends) != 1:
                raise InputError(f"forest: {label!r} needs one interval for a series, got {len(ends)}")
            value = ends[0, 0]
            if not np.isfinite(value):
                continue
            options = {"color": looks.get(label if by_row else name, looks.get(None)), "label": None if named else name}
            if bars:
                reach = _reach(ends)
                ax.barh(row + offset, value, 0.8 if by_row else step, color=options["color"], xerr=reach,
                        label=None if named else shown(name), error_kw={"elinewidth": 1})  # fmt: skip
            else:
                interval(ax, own[name], row + offset, marker=markers[name], **options)
            if form:
                far = ends[0, 2] if np.isfinite(ends[0, 2]) else value
                beside, space = bars or not by_row, 16 if ends[0, 2] == np.inf and not bars else 4
                at, offset_by = (far, (space, 0)) if beside else (value, (0, 5))
                ax.annotate(form.format(value), (at, row + offset), offset_by, textcoords="offset points", fontsize=9,
                            ha="left" if beside else "center", va="center" if beside else "bottom")  # fmt: skip
            named = True
    for row, own in enumerate(inside):
        if not any(np.isfinite(ends_of("forest", one)[0, 0]) for one in own.values()):
            ax.annotate(
                "undefined", (0.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=GREY
            )
        if row and len(series) > 1:
            ax.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    _above(ax, len(inside), levels or {}, zones or {})
    ticks(ax, y=[])
    ax.set_yticks(range(len(inside)), [str(label) for label in rows])
    ax.tick_params(axis="y", length=0)
    return ax


def _above(ax: Axes, rows: int, levels: Mapping[str, float], zones: Mapping[str, tuple[float, float]]) -> None:
    """The rows' vertical room, and above them a strip that names what the rows are held against."""
    for low, high in zones.values():
        zone(ax, low, high, upright=True)
    for value in levels.values():
        level(ax, value, upright=True)
    said: Sequence[str] = [*levels, *zones]
    lines = max((1 + name.count("\n") for name in said if name), default=0)
    share = min(0.5, (12 * lines + 6) / room(ax)[1]) if lines else 0.0
    ax.set_ylim(rows - 0.5, -0.5 - rows * share / (1 - share))
    log = ax.get_xscale() == "log"
    middles = {name: np.sqrt(a * b) if log and a > 0 else (a + b) / 2 for name, (a, b) in zones.items()}
    for name, x in {**levels, **middles}.items():
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the line ends below its name
        ax.annotate(name, (x, 1), (0, -2), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
                    va="top", fontsize=9, color=GREY, bbox=box)  # fmt: skip
