"""Intervals, ratios, capacities, equivalence, exponents, and the one rule that turns an interval into a verdict.

Samples are independent units, normally seeds: one number per seed, already averaged inside the seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from toysup.checks import InputError, check_interval, check_whole

__all__ = [
    "Interval",
    "Verdict",
    "best_setting",
    "bootstrap",
    "capacity",
    "check_columns",
    "decide",
    "equivalence_by_load",
    "every",
    "exponents",
    "mean",
    "ratio",
    "share",
    "some",
    "tost",
]

Verdict = Literal["supported", "rejected", "undecided"]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, in the units of the estimate.

    Infinite ends say that the data put no bound (one sample); a NaN value says that the statistic is undefined there.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):  # numpy scalars become plain floats, so that repr and JSON stay plain
            object.__setattr__(self, name, float(getattr(self, name)))

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies inside [low, high]."""
        return low <= self.low and self.high <= high

    def excludes(self, x: float) -> bool:
        """Whether `x` lies outside the interval."""
        return x < self.low or x > self.high

    def asdict(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


UNDEFINED = Interval(np.nan, -np.inf, np.inf)


def decide(interval: Interval, inside: float | tuple[float, float]) -> Verdict:
    """The verdict on "the statistic lies inside this region": the one rule behind every verdict.

    "supported" if the whole interval lies inside, "rejected" if the whole interval lies outside, else "undecided".
    A region is (low, high), ends included and possibly infinite; a single number x means (-x, x).
    """
    low, high = (-inside, inside) if np.isscalar(inside) else inside
    if not low <= high:
        raise InputError(f"decide: inside must be (low, high) with low <= high, got ({low}, {high})")
    if interval.within(low, high):
        return "supported"
    return "rejected" if interval.high < low or interval.low > high else "undecided"


def every(*verdicts: Verdict) -> Verdict:
    """The verdict on "all of these hold": rejected if any is, supported if all are, else undecided.

    If each is supported with error rate alpha, so is the whole (intersection-union test; Berger 1982, Technometrics
    24:295). A rejection is not corrected for the number of verdicts.
    """
    if not verdicts:
        raise InputError("every: expected at least one verdict, got none")
    if "rejected" in verdicts:
        return "rejected"
    return "undecided" if "undecided" in verdicts else "supported"


def some(*verdicts: Verdict) -> Verdict:
    """The verdict on "at least one of these holds": supported if any is, rejected if all are, else undecided."""
    if not verdicts:
        raise InputError("some: expected at least one verdict, got none")
    if "supported" in verdicts:
        return "supported"
    return "undecided" if "undecided" in verdicts else "rejected"


def _sample(where: str, values: ArrayLike, low: float = -np.inf) -> np.ndarray:
    """One finite number per unit, as float64."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise InputError(f"{where}: expected one number per seed in one dimension, got shape {array.shape}")
    if not np.isfinite(array).all():
        lost = int((~np.isfinite(array)).sum())
        raise InputError(f"{where}: expected finite samples, got {lost} of {array.size} that are not (diverged?)")
    check_interval(where, "samples", array, low)
    return array


def mean(samples: ArrayLike, level: float = 0.95) -> Interval:
    """The mean with Student's t interval. One sample gives infinite ends."""
    x = _sample("mean", samples)
    if x.size == 1:
        return Interval(x[0], -np.inf, np.inf)
    half = stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(x.mean(), x.mean() - half, x.mean() + half)


def share(successes: int, trials: int, level: float = 0.95) -> Interval:
    """successes / trials with its score interval (Wilson 1927, JASA 22:209). No trials: undefined, in [0, 1]."""
    check_whole("share", "trials", trials, 0)
    check_whole("share", "successes", successes, 0)
    if successes > trials:
        raise InputError(f"share: successes must be at most trials = {trials}, got {successes}")
    if trials == 0:
        return Interval(np.nan, 0, 1)
    ends = stats.binomtest(int(successes), int(trials)).proportion_ci(level, method="wilson")
    return Interval(successes / trials, ends.low, ends.high)


def ratio(numerator: ArrayLike, denominator: ArrayLike, *, paired: bool = False, level: float = 0.95) -> Interval:
    """mean(numerator) / mean(denominator) for non-negative samples, with a t interval on its logarithm.

    The variance of ln(ratio) is the delta method's (Hedges, Gurevitch & Curtis 1999, Ecology 80:1150) with Welch's
    degrees of freedom; `paired` takes it from the differences a_i / mean(a) - b_i / mean(b). At 8 seeds its 95%
    interval covered the truth in 93-95% of simulations (normal and gamma samples).

    Paired samples that are pandas Series must have the same index. A zero numerator gives [0, 0]; a zero denominator an
    undefined ratio; a single sample infinite ends.
    """
    a, b = _sample("ratio", numerator, 0), _sample("ratio", denominator, 0)
    if paired and a.size != b.size:
        raise InputError(f"ratio: paired samples must be of one length, got {a.size} and {b.size}")
    if paired and isinstance(numerator, pd.Series) and isinstance(denominator, pd.Series):
        if not numerator.index.equals(denominator.index):
            raise InputError("ratio: paired samples must have the same index (seeds in the same order)")
    if b.mean() == 0:
        return UNDEFINED
    value = a.mean() / b.mean()
    if value == 0:
        return Interval(0, 0, 0)
    if min(a.size, b.size) == 1:
        return Interval(value, -np.inf, np.inf)
    a, b = a / a.mean(), b / b.mean()
    if paired:
        variance, freedom = np.var(a - b, ddof=1) / a.size, a.size - 1
    else:
        parts = np.array([np.var(a, ddof=1) / a.size, np.var(b, ddof=1) / b.size])
        variance = parts.sum()
        freedom = variance**2 / (parts**2 / [a.size - 1, b.size - 1]).sum() if variance else 1
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance)
    return Interval(value, value * np.exp(-half), value * np.exp(half))


