"""Where a series changes, where it moves suddenly, and whether two kinds of events coincide.

Time is counted in samples of the series throughout; the caller knows how many steps lie between two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_whole, in_line, listed, numbers_in, whole_numbers

__all__ = [
    "Around",
    "ChangePoints",
    "Coincidence",
    "Transition",
    "around",
    "change_points",
    "coincidence",
    "transitions",
]

MAD_TO_STD = 1.4826  # of a normal distribution
FEWEST = 4  # samples
NEGLIGIBLE = 1e-6  # of the largest value: squares of smaller differences are lost in a sum of squares


@dataclass(frozen=True)
class ChangePoints:
    """`index` (change,): the first sample after each change; `change` (change, channel): the new level minus the old;
    `levels` (time, channel): the mean of each sample's segment."""

    index: np.ndarray
    change: np.ndarray
    levels: np.ndarray


def _series(where: str, series: ArrayLike) -> np.ndarray:
    """(time, channel), finite, float64."""
    x = numbers_in(where, "series", series)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) < FEWEST or not x.shape[1]:
        got = x[:, 0].shape if np.ndim(series) == 1 else np.shape(series)
        raise InputError(f"{where}: expected a series (time,) or (time, channel) of {FEWEST} or more, got shape {got}")
    if not np.isfinite(x).all():
        raise InputError(f"{where}: expected a finite series, got {int((~np.isfinite(x)).sum())} values that are not")
    return x


