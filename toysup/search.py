"""The learning rate that suits each shape, searched the same way for every shape, on seeds that no result uses.

Which of two shapes holds more must not depend on which of them a rate happens to suit. Instances differ in learning
rate inside one stack, so that a search costs little more than its longest training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from toysup.checks import (
    InputError,
    check_flag,
    check_interval,
    check_kind,
    check_measures,
    check_whole,
    listed,
    numbers_in,
)
from toysup.ensemble import Trained
from toysup.measure import recovered
from toysup.setting import get_path
from toysup.sweep import Grid, sweep

__all__ = ["SEARCH_SEEDS", "best_rates"]

RATE = "optimizer.lr"
SEARCH_SEEDS = range(1000, 1002)  # far from the seeds of results, so that no result chooses its own learning rate


def best_rates(
    grids: Mapping[str, Grid],
    rates: Sequence[float],
    *,
    score: Callable[[Trained], Any] = recovered,
    lowest: bool = False,
    extend: int = 3,
    within: float = 0.01,
    results: Path | str | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
) -> pd.DataFrame:
    """For each grid the lowest learning rate whose mean score is as good as the best, to within 1%.

    Where scores are flat the highest good rate is the one at which some other seed fails to train, so that the best
    mean of a few seeds is not the rate to take. All `rates` are tried on all grids. Where the one taken is the lowest
    or highest tried, the next beyond (by the ratio of the two rates at that end) is tried too, up to `extend` times, so
    that it ends up between worse ones.

    Args:
        grids: settings like those the rate is for (shape, density, steps), by name, with seeds of their own
            (SEARCH_SEEDS). None may have an axis over the learning rate.
        rates: at least two, in any order.
        score: a measure with one value for each instance; the highest mean wins, or the lowest with `lowest`. A rate
            at which an instance diverged (NaN) is not eligible.
        within: the share of the best score (0 or more, less than 1) that a lower rate may lose and still be taken.
        results, device, workers: as `sweep`.

    Returns:
        One row per grid, indexed by name: `lr`; `lowest` and `highest` rate tried; `bracketed`, whether lr lies between
        them; `score`, the mean at lr; `next`, the best mean at any other rate as a share of it.

    Raises:
        InputError: fewer than two rates, a rate that is not positive, `within` out of range, a grid that has a
            learning-rate axis, or one that diverged at every rate.
    """
    where, rates = "best_rates", listed("best_rates", "rates", rates)
    check_interval(where, "rates", rates, 0, open_low=True, open_high=True)
    check_whole(where, "extend", extend, 0)
    check_interval(where, "within", within, 0, 1, open_high=True, one=True)
    check_flag(where, "lowest", lowest)
    check_measures(where, [score])
    tried = np.unique(numbers_in(where, "rates", rates, ("rate",)))
    if len(tried) < 2:
        raise InputError(f"{where}: expected at least two different rates, got {rates}")
    check_kind(where, "grids", grids, Mapping)
    if not grids:
        raise InputError(f"{where}: grids must be at least one, by name, got none")
    for name, grid in grids.items():
        check_kind(where, f"grid {name!r}", grid, Grid)
        get_path(grid.setting, RATE)
        if RATE in grid.paths:
            raise InputError(f"best_rates: grid {name!r} has an axis over {RATE}, which is what is searched")
    sign = -1.0 if lowest else 1.0
    scores: dict[str, pd.Series] = {name: pd.Series(dtype=np.float64) for name in grids}
    wanted = {name: list(tried) for name in grids}
    for extension in range(extend + 1):
        todo = {
            f"{name}_rates{extension}": dataclasses.replace(grids[name], axes={**grids[name].axes, RATE: values})
            for name, values in wanted.items()
            if values
        }
        answers = sweep(todo, [score], results=results, device=device, workers=workers) if todo else {}
        for name, values in wanted.items():
            if values:
                table = answers[f"{name}_rates{extension}"].table
                if score.__name__ not in table:
                    raise InputError(f"{where}: score must give one value for each instance, {score.__name__} does not")
                means = table.groupby("lr")[score.__name__].agg(lambda column: column.mean(skipna=False))
                scores[name] = pd.concat([own for own in (scores[name], means) if len(own)]).sort_index()
        wanted = {name: _beyond(own * sign, within) for name, own in scores.items()}
    rows = {name: _row(name, own, sign, within) for name, own in scores.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def _taken(scores: pd.Series, within: float) -> int:
    """The place of the lowest rate whose score (the higher the better) is as good as the best."""
    best = scores.max()
    return int(np.argmax((scores >= best - within * abs(best)).to_numpy()))


def _beyond(scores: pd.Series, within: float) -> list[float]:
    """The next rate beyond the end at which the one taken lies, if it lies at one."""
    rates = scores.index.to_numpy()
    place = 0 if scores.isna().all() else _taken(scores, within)
    if place == 0:
        return [float(rates[0] ** 2 / rates[1])]
    return [float(rates[-1] ** 2 / rates[-2])] if place == len(rates) - 1 else []


def _row(name: str, scores: pd.Series, sign: float, within: float) -> dict[str, Any]:
    if scores.isna().all():
        raise InputError(f"best_rates: grid {name!r} diverged at every rate from {scores.index[0]:.3g}")
    lr = scores.index[_taken(scores * sign, within)]
    others = (scores * sign).drop(lr).dropna()
    following = others.max() / (scores[lr] * sign) if len(others) and scores[lr] else np.nan
    return {
        "lr": float(lr),
        "lowest": float(scores.index[0]),
        "highest": float(scores.index[-1]),
        "bracketed": bool(scores.index[0] < lr < scores.index[-1]),
        "score": float(scores[lr]),
        "next": float(following),
    }