def _expanded(level: float, n: int) -> float:
    """The level at which a bootstrap interval of n samples covers like a t interval at `level`.

    Bootstrap quantiles are those of a normal with the variance divided by n, not n - 1 (Hesterberg 2015, The American
    Statistician 69:371, the expanded percentile interval): alpha' / 2 = Phi(-sqrt(n / (n - 1)) t_{alpha/2, n-1}).
    """
    return 1 - 2 * stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1))


def bootstrap(
    function: Callable[..., float],
    *samples: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    paired: bool = False,
) -> Interval:
    """function(*samples) with a bootstrap interval, for statistics that have no closed form (a median, a correlation).

    Resamples the first axis of every sample (one row per seed; together if `paired`). BCa (Efron 1987, JASA 82:171) as
    in scipy, at Hesterberg's level for few samples; the percentile interval where BCa is undefined, as for constant
    data. Resamples in which the function is undefined are dropped. The interval is stretched, if need be, to hold the
    value. One row gives infinite ends. Prefer `mean` and `ratio` where they apply: below 8 samples the bootstrap is
    too narrow.
    """
    arrays = [np.asarray(s) for s in samples]
    sizes = {len(a) for a in arrays}
    if not arrays or min(sizes) == 0 or (paired and len(sizes) > 1):
        raise InputError(f"bootstrap: expected filled samples{' of one length' if paired else ''}, got {sorted(sizes)}")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy warns wherever BCa is undefined, and so may the function on a resample
        value = float(function(*arrays))
        if not np.isfinite(value):
            return UNDEFINED
        if min(sizes) == 1:
            return Interval(value, -np.inf, np.inf)
        level = _expanded(level, min(sizes))

        def statistic(*rows: np.ndarray) -> float:
            rows = rows * len(arrays) if paired else rows
            return float(function(*(a[r.astype(int)] for a, r in zip(arrays, rows, strict=True))))

        drawn = stats.bootstrap(
            [np.arange(len(a)) for a in (arrays[:1] if paired else arrays)],
            statistic,
            n_resamples=resamples,
            vectorized=False,
            confidence_level=level,
            rng=np.random.default_rng(seed),
        )
        low, high = drawn.confidence_interval
        if not (np.isfinite(low) and np.isfinite(high)):
            low, high = _percentiles(drawn.bootstrap_distribution, level)
    return Interval(value, min(low, value), max(high, value))


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    """The central `level` of the finite draws."""
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return -np.inf, np.inf
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def check_columns(where: str, table: pd.DataFrame, *names: str) -> None:
    """Refuse a table that lacks one of the named columns."""
    for name in names:
        if name not in table:
            raise InputError(f"{where}: the table has no column {name!r}, only {sorted(map(str, table.columns))}")


