"""Double descent: whether a loss falls, rises to a peak and falls again, and is not the most of noise at that peak."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup.checks import InputError, check_kind, check_level, numbers_in
from toysup.stats.intervals import Interval, Verdict, bootstrap, decide, every, mean

__all__ = ["DoubleDescent", "double_descent"]


class DoubleDescent(NamedTuple):
    """Factors between the turns of a curve, geometric means over seeds, each above 1 where the curve turns that way.

    `fall` is the first value over the dip, `rise` the peak over the dip, `end` the peak over the last value; `peak`
    where the mean curve has its largest inner value; `verdict` whether all three factors are above 1.
    """

    fall: Interval
    rise: Interval
    end: Interval
    peak: Interval
    verdict: Verdict


def double_descent(losses: pd.DataFrame, level: float = 0.95) -> DoubleDescent:
    """The turns of positive losses, a row for each seed, a column for each of at least three sizes in ascending order.

    Means are of logarithms, since losses at a peak differ by factors. Each seed is read where the *other* seeds' mean
    has its largest inner value, and its smallest value before that: a curve of noise alone, whose own extremes are
    always apart, gives factors around 1 (cross-validation of the place; its effect on the t interval, by way of seeds
    that share most of the others, is small next to the seeds' own spread). The interval of `peak` is a bootstrap's.

    Raises InputError for fewer than two seeds or three sizes, and for losses that are not positive and finite.
    """
    check_kind("double_descent", "losses", losses, pd.DataFrame)
    check_level("double_descent", level)
    values = numbers_in("double_descent", "losses", losses)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 3:
        raise InputError(f"double_descent: expected two seeds and three sizes at least, got shape {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError("double_descent: expected positive, finite losses")
    sizes = numbers_in("double_descent", "sizes (the columns)", losses.columns.tolist())
    if not (np.diff(sizes) > 0).all():
        raise InputError(f"double_descent: expected sizes in ascending order, got {sizes.tolist()}")
    logs = np.log(values)

    def place(rows: np.ndarray) -> int:
        return 1 + int(rows[:, 1:-1].mean(0).argmax())

    turns = []
    for seed, own in enumerate(logs):
        others = np.delete(logs, seed, axis=0)
        peak = place(others)
        dip = int(others[:, :peak].mean(0).argmin())
        turns.append((own[0] - own[dip], own[peak] - own[dip], own[peak] - own[-1]))
    means = [mean(column, level) for column in np.transpose(turns)]
    fall, rise, end = (Interval(*np.exp(np.minimum([m.value, m.low, m.high], 700))) for m in means)
    where = bootstrap(lambda rows: sizes[place(rows)], logs, level=level)
    return DoubleDescent(fall, rise, end, where, every(*(decide(m, (0, np.inf)) for m in means)))
