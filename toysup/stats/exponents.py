"""Capacity laws: how the recovered count grows with width and depth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from toysup.checks import InputError, check_interval
from toysup.stats.comparison import check_columns
from toysup.stats.intervals import UNDEFINED, Interval, expanded, percentiles, sample

CONTRASTS = {"a": (0, 1, 0), "b": (0, 0, 1), "a-2b": (0, 1, -2)}  # weights of (c, a, b)


def exponents(
    table: pd.DataFrame,
    *,
    count: str = "recovered",
    width: str = "width",
    depth: str = "depth",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Fit ln F = c + a ln d + b ln L to the cells (d, L) of a table with one row per instance.

    F is a cell's mean count; cells weigh the same. The interval is a two-level bootstrap: cells are drawn, then
    instances inside each drawn cell, so that it holds the misfit of the power law and the noise of training. It counts
    that noise twice, which errs on the wide side. Its level is Hesterberg's for (cells - 2) samples; below 6 cells,
    where it covers too little, the ends are infinite. At fixed parameters a shape of twice the width and a quarter of
    the depth holds 2^(a - 2b) times the features: a - 2b is -1 if neurons count, 0 if parameters, 1 if one layer's
    width.

    Args:
        table: columns `count` (>= 0), `width` (> 0) and `depth` (> 0; an effective depth need not be whole).

    Returns:
        {"a": ..., "b": ..., "a-2b": ...}; undefined where a cell recovered nothing, which has no logarithm.

    Raises:
        InputError: the cells' (ln d, ln L) lie on one line, as at a single budget, where a and b cannot be told apart.
    """
    check_columns("exponents", table, count, width, depth)
    for name in (width, depth):
        check_interval("exponents", name, table[name].to_numpy(), 0, open_low=True)
    cells = [(d, n, sample("exponents", g[count], 0)) for (d, n), g in table.groupby([width, depth])]
    logs = np.log([(d, n) for d, n, _ in cells]).reshape(-1, 2)  # cell 2
    design = np.column_stack(
        [np.ones(len(cells)), logs - logs.mean(0, keepdims=True)]
    )  # cell 3; centring moves c alone
    if len(cells) < 3 or np.linalg.matrix_rank(design, tol=1e-6) < 3:
        raise InputError(f"exponents: expected cells ({width}, {depth}) off one line, got {[c[:2] for c in cells[:4]]}")
    means = np.array([sample.mean() for *_, sample in cells])
    if (means == 0).any():
        return dict.fromkeys(CONTRASTS, UNDEFINED)
    fit = np.linalg.lstsq(design, np.log(means), rcond=None)[0]
    if len(cells) < 6:
        return {name: Interval(fit @ weights, -np.inf, np.inf) for name, weights in CONTRASTS.items()}

    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(cells), size=(resamples, len(cells)))
    y = np.empty(drawn.shape)  # resample cell
    for i, (*_, counts) in enumerate(cells):
        here = drawn == i
        y[here] = counts[rng.integers(counts.size, size=(here.sum(), counts.size))].mean(1)
    x = design[drawn]  # resample cell 3
    gram = x.transpose(0, 2, 1) @ x
    spread = np.linalg.eigvalsh(gram)
    told = (spread[:, 0] > 1e-6 * spread[:, -1]) & (y > 0).all(1)  # the drawn cells tell a from b, and have logarithms
    moments = x[told].transpose(0, 2, 1) @ np.log(y[told])[..., None]
    fits = np.linalg.solve(gram[told], moments)[..., 0]

    level = expanded(level, len(cells) - 2)
    found = {}
    for name, weights in CONTRASTS.items():
        value = float(fit @ weights)
        low, high = percentiles(fits @ weights, level)
        found[name] = Interval(value, min(low, value), max(high, value))
    return found