def best_setting(table: pd.DataFrame, over: str, by: list[str], score: str, *, lowest: bool = False) -> pd.DataFrame:
    """The rows of the value of `over` (a learning rate, say) whose mean `score` is best, for each combination of `by`.

    The choice is made by the mean over all seeds, the same way for every shape compared; what it adds to the mean is at
    most its standard error. Values with a NaN score (an instance diverged) are not eligible unless all are.
    """
    check_columns("best_setting", table, over, score, *by)
    means = table.groupby([*by, over])[score].agg(lambda column: column.mean(skipna=False))
    signed = means.fillna(np.inf if lowest else -np.inf) * (1 if lowest else -1)
    chosen = signed.groupby(level=by).idxmin()
    keys = pd.MultiIndex.from_frame(table[[*by, over]])
    return table[keys.isin(chosen.tolist())]


def capacity(
    table: pd.DataFrame, *, load: str = "load", recovered: str = "recovered", seed: str = "seed"
) -> pd.DataFrame:
    """Each seed's recovered count at the best offered load: capacity is the supremum over the load.

    A seed's own maximum over noisy counts is too large, the more so the noisier the shape. So the load is chosen once,
    by the mean over all seeds, and each seed's count is read there (`recovered`). What is left of the bias is at most
    the expected maximum of the means: one standard error for 4 tied loads, nothing for one clear peak. `held_out` has
    none of it: each seed's load is chosen by the mean of the *other* seeds (cross-validated selection; Varma & Simon
    2006, BMC Bioinformatics 7:91), so its expectation never exceeds the supremum. Report it as the control. It is not
    the default because its values depend on each other and err more: at 8 seeds and 6 loads, over flat, peaked and
    saturating curves, the 95% interval of B / A covered the truth in 94-99% of simulations from `recovered`, 81-96%
    from `held_out`, 23-96% from each seed's own maximum.

    Args:
        table: one row per (seed, load), of one shape and task. Where a seed's count is NaN (it diverged), that load is
            not open to this seed, and it takes the next best.

    Returns:
        One row per seed, indexed by seed: `load` (where it equals the largest offered, the capacity may lie beyond the
        grid), `recovered`, and `held_out` (equal to `recovered` when there is one seed).
    """
    check_columns("capacity", table, load, recovered, seed)
    if table.duplicated([seed, load]).any():
        raise InputError(f"capacity: expected one row per ({seed}, {load}); select one shape and task first")
    grid = table.pivot(index=seed, columns=load, values=recovered)
    counts = grid.to_numpy(dtype=np.float64)  # seed load
    known = np.isfinite(counts)
    if not len(counts) or not known.any(1).all():
        raise InputError(f"capacity: no finite {recovered} at any load for seeds {grid.index[~known.any(1)].tolist()}")
    filled = np.where(known, counts, 0)
    total, seeds = filled.sum(0), known.sum(0)
    best = np.where(known, total / np.maximum(seeds, 1), -np.inf).argmax(1)
    others = np.where(known & (seeds > 1), (total - filled) / np.maximum(seeds - 1, 1), -np.inf)
    held = others.argmax(1) if len(counts) > 1 else best
    rows = np.arange(len(counts))
    found = {"load": grid.columns.to_numpy()[best], "recovered": counts[rows, best], "held_out": counts[rows, held]}
    return pd.DataFrame(found, index=grid.index)


