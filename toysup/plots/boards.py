"""Verdicts: as a board of rows and columns, and as a list of sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from toysup.checks import InputError
from toysup.plots.looks import room, width_of, wrapped
from toysup.stats import Verdict

FILL = {"supported": "#8fbfe0", "rejected": "#f2c078", "undecided": "#e4e4e4"}  # blue, orange, grey: told by anyone
SHORT = {"supported": "yes", "rejected": "no", "undecided": "?"}


def _checked(word: str, verdict: Any) -> str:
    if verdict not in get_args(Verdict):
        raise InputError(f"{word}: expected {', '.join(get_args(Verdict))}, got {verdict!r:.40}")
    return verdict


def board(ax: Axes, table: pd.DataFrame | Mapping[Any, Mapping[Any, Any]], *, size: float = 9) -> Axes:
    """Which statement (column) holds for what (row): yes, no or ?, the first row on top.

    `table` holds "supported", "rejected" or "undecided" (`stats.decide`), None or NaN where nothing was asked; as a
    mapping it is row -> {column: verdict}. Names of rows stand inside the panel, so that it can stand below others.
    """
    if not isinstance(table, pd.DataFrame):
        columns = list(dict.fromkeys(column for row in table.values() for column in row))
        table = pd.DataFrame([[row.get(column) for column in columns] for row in table.values()],
                             index=list(table), columns=columns, dtype=object)  # fmt: skip
    if table.empty:
        raise InputError("board: expected at least one row and one column, got none")
    names = [str(name) for name in table.index]
    width, aside = room(ax)[0], max(width_of(name, size) for name in names) + size
    aside = min(aside, 0.6 * width)
    cell = (width - aside) / table.shape[1]
    for row, column in np.ndindex(table.shape):
        verdict = table.iat[row, column]
        if verdict is None or verdict != verdict:
            continue
        fill = FILL[_checked("board", verdict)]
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=fill, edgecolor="white", linewidth=1.5))
        ax.text(column, row, SHORT[verdict], ha="center", va="center", fontsize=size)
    for row, name in enumerate(names):
        ax.annotate(name, (-0.5, row), (-size / 2, 0), textcoords="offset points", ha="right", va="center",
                    fontsize=size)  # fmt: skip
    longest = max(width_of("\n".join(str(name).split()), size) for name in table.columns)
    letters = size * min(1, max(0.65, 0.92 * cell / longest))  # a word that is wider than its column
    heads = [wrapped(str(name), letters, 0.92 * cell) for name in table.columns]
    ax.set_xticks(range(len(heads)), heads, fontsize=letters)
    ax.xaxis.tick_top()
    ax.set(xlim=(-0.5 - aside / cell, len(heads) - 0.5), ylim=(len(names) - 0.5, -0.5), yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def claims(ax: Axes, verdicts: Mapping[str, Any], *, size: float = 10) -> Axes:
    """A list of sentences with their verdicts at the right, wrapped to the panel's width; smaller letters where they
    would not fit its height. `verdicts` maps a sentence to "supported", "rejected" or "undecided"."""
    if not verdicts:
        raise InputError("claims: expected at least one sentence, got none")
    width, height = 0.95 * room(ax)[0], 0.95 * room(ax)[1]  # the layout may take a little from it
    for _ in range(20):
        chip = width_of("undecided", size) + 1.2 * size
        texts = [wrapped(sentence, size, width - chip - size) for sentence in verdicts]
        lines = [1 + text.count("\n") for text in texts]
        needed = size * (1.3 * sum(lines) + 0.8 * len(lines))
        if needed <= height or size < 6:
            break
        size *= 0.95
    top, left = 0.0, 1 - chip / width
    for text, count, verdict in zip(texts, lines, verdicts.values(), strict=True):
        share = size * (1.3 * count + 0.8) / max(needed, height)
        middle = 1 - top - share / 2
        tall = min(1.7 * size / height, 0.9 * share)
        ax.text(0, middle, text, ha="left", va="center", fontsize=size, linespacing=1.2)
        ax.add_patch(Rectangle((left, middle - tall / 2), 1 - left, tall, color=FILL[_checked("claims", verdict)]))
        ax.text((1 + left) / 2, middle, verdict, ha="center", va="center", fontsize=size)
        top += share
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()
    return ax
