"""A figure and what stands around its data: titles, labels, ticks, legends, colour bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, is_color_like
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from toysup.checks import InputError
from toysup.plots.looks import GREY, room, shown, width_of, wrapped

CORNERS = {
    f"{up} {side}".strip(): (x, y)
    for up, y in (("upper", 0.97), ("center", 0.5), ("lower", 0.03))
    for side, x in (("left", 0.03), ("", 0.5), ("right", 0.97))
}


def style() -> AbstractContextManager[None]:
    """The look of every figure, as a context manager; `report.experiment` runs a script's `main` inside it."""
    import seaborn as sns  # which loads much; whoever draws nothing doesn't wait for it

    look = {**sns.axes_style("ticks"), **sns.plotting_context("notebook")}  # 10 inches shrunk to a README: 9 px letters
    look |= {"legend.frameon": False, "legend.fontsize": 10, "axes.spines.top": False, "axes.spines.right": False}
    return mpl.rc_context(look)


def figure(
    nrows: int = 1, ncols: int = 1, *, width: float = 10, height: float = 3.6, **share: Any
) -> tuple[Figure, np.ndarray]:
    """A figure `width` inches wide whose rows are `height` inches high, and its axes, always an array (nrows, ncols).

    `share` goes to `Figure.subplots`: sharex, sharey, width_ratios, subplot_kw={"projection": "3d"}...
    """
    drawing = Figure(figsize=(width, nrows * height), layout="constrained")
    return drawing, drawing.subplots(nrows, ncols, squeeze=False, **share)


def title(where: Figure | SubFigure | Axes, sentence: str, *, size: float | None = None) -> None:
    """The sentence above a figure, a subfigure or a panel, broken into lines that fit its width.

    `size` in points (default: 14, 12 above a subfigure or a panel) is the most: it shrinks where a single word is
    wider than the figure. Line breaks of its own and math between two $ are kept.
    """
    size = size or (14 if isinstance(where, Figure) else 12)
    width = room(where)[0] * (1.0 if isinstance(where, Axes) else 0.97)
    text = wrapped(sentence, size, width)
    if (needed := width_of(text, size)) > width:
        size *= width / needed
    write = where.set_title if isinstance(where, Axes) else where.suptitle
    write(text, fontsize=size)


def labels(axes: np.ndarray, x: str | None = None, y: str | None = None) -> None:
    """Labels of a grid of panels (row, column) that share their axes: x below the last row, y left of the first
    column. Labels at the other panels are taken away; None leaves that direction as it is."""
    for row, column in np.ndindex(axes.shape):
        if x is not None:
            axes[row, column].set_xlabel(x if row == axes.shape[0] - 1 else "")
        if y is not None:
            axes[row, column].set_ylabel(y if column == 0 else "")


def note(ax: Axes, text: str, where: str = "upper left", *, size: float = 9, color: Any = GREY) -> Axes:
    """A remark in a corner of the panel, inside: "upper left", "center", "lower right"..."""
    if where not in CORNERS:
        raise InputError(f"note: where must be one of {', '.join(CORNERS)}, got {where!r}")
    x, y = CORNERS[where]
    side = {0.03: "left", 0.5: "center", 0.97: "right"}[x]
    up = {0.03: "bottom", 0.5: "center", 0.97: "top"}[y]
    ax.text(x, y, text, transform=ax.transAxes, ha=side, va=up, fontsize=size, color=color)
    return ax


def which(word: str, log: Any) -> tuple[bool, bool]:
    """Whether x and whether y is logarithmic: True and False mean both; "x", "y", "xy", ("x",) mean what they say."""
    if isinstance(log, bool | np.bool_):
        return bool(log), bool(log)
    if isinstance(log, str | tuple | list | set) and all(axis in ("x", "y") for axis in log):
        return "x" in log, "y" in log
    raise InputError(f"{word}: log must be True, False, 'x', 'y' or 'xy', got {log!r:.40}")


Ticks = Sequence[float] | Sequence[str] | Mapping[float, Any] | np.ndarray


def ticks(
    ax: Axes, x: Ticks | None = None, y: Ticks | None = None, *, log: bool | str | None = None, turn: float = 0
) -> Axes:
    """Exactly these ticks, plainly labelled, and no minor ones; those out of view are not shown, nor is the view moved.

    Args:
        x, y: places, labelled as numbers (0.1, 2000); {place: label}; or texts, which stand at 0, 1, 2... None leaves
            that axis alone.
        log: the scale of the axes named here: True, False, or "x" or "y" for one of them (the other becomes linear);
            None leaves the scales as they are.
        turn: degrees by which the labels of x are turned, for long ones.
    """
    scales = (None, None) if log is None else which("ticks", log)
    for name, places, scale in (("x", x, scales[0]), ("y", y, scales[1])):
        if places is None:
            continue
        axis = ax.xaxis if name == "x" else ax.yaxis
        at, texts = _places(name, places)
        if scale is not None:
            ax.set(**{f"{name}scale": "log" if scale else "linear"})
        axis.set_major_locator(FixedLocator(at))
        axis.set_major_formatter(FixedFormatter(texts))
        axis.set_minor_locator(NullLocator())
        if name == "x" and turn:
            ax.tick_params(axis="x", labelrotation=turn)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    return ax