def tost(log_ratios: ArrayLike, margin: float, level: float = 0.05) -> tuple[bool, Interval]:
    """Whether two conditions are equivalent within a relative margin, by two one-sided t tests.

    Schuirmann 1987 (J. Pharmacokinetics and Biopharmaceutics 15:657): both tests at `level` reject exactly when the
    (1 - 2 level) t interval of the mean log ratio lies inside +-ln(1 + margin). Finding no difference is no evidence of
    equivalence; this is.

    Args:
        log_ratios: ln L_B - ln L_A, one per seed (paired by seed: both trained on the same draws).
        margin: the largest relative difference that counts as none, e.g. 0.01.

    Returns:
        Whether they are equivalent, and the interval of the mean log ratio. `decide(interval, math.log1p(margin))` says
        the same and also when they are not. One seed is never enough.
    """
    check_interval("tost", "margin", margin, 0, open_low=True)
    check_interval("tost", "level", level, 0, 0.5, open_low=True)
    interval = mean(log_ratios, 1 - 2 * level)
    return decide(interval, float(np.log1p(margin))) == "supported", interval


CONTRASTS = {"a": (0, 1, 0), "b": (0, 0, 1), "a-2b": (0, 1, -2)}  # weights of (c, a, b)


def equivalence_by_load(
    a: pd.DataFrame, b: pd.DataFrame, *, load: str = "load", value: str = "loss", slack: str | None = None
) -> pd.DataFrame:
    """ln(b / a) of a positive value at each load, paired by seed, with the interval that `tost` compares to a margin.

    Args:
        a, b: one row per (load, seed), of two shapes on the same data.
        slack: a column that is true where a row has nothing left to lose; a load is slack if it is so for all rows.

    Returns:
        Indexed by load: `value`, `low`, `high` (90%, natural log; undefined where a value is not positive) and `slack`.
    """
    rows = {}
    for at, ours in a.groupby(load):
        pair = ours.merge(b[b[load] == at], on="seed", suffixes=("_a", "_b"))
        ours, theirs = (pair[f"{value}_{model}"].to_numpy() for model in "ab")
        positive = bool((ours > 0).all() and (theirs > 0).all())
        free = bool(pair[[f"{slack}_a", f"{slack}_b"]].to_numpy().all()) if slack else False
        interval = tost(np.log(theirs / ours), 0.01)[1] if positive else UNDEFINED
        rows[at] = {**interval.asdict(), "slack": free}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(load)


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
    cells = [(d, n, _sample("exponents", g[count], 0)) for (d, n), g in table.groupby([width, depth])]
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
    for i, (*_, sample) in enumerate(cells):
        here = drawn == i
        y[here] = sample[rng.integers(sample.size, size=(here.sum(), sample.size))].mean(1)
    x = design[drawn]  # resample cell 3
    gram = x.transpose(0, 2, 1) @ x
    spread = np.linalg.eigvalsh(gram)
    told = (spread[:, 0] > 1e-6 * spread[:, -1]) & (y > 0).all(1)  # the drawn cells tell a from b, and have logarithms
    moments = x[told].transpose(0, 2, 1) @ np.log(y[told])[..., None]
    fits = np.linalg.solve(gram[told], moments)[..., 0]

    level = _expanded(level, len(cells) - 2)
    found = {}
    for name, weights in CONTRASTS.items():
        value = float(fit @ weights)
        low, high = _percentiles(fits @ weights, level)
        found[name] = Interval(value, min(low, value), max(high, value))
    return found
