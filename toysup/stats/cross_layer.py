"""Whether layers hold features jointly that none of them holds alone: what the columns of `measure.jointly` say.

A table has a row for each seed and load: `load`, how many features are offered; joint_k, F, how many are recovered from
k of the L layers together, and union_k, how many from at least one of those alone; the same before training, with the
prefix start_; `input`, how many a fitted probe reads from the embedded input; pr_ and null_, participation ratios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from toysup.checks import InputError
from toysup.sharing import BySize, gamma
from toysup.stats.comparison import capacity, check_columns
from toysup.stats.intervals import UNDEFINED, Interval, Verdict, decide, every, mean

__all__ = ["ABOVE", "at", "at_best", "conditions", "divided", "excess", "exponent", "growth", "superposed"]

ABOVE = 0.05  # the share of what is offered that counts as some


def at(rows: pd.DataFrame, load: float) -> pd.DataFrame:
    """The rows at one load, by seed."""
    check_columns("at", rows, "load", "seed")
    return rows[rows["load"] == load].set_index("seed").sort_index()


def at_best(rows: pd.DataFrame, depth: int) -> pd.DataFrame:
    """The rows at the load with the most features recovered from all `depth` layers jointly, by seed."""
    check_columns("at_best", rows, "load", f"joint_{depth}")
    return at(rows, rows.groupby("load")[f"joint_{depth}"].mean().idxmax())


def excess(rows: pd.DataFrame, layers: int, prefix: str = "") -> pd.Series:
    """X, what so many layers hold jointly and none of them alone, in features, of each row; of the columns with a
    prefix ("start_")."""
    joint, union = f"{prefix}joint_{layers}", f"{prefix}union_{layers}"
    check_columns("excess", rows, joint, union)
    return rows[joint] - rows[union]


def growth(rows: pd.DataFrame, depth: int, prefix: str = "") -> pd.DataFrame:
    """F of each row, (row, number of layers), for the numbers up to `depth` that all rows have."""
    names = {f"{prefix}joint_{k}": k for k in range(1, depth + 1) if f"{prefix}joint_{k}" in rows}
    return rows[list(names)].rename(columns=names).dropna(axis=1)


def exponent(rows: pd.DataFrame, depth: int, prefix: str = "") -> Interval:
    """gamma = d ln F / d ln k, of each seed (`sharing.gamma`); undefined for less than two numbers of layers."""
    found = growth(rows, depth, prefix)
    if found.shape[1] < 2:
        return UNDEFINED
    joint = torch.tensor(found.to_numpy())
    return mean(gamma(BySize(tuple(found), joint, joint, joint)))


def conditions(
    rows: pd.DataFrame, depth: int, one: pd.DataFrame | None = None, level: float = 0.95
) -> dict[str, Interval]:
    """What must exceed some share (`ABOVE`) of what is offered, for all layers to hold more than each of them, at the
    load with the most recovered jointly.

    i: X. ii_untrained: X less that of the network before training. ii_one_layer: X less that of a trained single layer
    dealt to as many parts. iii: what the supremum over loads of F exceeds that of the union by, as a share of it. iv: F
    less what is read from the embedded input, the stream without what the layers wrote. (The final stream holds every
    output, by construction.)

    Args:
        rows: one network, all loads. one: the single layer's rows, all loads; none, or without that load: left out.
    """
    top = at_best(rows, depth)
    offered, x = top["load"], excess(top, depth)
    found = {"i": x / offered, "ii_untrained": (x - excess(top, depth, "start_")) / offered}
    alone = top[:0] if one is None else at(one, offered.iloc[0])
    found |= {"ii_one_layer": (x - excess(alone, depth)) / offered} if len(alone) else {}
    joint, union = (capacity(rows, recovered=f"{what}_{depth}")["held_out"] for what in ("joint", "union"))
    found |= {"iii": (joint - union) / max(float(joint.mean()), 1.0)}
    found |= {"iv": (top[f"joint_{depth}"] - top["input"]) / offered}
    return {name: mean(own, level) for name, own in found.items()}


def superposed(found: Mapping[str, Interval], above: float = ABOVE) -> Verdict:
    """Whether all of these conditions hold."""
    if not found:
        raise InputError("superposed: expected at least one condition, got none")
    return every(*(decide(interval, (above, math.inf)) for interval in found.values()))


def divided(rows: pd.DataFrame, how: str) -> Interval:
    """Participation ratio of layers by one of `measure.jointly.HOWS`, less that of the shuffled null: below 0 layers
    divide features among them, above they share. Undefined for less than two seeds that have both."""
    pair = rows.reindex(columns=[f"pr_{how}", f"null_{how}"]).dropna()
    return mean(np.subtract(*pair.to_numpy().T)) if len(pair) > 1 else UNDEFINED
