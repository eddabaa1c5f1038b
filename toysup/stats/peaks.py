"""Peaks of a density whose values come in groups, and what a smooth density would show in their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_level, check_resampling, check_room
from toysup.stats.intervals import UNDEFINED, Interval, percentiles, sample

__all__ = ["Peaks", "peaks"]

BINS_PER_BANDWIDTH = 10
NULL_LEVEL = 0.99  # of smooth draws have no peak as prominent, near the same place


@dataclass(frozen=True)
class Peaks:
    """The peaks that `peaks` found, and all that is needed to ask about a place.

    `table` has a row per peak, most prominent first: location, low and high (95% over bootstrapped groups of the
    nearest peak within the tolerance), prominence (density units), found (share of bootstrap samples with a peak within
    the tolerance), chance (share of smooth draws with a peak as prominent within it) and stands_out (found in at least
    95%, chance at most 1%). `density` and `smooth` (the mean of the null) are curves over `grid`, integrating to 1.
    """

    grid: Float[np.ndarray, " bin"]
    density: Float[np.ndarray, " bin"]
    smooth: Float[np.ndarray, " bin"]
    table: pd.DataFrame
    tolerance: float
    one_value: float
    drawn: list[tuple[np.ndarray, np.ndarray]]
    null: list[tuple[np.ndarray, np.ndarray]]

    def contrast(self, x: float, level: float = 0.95) -> Interval:
        """How a peak near `x` compares to a smooth density's: its prominence over that which 99% of smooth draws do not
        exceed there (or over the bump of a single value, where that is more).

        Near is within the tolerance; the most prominent peak counts, and none counts as 0. The interval is over
        bootstrapped groups. Above 1 there is a peak at `x`, below 1 there is none that chance would not make.
        """
        check_interval("Peaks", "x", x, one=True)
        check_level("Peaks", level)
        bar = max(float(np.quantile(_highest(self.null, x, self.tolerance), NULL_LEVEL)), self.one_value)
        here = self.table[(self.table["location"] - x).abs() <= self.tolerance]
        value = float(here["prominence"].max() / bar) if len(here) else 0.0
        low, high = percentiles(_highest(self.drawn, x, self.tolerance) / bar, level)
        return Interval(value, min(low, value), max(high, value))

    def location(self, x: float) -> Interval:
        """Where the most prominent peak within the tolerance of `x` lies; undefined where there is none."""
        here = self.table[(self.table["location"] - x).abs() <= self.tolerance]
        if not len(here):
            return UNDEFINED
        row = here.iloc[0]
        return Interval(row["location"], row["low"], row["high"])


def peaks(
    values: ArrayLike,
    group: ArrayLike,
    *,
    bandwidth: float,
    smooth: float,
    tolerance: float,
    unit: ArrayLike | None = None,
    low: float = 0.0,
    high: float = 1.0,
    resamples: int = 500,
    seed: int = 0,
) -> Peaks:
    """Peaks of the density of `values` on [low, high], judged against a smooth density.

    The density is a Gaussian kernel estimate reflected at both ends, so that a peak may lie at an end. Values of one
    group (features of one network) may depend on each other, so whole groups are resampled. The null is a smoothed
    bootstrap (Silverman 1981, JRSS B 43:97): groups are resampled and noise of sd `smooth` is added, which leaves the
    gross shape and nothing finer; values of one unit (features of one polytope) move together, so that the null is as
    clumped as the data. Both are seen through the same kernel.

    Args:
        values: finite, in [low, high]. group: a label for each. unit: a label for each inside its group (the same label
            in two groups is two units); each value its own unless given.
        bandwidth: of the kernel: what is told apart. smooth: of the null, at least twice as wide.
        tolerance: distance up to which two peaks count as at the same place.

    Raises:
        InputError: lengths that differ, values outside [low, high], fewer than two groups, a null not wider than the
            kernel.
    """
    where = "peaks"
    values = sample(where, values, name="values")
    check_interval(where, "low", low, one=True)
    check_interval(where, "high", high, low, open_low=True, one=True)
    check_interval(where, "values", values, low, high)
    check_resampling(where, 0.95, resamples, seed)
    check_interval(where, "bandwidth", bandwidth, 0, (high - low) / 4, open_low=True, one=True)
    check_room(where, f"bandwidth = {bandwidth:g}", int(64 * BINS_PER_BANDWIDTH * (high - low) / bandwidth))
    check_interval(where, "smooth", smooth, 2 * bandwidth, one=True)
    check_interval(where, "tolerance", tolerance, 0, open_low=True, one=True)
    group, own = _labels(group), np.arange(values.size) if unit is None else _labels(unit)
    if group.shape != values.shape or own.shape != values.shape:
        raise InputError(f"{where}: expected a group and a unit for each of {values.size} values")
    _, member = np.unique(group, return_inverse=True)
    groups = int(member.max()) + 1
    if groups < 2:
        raise InputError(f"{where}: expected at least 2 groups to resample, got {groups}")
    pairs = np.stack([member, np.unique(own, return_inverse=True)[1]])
    block = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)

    bins = int(np.ceil((high - low) / bandwidth * BINS_PER_BANDWIDTH))
    width = (high - low) / bins
    grid = low + width * (np.arange(bins) + 0.5)

    def estimate(counts: np.ndarray) -> np.ndarray:
        curve: np.ndarray = scipy.ndimage.gaussian_filter1d(
            counts / counts.sum() / width, bandwidth / width, mode="reflect"
        )
        return curve

    def histogram(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        at = np.clip(((x - low) / width).astype(int), 0, bins - 1)
        return np.bincount(at, weights, minlength=bins)

    density = estimate(histogram(values, np.ones(values.size)))
    rng = np.random.default_rng(seed)
    drawn, null, smoothed = [], [], np.zeros(bins)
    for times in _resamples(groups, member, resamples, rng):
        drawn.append(_peaks_of(grid, estimate(histogram(values, times))))
    for times in _resamples(groups, member, resamples, rng):
        moved = _reflected(values + smooth * rng.standard_normal(block.max() + 1)[block], low, high)
        curve = estimate(histogram(moved, times))
        smoothed += curve / resamples
        null.append(_peaks_of(grid, curve))

    rows = []
    for location, prominence in zip(*_peaks_of(grid, density), strict=True):
        near = np.array([_nearest(found, location) for found, _ in drawn])
        near = near[np.abs(near - location) <= tolerance]
        ends = percentiles(near, 0.95) if near.size else (-np.inf, np.inf)
        exceeded = int((_highest(null, location, tolerance) >= prominence).sum())
        rows.append(
            {
                "location": location,
                "low": min(ends[0], location),
                "high": max(ends[1], location),
                "prominence": prominence,
                "found": near.size / resamples,
                "chance": (1 + exceeded) / (1 + resamples),
            }
        )
    columns = ["location", "low", "high", "prominence", "found", "chance"]
    table = pd.DataFrame(rows, columns=columns).sort_values("prominence", ascending=False, ignore_index=True)
    table["stands_out"] = (table["found"] >= 0.95) & (table["chance"] <= 1 - NULL_LEVEL)
    one_value = 1 / (values.size * bandwidth * np.sqrt(2 * np.pi))
    return Peaks(grid, density, smoothed, table, tolerance, one_value, drawn, null)


def _labels(labels: ArrayLike) -> np.ndarray:
    """Labels that can be told apart and sorted; none where they cannot."""
    try:
        found = np.asarray(labels)
        np.unique(found)
    except (TypeError, ValueError):
        return np.empty(0)
    return found


def _resamples(
    groups: int, member: Int[np.ndarray, " value"], number: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each value counts when groups are drawn with replacement."""
    for _ in range(number):
        yield np.bincount(rng.integers(groups, size=groups), minlength=groups)[member]


def _peaks_of(grid: np.ndarray, density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(locations, prominences); the curve is continued by its mirror images, so that an end can be a peak."""
    bins = len(grid)
    at, found = scipy.signal.find_peaks(np.concatenate([density[::-1], density, density[::-1]]), prominence=0)
    inside = (at >= bins - 1) & (at < 2 * bins)  # an end is a plateau of two, whose left one find_peaks gives
    return grid[np.clip(at[inside] - bins, 0, bins - 1)], found["prominences"][inside]


def _reflected(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Folded back into [low, high] at its ends."""
    turn = np.mod(x - low, 2 * (high - low))
    return low + np.minimum(turn, 2 * (high - low) - turn)


def _nearest(locations: np.ndarray, x: float) -> float:
    return float(locations[np.argmin(np.abs(locations - x))]) if locations.size else np.nan


def _highest(found: list[tuple[np.ndarray, np.ndarray]], x: float, tolerance: float) -> np.ndarray:
    """The greatest prominence within the tolerance of x in each draw; 0 where there is no peak."""
    return np.array([p[np.abs(at - x) <= tolerance].max(initial=0.0) for at, p in found])
