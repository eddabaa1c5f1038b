"""Many shapes on the same data: do they all reach the same loss?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from toysup.checks import InputError, check_interval, check_level, listed, numbers_in
from toysup.stats.comparison import check_columns, tost
from toysup.stats.intervals import Interval, Verdict, decide, every


@dataclass(frozen=True)
class Equivalence:
    """Whether all shapes agree within a relative margin. Made by `equivalence`.

    `verdict`: "supported", "rejected" or "undecided". `widest`: ln(loss of one shape / loss of another) for the pair
    that differs most, signed so that it is >= 0, with its `level` interval; which decides only beside the others.
    `pairs`: one row per pair: the two shapes (`first`, `second`), `value`, `low`, `high` of ln(second / first), and
    `verdict`.
    """

    verdict: Verdict
    widest: Interval
    pairs: pd.DataFrame = field(repr=False)


def equivalence(
    table: pd.DataFrame,
    within: float,
    *,
    shape: Sequence[str] = ("width", "depth"),
    value: str = "loss",
    seed: str = "seed",
    level: float = 0.05,
) -> Equivalence:
    """Whether a positive value (a loss) is the same for all shapes at one load, within a relative margin.

    "The loss does not depend on shape" is read as: the two shapes that differ most differ by less than the margin. It
    is supported if every pair is equivalent by `tost` at `level`, paired by seed. That is an intersection-union test:
    its size is at most `level` however many pairs there are, without correction (Berger 1982, Technometrics 24:295).
    It is rejected if some pair differs by more than the margin by the same interval at level / pairs (Bonferroni), so
    that many shapes do not reject more often than two. Distance from the shapes' mean would be the weaker claim: shapes
    at either end may differ by twice as much.

    Args:
        table: one row per (shape, seed), of one load; all shapes have the same seeds.
        within: the largest relative difference that counts as none, e.g. 0.03.

    Raises:
        InputError: fewer than two shapes; a shape lacks a seed or has it twice; a value is not positive.
    """
    shape = listed("equivalence", "shape", shape, "columns")
    if not shape:
        raise InputError("equivalence: shape must be at least one column, got none")
    check_interval("equivalence", "within", within, 0, open_low=True, one=True)
    check_level("equivalence", level, 0.5)
    check_columns("equivalence", table, *shape, value, seed)
    check_interval("equivalence", value, numbers_in("equivalence", value, table[value]), 0, open_low=True)
    if table.duplicated([*shape, seed]).any():
        raise InputError(f"equivalence: expected one row per ({', '.join(shape)}, {seed}); select one load first")
    logs = np.log(table.set_index([*shape, seed])[value].astype(np.float64)).unstack(seed)  # shape seed
    if len(logs) < 2:
        raise InputError(f"equivalence: expected at least two shapes, got {list(logs.index)}")
    lacking = logs.index[logs.isna().any(axis=1)]
    if len(lacking):
        first = ", ".join(map(str, lacking[0] if len(shape) > 1 else lacking[:1]))
        raise InputError(f"equivalence: shape ({first}) lacks some of the {logs.shape[1]} seeds of the others")
    margin, together = math.log1p(within), list(combinations(range(len(logs)), 2))
    rows = []
    for i, j in together:
        difference = logs.to_numpy()[j] - logs.to_numpy()[i]
        equivalent, interval = tost(difference, within, level)
        strict = tost(difference, within, level / len(together))[1]
        verdict = "supported" if equivalent else decide(strict, margin)
        rows.append({"first": logs.index[i], "second": logs.index[j], **interval.asdict(), "verdict": verdict})
    pairs = pd.DataFrame(rows)
    worst = pairs.loc[pairs["value"].abs().idxmax()]
    ends = [float(worst[name]) for name in ("value", "low", "high")]
    widest = Interval(*ends) if ends[0] >= 0 else Interval(-ends[0], -ends[2], -ends[1])
    return Equivalence(every(*pairs["verdict"]), widest, pairs)
