"""How much can be offered before part of it is lost."""

from __future__ import annotations

import numpy as np
import pandas as pd

from toysup.checks import InputError, check_interval, check_kind, in_line, numbers_in

__all__ = ["departure"]


def departure(counts: pd.DataFrame, drop: float = 0.05) -> pd.Series:
    """Each seed's offer n beyond which the share kept, count / n, stays below 1 - drop.

    Between the last offer of which so much is kept and the next, the share is taken as linear in ln n. The first offer
    where that much is never kept, the largest where it still is there, so the departure may lie beyond these ends.

    Args:
        counts: (seed, offer), numbers recovered; columns are the offers n > 0, ascending.
        drop: in (0, 1).

    Returns:
        (seed,), in the units of n.

    Raises:
        InputError: offers that are not positive and ascending, or counts that are not numbers.
    """
    check_kind("departure", "counts", counts, pd.DataFrame)
    check_interval("departure", "drop", drop, 0, 1, open_low=True, open_high=True, one=True)
    numbers_in("departure", "counts", counts)
    offers = numbers_in("departure", "offers", counts.columns, ("offer",))
    if not (offers.size and offers[0] > 0 and np.isfinite(offers).all() and (np.diff(offers) > 0).all()):
        raise InputError(f"departure: offers (columns) must be positive and ascending, got {in_line(list(offers))}")
    at, shares = np.log(offers), (counts / counts.columns).to_numpy() - (1 - drop)
    found = []
    for own in shares:
        above = np.flatnonzero(own >= 0)
        i = above[-1] if above.size else 0
        inside = above.size and i + 1 < len(at)
        found.append(at[i] + (own[i] / (own[i] - own[i + 1]) * (at[i + 1] - at[i]) if inside else 0))
    return pd.Series(np.exp(found), index=counts.index)
