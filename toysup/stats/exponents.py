"""Capacity laws: how the recovered count grows with width and depth, and which named law that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_kind, check_resampling, in_line, listed, numbers_in
from toysup.stats.comparison import check_columns
from toysup.stats.intervals import UNDEFINED, Interval, Verdict, expanded, mean, percentiles, sample

HYPOTHESES = {  # (a, b, power of ln N)
    "neurons": (1, 1, 0),
    "width": (1, 0, 0),
    "parameters": (2, 1, 0),
    "width squared": (2, 0, 0),
    "parameters / log": (2, 1, -1),
}
DECISIVE = 10.0  # AICc by which one law beats another: "essentially no support" (Burnham & Anderson 2002, section 2.6)
ROUNDING = 1e-12  # ln F; residuals below it are arithmetic


@dataclass(frozen=True)
class ExponentFit:
    """Exponents of ln F = c + a ln d + b ln L, and the named laws side by side. Made by `fit_exponents`.

    At fixed parameters a shape of twice the width and a quarter of the depth holds 2^(a - 2b) times the features:
    a - 2b is -1 if neurons count, 0 if parameters, 1 if one layer's width, 2 if its square.

    `laws`: indexed by name ("neurons", "width", "parameters", "width squared", "parameters / log", "free"): `a`, `b`,
    `fitted` (numbers fitted, the residual variance among them), `scale` (residual standard deviation, ln F), `aicc`,
    `delta` (aicc above the lowest), `held_out` (root mean square error in ln F of the cells of the largest budgets, by
    a fit without them) and `held_out_bias` (their mean error: measured less predicted).
    `held_out`: one row per law and held-out cell: measured and predicted ln F, and the difference.
    """

    a: Interval
    b: Interval
    a_minus_2b: Interval
    others: dict[str, Interval]
    laws: pd.DataFrame = field(repr=False)
    held_out: pd.DataFrame = field(repr=False)

    @property
    def nearest(self) -> str:
        """The named law with the lowest AICc ("free" is none); "" where none is defined."""
        named = self.laws.loc[list(HYPOTHESES), "aicc"].dropna()
        return str(named.idxmin()) if len(named) else ""

    def beats(self, law: str, rival: str) -> bool:
        """Whether `law` is decided against `rival`: its AICc is lower by more than 10, and the interval of a - 2b
        excludes the rival's value ("free" has none: for it the AICc decides). Laws of one a - 2b never beat each
        other, nor do any where the fit is undefined."""
        for name in (law, rival):
            if not isinstance(name, str) or name not in self.laws.index:
                raise InputError(f"beats: no law {in_line(name)}, only {', '.join(self.laws.index)}")
        value = {name: a - 2 * b for name, (a, b, _) in HYPOTHESES.items()}
        better = self.laws["aicc"][rival] - self.laws["aicc"][law] > DECISIVE
        if not better or value.get(law) == value.get(rival):
            return False
        return rival == "free" or self.a_minus_2b.excludes(value[rival])

    def decided(self) -> dict[str, Verdict]:
        """The verdict on each named law.

        "rejected" if another, or the free fit, beats it. "supported" if it beats every law of another a - 2b, and the
        interval of a - 2b holds its own value. Else "undecided": so is the nearest law where it beats its rivals but
        the exponents differ from it.
        """
        found: dict[str, Verdict] = {}
        for name, (a, b, _) in HYPOTHESES.items():
            rivals = [other for other, (p, q, _) in HYPOTHESES.items() if p - 2 * q != a - 2 * b]
            if any(self.beats(other, name) for other in [*rivals, "free"]):
                found[name] = "rejected"
            elif all(self.beats(name, other) for other in rivals) and not self.a_minus_2b.excludes(a - 2 * b):
                found[name] = "supported"
            else:
                found[name] = "undecided"
        return found


class _Cells(NamedTuple):
    """What the cells say: a row per cell."""

    keys: pd.DataFrame
    counts: list[np.ndarray]
    logs: np.ndarray  # cell 2: ln d, ln L
    design: np.ndarray  # cell number: 1, ln d, ln L, others; centred, which moves c alone
    budget: np.ndarray


def fit_exponents(
    table: pd.DataFrame,
    *,
    count: str = "recovered",
    width: str = "width",
    depth: str = "depth",
    budget: str = "budget",
    others: Sequence[str] = (),
    hold_out: float = 1.5,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ExponentFit:
    """Fit ln F = c + a ln d + b ln L (+ e x + ...) to the cells of a table with one row per instance.

    F is a cell's mean count; cells weigh the same. The intervals are a two-level bootstrap: cells are drawn, then
    instances inside each drawn cell, so that they hold the misfit of the power law and the noise of training. It counts
    that noise twice, which errs on the wide side. Its level is Hesterberg's for (cells - 2) samples, less one for each
    of `others`; below 6 cells (likewise more), where it covers too little, the ends are infinite and no AICc is given.

    The named laws fix a and b and fit c, the exponents of `others` and the residual variance; "free" fits a and b too.
    AICc (Hurvich & Tsai 1989, Biometrika 76:297) is that of normal residuals in ln F: n ln(RSS / n) + 2k + 2k(k+1) /
    (n-k-1) for n cells and k numbers fitted.

    Args:
        table: columns `count` (>= 0), `width` (> 0), `depth` (> 0; an effective depth need not be whole) and `budget`
            (parameters, > 1). A cell is the rows that agree in all of these but the count.
        others: columns of further regressors, taken as they are, such as ln(h / d) or ln p: constant in each cell.
        hold_out: cells with more than the largest budget divided by this are predicted from the rest.

    Returns:
        The fit. Undefined (NaN, infinite ends) where a cell recovered nothing, which has no logarithm.

    Raises:
        InputError: the cells' (ln d, ln L, others) cannot tell the exponents apart, as at a single budget.
    """
    where = "fit_exponents"
    others = listed(where, "others", others, "columns")
    check_columns(where, table, count, width, depth, budget, *others)
    for name, least in ((width, 0), (depth, 0), (budget, 1)):
        check_interval(where, name, numbers_in(where, name, table[name]), least, open_low=True)
    for name in others:
        check_interval(where, name, numbers_in(where, name, table[name]))
    check_interval(where, "hold_out", hold_out, 1, open_low=True, one=True)
    check_resampling(where, level, resamples, seed)
    cells = _cells(table, count, width, depth, budget, others)
    names = ["a", "b", *others]
    if len(cells.counts) < 1 + len(names) or _deficient(cells.design):
        first = [tuple(row) for row in cells.keys.head(4).itertuples(index=False)]
        raise InputError(f"{where}: expected cells {tuple(cells.keys.columns)} off one line (or plane), got {first}")
    means = np.array([counts.mean() for counts in cells.counts])
    with np.errstate(divide="ignore"):
        y = np.log(means)
    laws, predicted = _laws(cells, y, hold_out)
    weights = np.vstack([np.zeros(1 + len(names)), np.eye(1 + len(names))[1:]])  # contrast (unused, a, b, others)
    weights[0, 1:3] = 1, -2
    if (means == 0).any():
        found = [UNDEFINED] * len(weights)
    else:
        fit = weights @ np.linalg.lstsq(cells.design, y, rcond=None)[0]
        if len(means) < 6 + len(others):
            found = [Interval(value, -np.inf, np.inf) for value in fit]
        else:
            fits = _resampled(cells, resamples, seed) @ weights.T
            wide = expanded(level, len(means) - 2 - len(others))
            ends = [percentiles(draws, wide) for draws in fits.T]
            found = [Interval(v, min(low, v), max(high, v)) for v, (low, high) in zip(fit, ends, strict=True)]
    return ExponentFit(found[1], found[2], found[0], dict(zip(others, found[3:], strict=True)), laws, predicted)


def _positive(where: str, counts: pd.DataFrame, x: ArrayLike | None) -> tuple[np.ndarray, np.ndarray] | None:
    """ln x and ln counts, (x, seed); None where a count is not positive or there are fewer than two x."""
    check_kind(where, "counts", counts, pd.DataFrame)
    values = numbers_in(where, "counts", counts)
    x = numbers_in(where, "x", counts.columns if x is None else x, ("x",))
    check_interval(where, "x", x, 0, open_low=True)
    if len(x) != counts.shape[1]:
        raise InputError(f"{where}: expected an x for each of {counts.shape[1]} columns, got {len(x)}")
    return (np.log(x), np.log(values.T)) if counts.shape[1] > 1 and (values > 0).all() else None


def slopes(counts: pd.DataFrame, x: ArrayLike | None = None) -> np.ndarray:
    """Each seed's least-squares slope of ln count in ln x, (seed,): samples of which `exponent` is the mean, for
    differences between two tables of the same seeds. All NaN where that is undefined.

    Args:
        counts: (seed, x). x: positive, one for each column; by default the columns themselves.
    """
    logs = _positive("slopes", counts, x)
    return np.full(len(counts), np.nan) if logs is None else np.polyfit(*logs, 1)[0]


def misfit(counts: pd.DataFrame, x: ArrayLike | None = None) -> float:
    """By how much a power law of x misses the mean counts at most, in ln count; NaN where `exponent` is undefined.
    Arguments as there."""
    if (logs := _positive("misfit", counts, x)) is None:
        return np.nan
    at, means = logs[0], np.log(counts.mean().to_numpy())
    return float(np.abs(means - np.polyval(np.polyfit(at, means, 1), at)).max())


def exponent(counts: pd.DataFrame, x: ArrayLike | None = None) -> Interval:
    """e of count = c x^e: the mean over seeds of each one's least-squares slope of ln count in ln x (`slopes`).

    Its interval holds what differs between seeds, not the misfit of the power law (`misfit`; `fit_exponents` holds
    both).

    Args:
        counts: (seed, x). x: positive, one for each column; by default the columns themselves.

    Returns:
        The interval; undefined where a count is not positive, or there are fewer than two x.
    """
    logs = _positive("exponent", counts, x)
    return UNDEFINED if logs is None else mean(np.polyfit(*logs, 1)[0])


def _cells(table: pd.DataFrame, count: str, width: str, depth: str, budget: str, others: Sequence[str]) -> _Cells:
    by = [width, depth, *others, budget]
    groups = list(table.groupby(by))
    keys = pd.DataFrame([key for key, _ in groups], columns=by, dtype=np.float64)
    logs = np.log(keys[[width, depth]].to_numpy())
    regressors = np.column_stack([logs, keys[list(others)].to_numpy()])
    centred = regressors - regressors.mean(0, keepdims=True)
    design = np.column_stack([np.ones(len(keys)), centred])
    counts = [sample("fit_exponents", rows[count], 0, count) for _, rows in groups]
    return _Cells(keys, counts, logs, design, keys[budget].to_numpy())


def _deficient(design: np.ndarray) -> bool:
    return bool(len(design) < design.shape[1] or np.linalg.matrix_rank(design, tol=1e-6) < design.shape[1])


def _laws(cells: _Cells, y: np.ndarray, hold_out: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of laws and that of held-out predictions."""
    n, rest = len(y), [0, *range(3, cells.design.shape[1])]
    offsets = {name: cells.logs @ (a, b) + power * np.log(np.log(cells.budget)) for name, (a, b, power) in
               HYPOTHESES.items()} | {"free": np.zeros(n)}  # fmt: skip
    kept = cells.budget <= cells.budget.max() / hold_out
    rows, errors = {}, []
    for name, offset in offsets.items():
        design = cells.design if name == "free" else cells.design[:, rest]
        fit, residuals = _solved(design, y - offset)
        k = design.shape[1] + 1
        a, b = HYPOTHESES.get(name, (np.nan,) * 3)[:2] if name != "free" else fit[1:3]
        mean_square = max(float(np.mean(residuals**2)), ROUNDING**2)
        scale = np.sqrt(np.sum(residuals**2) / (n - k + 1)) if n >= k else np.nan
        aicc = n * np.log(mean_square) + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.nan
        fit, _ = _solved(design[kept], (y - offset)[kept])
        off = (y - offset - design @ fit)[~kept]
        rows[name] = {"a": a, "b": b, "fitted": k, "scale": scale, "aicc": aicc, "delta": np.nan,
                      "held_out": np.sqrt(np.mean(off**2)), "held_out_bias": np.mean(off)}  # fmt: skip
        errors.append(cells.keys[~kept].assign(law=name, measured=y[~kept], predicted=y[~kept] - off, error=off))
    laws = pd.DataFrame.from_dict(rows, orient="index").rename_axis("law")
    laws["delta"] = laws["aicc"] - laws["aicc"].min()
    return laws, pd.concat(errors, ignore_index=True)