def _places(name: str, given: Any) -> tuple[list[float], list[str]]:
    if isinstance(given, str):
        raise InputError(f"ticks: {name} must be a list of places or texts, got the text {given!r:.40}")
    if isinstance(given, Mapping):
        places, texts = list(given), [str(text) for text in given.values()]
    else:
        places = list(given)
        if places and all(isinstance(place, str) for place in places):
            return [float(i) for i in range(len(places))], places
        texts = []
    try:
        at = [float(place) for place in places]
    except (TypeError, ValueError):
        raise InputError(f"ticks: {name} must be numbers, all texts, or number -> text, got {places!r:.60}") from None
    if not all(map(math.isfinite, at)):
        raise InputError(f"ticks: {name} must be finite, got {places!r:.60}")
    return at, texts or [_plain(place) for place in at]


def _plain(number: float) -> str:
    """0.001, 20000: without exponents where that can be read."""
    return f"{number:.12g}" if number == 0 or 1e-5 < abs(number) < 1e7 else f"{number:g}"


def legend(
    where: Figure | SubFigure | Axes,
    entries: Mapping[Any, Any] | None = None,
    *,
    title: str | None = None,
    ncols: int | None = None,
    loc: str = "best",
    size: float = 10,
    below: bool = False,
    only: bool = False,
) -> None:
    """One legend: of a figure, outside below its panels; of a panel, inside, or `below` it.

    It names everything that carries a label, each label once; a figure's legend gathers from all panels that have
    no legend of their own, so call it last.

    Args:
        entries: further entries, label -> a colour (a patch), {"marker": "s", "linestyle": ":", "color": ...} (a line;
            grey unless it says), or an artist.
        ncols: by default as many columns as fit below the figure, 1 inside a panel and at most 3 below it.
        loc: where in the panel.
        only: the entries alone.
    """
    panels = [where] if isinstance(where, Axes) else [ax for ax in where.axes if ax.get_legend() is None]
    handles: dict[str, Artist] = {}
    if not only:
        for ax in panels:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
    handles |= {shown(label): _handle(label, look) for label, look in (entries or {}).items()}
    if not handles:
        raise InputError("legend: nothing carries a label and no entries were given")
    names, options = list(handles), {"title": title, "fontsize": size, "frameon": False}
    if not isinstance(where, Axes):
        widest = max(width_of(name, size) for name in names) + 3.6 * size + 14  # the mark, and the space between
        fit = max(1, min(len(names), int(0.97 * room(where)[0] / widest)))
        ncols = ncols or math.ceil(len(names) / math.ceil(len(names) / fit))
        where.legend(handles.values(), names, loc="outside lower center", ncols=ncols, **options)
    elif below:
        under = size * (2.3 if where.get_xlabel() else 0.6) + 2 * size * (len(where.get_xticks()) > 0)
        shift = ScaledTranslation(0, -under / 72, where.figure.dpi_scale_trans)
        where.legend(handles.values(), names, loc="upper center", ncols=ncols or min(3, len(names)), **options,
                     bbox_to_anchor=(0.5, 0), bbox_transform=where.transAxes + shift, borderaxespad=0)  # fmt: skip
    else:
        where.legend(handles.values(), names, loc=loc, ncols=ncols or 1, **{**options, "frameon": True},
                     framealpha=0.8, edgecolor="none")  # fmt: skip


def _handle(label: Any, look: Any) -> Artist:
    if isinstance(look, Artist):
        return look
    if isinstance(look, Mapping):
        line = {"color": GREY, "linestyle": "none" if "marker" in look else "-", **look}
        return Line2D([], [], **line)
    if not is_color_like(look):
        raise InputError(f"legend: {label!r} needs a colour, the look of a line or an artist, got {look!r:.40}")
    return Patch(facecolor=look)


def colour_bar(
    axes: Axes | Iterable[Axes], label: str, *, cmap: Any = None, limits: tuple[float, float] = (0, 1), **bar: Any
) -> None:
    """One colour bar for these panels: of the first map, matrix or coloured bars in them, or of `cmap` over `limits`.

    `bar` goes to `Figure.colorbar`: location, shrink, ticks...
    """
    panels = [axes] if isinstance(axes, Axes) else list(np.ravel(np.array(axes, dtype=object)))
    if not panels:
        raise InputError("colour_bar: expected at least one panel, got none")
    scales = [ScalarMappable(Normalize(*limits), cmap)] if cmap is not None else [
        held for ax in panels for held in (*ax.collections, *ax.images) if held.get_array() is not None
    ]  # fmt: skip
    if not scales:
        raise InputError("colour_bar: these panels hold no map, matrix or coloured bars; give a cmap")
    panels[0].figure.colorbar(scales[0], ax=panels, label=label, **bar)
