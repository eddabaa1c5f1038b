"""Checks that most studies ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from toysup import stats
from toysup.stats import Interval
from toysup.study.rules import MAIN, Check, Where, chosen

__all__ = ["bracketed", "loads_suffice", "moves"]


def bracketed(name: str = "learning_rate_bracketed", **about: Any) -> Check:
    """Every cell's learning rate lies between worse ones (or higher ones that are no better). It is about the cells
    that were searched; undecided where none was."""

    def of(rows: pd.DataFrame) -> bool:
        known = rows["bracketed"].dropna() if "bracketed" in rows else pd.Series(dtype=bool)
        return len(known) > 0 and bool(np.all(known.astype(bool)))

    return Check(name, "each cell's learning rate lies between others that are no better", of, otherwise="undecided",
                 **about)  # fmt: skip


def moves(
    variant: str,
    of: Callable[[pd.DataFrame, pd.DataFrame], Interval],
    within: float | tuple[float, float],
    *,
    name: str,
    says: str,
    by: str | Sequence[str] = (),
    where: Where = None,
    **about: Any,
) -> Check:
    """Whether a variant leaves a number where it was: `of(variant's rows, main rows of the same cells)` gives
    the difference or ratio, which must lie `within`, in each group. Cells that were not trained both ways are left out,
    also of those that `where` names."""

    def compared(rows: pd.DataFrame) -> Interval:
        return of(rows[rows["variant"] == variant], rows[rows["variant"] == MAIN])

    def both(table: pd.DataFrame) -> pd.Series:
        """Cells that were trained both ways."""
        own = set(table.loc[table["variant"] == variant, "cell"])
        return table["cell"].isin(own) & table["variant"].isin([variant, MAIN]) & chosen(table, where)

    return Check(name, says, compared, inside=within, by=by, variant=None, where=both, **about)


def loads_suffice(
    by: str | Sequence[str] = "cell",
    *,
    load: str = "features_offered",
    recovered: str = "recovered",
    flat: float = 1.02,
    name: str = "loads_suffice",
    **about: Any,
) -> Check:
    """The largest load offered gains less than `flat` on the best of the others, in every cell."""

    def of(rows: pd.DataFrame) -> bool:
        means = rows.groupby(load)[recovered].mean()
        return len(means) > 1 and bool(means.iloc[-1] < flat * means.iloc[:-1].max())

    says = f"the largest load offered gains less than {flat - 1:.0%} on the best of the others"
    return Check(name, says, of, by=by, otherwise="undecided", combine=stats.every, **about)