def _solved(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares: the fit and its residuals; NaN where it is undefined."""
    if _deficient(design) or not np.isfinite(y).all():
        return np.full(design.shape[1], np.nan), np.full(len(y), np.nan)
    fit = np.linalg.lstsq(design, y, rcond=None)[0]
    return fit, y - design @ fit


def _resampled(cells: _Cells, resamples: int, seed: int) -> np.ndarray:
    """(resample, number): fits of cells drawn with replacement, each with instances drawn likewise."""
    rng, many = np.random.default_rng(seed), len(cells.counts)
    drawn = rng.integers(many, size=(resamples, many))
    y = np.empty(drawn.shape)  # resample cell
    for i, counts in enumerate(cells.counts):
        here = drawn == i
        y[here] = counts[rng.integers(counts.size, size=(here.sum(), counts.size))].mean(1)
    x = cells.design[drawn]  # resample cell number
    gram = x.transpose(0, 2, 1) @ x
    spread = np.linalg.eigvalsh(gram)
    told = (spread[:, 0] > 1e-6 * spread[:, -1]) & (y > 0).all(1)  # the drawn cells tell a from b, and have logarithms
    moments = x[told].transpose(0, 2, 1) @ np.log(y[told])[..., None]
    return np.linalg.solve(gram[told], moments)[..., 0]