def change_points(series: ArrayLike, *, resolution: float = 0.0, least: int = 1) -> ChangePoints:
    """The mean shifts of a series, all channels at once: least squares with a penalty for each change.

    Minimises sum (x_t - level_t)^2 / sigma^2 + (channels + 2) ln(time) * changes exactly (PELT; Killick, Fearnhead &
    Eckley 2012, JASA 107:1590; in ruptures, Truong, Oudre & Vayatis 2020, Signal Processing 167:107299). For one
    channel the penalty is the leading 3 ln(time) of the modified BIC of Zhang & Siegmund 2007 (Biometrics 63:22), for
    which a change costs its size and, twice, its place. sigma is each channel's noise: the median absolute first
    difference (which a few shifts hardly touch), scaled to a normal's standard deviation, but no less than
    `resolution`. In white noise without a change about one series of 200 samples in 100 gets one.

    Args:
        series: (time,) or (time, channel), evenly sampled; noise independent from sample to sample.
        resolution: noise that a series has in any case, in its units; a millionth of the largest value at least.
        least: samples in the shortest segment.
    """
    import ruptures  # slow to import, and only this needs it

    x = _series("change_points", series)
    check_interval("change_points", "resolution", resolution, 0, one=True)
    check_whole("change_points", "least", least, 1, len(x) // 2)
    noise = MAD_TO_STD * np.median(np.abs(np.diff(x, axis=0)), axis=0) / np.sqrt(2)
    noise = np.maximum(np.maximum(noise, resolution), NEGLIGIBLE * np.abs(x).max())
    scaled = (x - x.mean(0)) / np.where(noise > 0, noise, 1.0)
    penalty = (x.shape[1] + 2) * np.log(len(x))
    ends = ruptures.KernelCPD(kernel="linear", min_size=least).fit(scaled).predict(pen=penalty)
    edges = np.array([0, *ends], dtype=int)
    means = np.add.reduceat(x, edges[:-1], axis=0) / np.diff(edges)[:, None]
    return ChangePoints(edges[1:-1], np.diff(means, axis=0), np.repeat(means, np.diff(edges), axis=0))


class Transition(NamedTuple):
    """A sudden move: between samples `start` and `stop` the series changed by `change`, fastest at `fastest`."""

    start: int
    fastest: float
    stop: int
    change: float


def transitions(series: ArrayLike, least: float, *, prominence: float = 0.5) -> list[Transition]:
    """The sudden moves of one series: where it runs fast between two slower stretches.

    A move from one plateau to another takes time, and a curve that bends, such as the decay at the start of training,
    has no plateau at all. So the changes are sought in the slope: the series' differences become piecewise constant
    (`change_points`), and a peak of the absolute slope is a transition if the slope falls below 1 - `prominence` of it
    on either side before it rises above it again, and if the series changes by `least` or more while the slope is above
    half the peak's. A slope that only falls (exponential decay), only rises or stays is no transition.

    Args:
        series: (time,), evenly sampled.
        least: smallest change that counts, in the units of the series. A hundredth of it is taken as the resolution.
        prominence: share of the peak's slope, in (0, 1).
    """
    x = _series("transitions", series)
    if x.shape[1] > 1:
        raise InputError(f"transitions: expected one series (time,), got {x.shape[1]} channels")
    check_interval("transitions", "least", least, 0, open_low=True, one=True)
    check_interval("transitions", "prominence", prominence, 0, 1, open_low=True, open_high=True, one=True)
    if len(x) == FEWEST:
        return []
    speed = np.abs(change_points(np.diff(x[:, 0]), resolution=least / 100).levels[:, 0])
    peaks, found = scipy.signal.find_peaks(speed, prominence=np.finfo(float).tiny)
    moves = []
    for peak in peaks[found["prominences"] >= prominence * speed[peaks]]:
        slow = np.flatnonzero(speed <= speed[peak] / 2)
        start = slow[slow < peak].max(initial=-1) + 1  # slope t lies between samples t and t + 1
        stop = slow[slow > peak].min(initial=len(speed))
        change = float(x[stop, 0] - x[start, 0])
        if abs(change) >= least:
            moves.append(Transition(int(start), float(peak) + 0.5, int(stop), change))
    return moves


@dataclass(frozen=True)
class Coincidence:
    """How often events of one kind fall near events of another, for each instance that has events of the first kind.

    Attributes:
        rows: (instance,), which instances these are.
        share: of their events, those with one of the other kind within the tolerance.
        shifted: the same share if the instance's other events are shifted in a circle by a random amount.
        paired: the same share with the other events of another instance, averaged over all others that have any. This
            null knows when such events are common, which `shifted` does not. NaN where there is no other instance.
    """

    rows: np.ndarray
    share: np.ndarray
    shifted: np.ndarray
    paired: np.ndarray


def coincidence(
    events: Sequence[ArrayLike], others: Sequence[ArrayLike], tolerance: float, span: tuple[float, float]
) -> Coincidence:
    """Whether events of one kind coincide with events of another inside instances, against two nulls.

    Args:
        events, others: times for each instance, in the same order of instances.
        tolerance: largest distance of two events that coincide, > 0, in units of time.
        span: (first, last) time at which events are looked for; all must lie inside.
    """
    where = "coincidence"
    ends = numbers_in(where, "span", span)
    if ends.shape != (2,) or not ends[0] < ends[1]:
        raise InputError(f"{where}: span must be (first, last) with first < last, got {in_line(span)}")
    first, last = ends.tolist()
    check_interval(where, "tolerance", tolerance, 0, open_low=True, one=True)
    ours, theirs = (
        [
            np.sort(numbers_in(where, name, one, ("event",)))
            for one in listed(where, name, kind, "each instance's times")
        ]
        for name, kind in (("events", events), ("others", others))
    )
    if len(ours) != len(theirs):
        raise InputError(f"{where}: expected events and others for each instance, got {len(ours)} and {len(theirs)}")
    for times in (*ours, *theirs):
        check_interval(where, "events", times, first, last)
    rows = np.array([row for row, times in enumerate(ours) if len(times)], dtype=int)
    own = np.array([_near(ours[row], theirs[row], tolerance).mean() for row in rows])
    shifted = np.array([_covered(theirs[row], tolerance, last - first) for row in rows])
    # all instances' events against one instance's others at a time: (partner,) sums for each row
    total, partners = np.zeros(len(rows)), np.zeros(len(rows))
    if len(rows):
        every, starts = np.concatenate([ours[row] for row in rows]), np.cumsum([0, *(len(ours[row]) for row in rows)])
        for partner, times in enumerate(theirs):
            if len(times):
                shares = np.add.reduceat(_near(every, times, tolerance).astype(float), starts[:-1]) / np.diff(starts)
                total += np.where(rows == partner, 0, shares)
                partners += rows != partner
    paired = np.divide(total, partners, out=np.full(len(rows), np.nan), where=partners > 0)
    return Coincidence(rows, own, shifted, paired)


def _near(times: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether each time has one of the others (sorted) within the tolerance."""
    if not len(others):
        return np.zeros(len(times), dtype=bool)
    after = np.searchsorted(others, times)
    distance: np.ndarray = np.minimum(
        np.abs(times - others[np.minimum(after, len(others) - 1)]), np.abs(times - others[np.maximum(after - 1, 0)])
    )
    close: np.ndarray = distance <= tolerance
    return close


def _covered(times: np.ndarray, tolerance: float, around: float) -> float:
    """Share of a circle of this circumference that lies within the tolerance of the (sorted) times."""
    if not len(times):
        return 0.0
    gaps = np.append(np.diff(times), around - (times[-1] - times[0]))
    return float(np.minimum(gaps, 2 * tolerance).sum() / around)


@dataclass(frozen=True)
class Around:
    """A quantity around events, averaged inside each instance that has any: (instance, lag), in samples.

    Attributes:
        rows: (instance,), which instances these are.
        own: around its own events, NaN at lags that lie outside the series for all of them.
        paired: the others' quantity around its events, averaged over all others that have events of their own; NaN
            where there are none.
    """

    rows: np.ndarray
    own: np.ndarray
    paired: np.ndarray


def _whole_times(where: str, times: ArrayLike, stop: int) -> np.ndarray:
    """Events as int. InputError for what is not whole, in [0, stop)."""
    at = numbers_in(where, "events", times, ("event",))
    check_interval(where, "events", at, 0, stop - 1)
    if (at % 1).any():
        raise InputError(f"{where}: events must be whole numbers of samples, got {at[at % 1 > 0][0]:g}")
    return at.astype(int)


def around(values: ArrayLike, events: Sequence[ArrayLike], lags: ArrayLike) -> Around:
    """A quantity at fixed lags from events (the event-triggered average), and what other instances do at that time.

    Args:
        values: (instance, time), evenly sampled.
        events: samples of the events for each instance, whole numbers in [0, time).
        lags: (lag,), whole numbers of samples, negative for before.
    """
    x = numbers_in("around", "values", values)
    lags = np.array(whole_numbers("around", "lags", lags, -(2**31), 2**31), dtype=int)
    events = listed("around", "events", events, "each instance's times")
    if x.ndim != 2 or len(x) != len(events) or not lags.size:
        raise InputError(
            f"around: expected values (instance, time), events for each instance and lags (lag,), got shapes "
            f"{x.shape}, {len(events)} and {lags.shape}"
        )
    at = [_whole_times("around", one, x.shape[1]) for one in events]
    rows = np.array([row for row, one in enumerate(at) if len(one)], dtype=int)
    own, paired = np.full((2, len(rows), len(lags)), np.nan)
    everyone = x[rows].sum(0)
    for k, row in enumerate(rows):
        where = at[row][:, None] + lags  # event lag
        inside = (where >= 0) & (where < x.shape[1])
        where, count = np.where(inside, where, 0), inside.sum(0)
        for result, curve in ((own, x[row]), (paired, (everyone - x[row]) / max(len(rows) - 1, 1))):
            np.divide(np.where(inside, curve[where], 0).sum(0), count, out=result[k], where=count > 0)
    return Around(rows, own, paired if len(rows) > 1 else np.full_like(paired, np.nan))
