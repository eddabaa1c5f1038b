"""Sudden moves of many instances' curves and of their losses, side by side: when they happen and what lies between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from toysup.checks import InputError, check_interval, check_whole, numbers_in
from toysup.stats.change_points import Around, Coincidence, Transition, around, coincidence, transitions
from toysup.stats.intervals import UNDEFINED, Interval, mean, ratio, share

__all__ = ["SuddenMoves"]


@dataclass(frozen=True)
class SuddenMoves:
    """Jumps of some series and drops of the loss (`transitions`), in instances trained alike. Times are in samples.

    Attributes:
        series: (instance, time, series), what jumps. loss: (instance, time).
        least_jump: change of a series, up or down, that counts. least_drop: fall of the loss that counts.
        begin: the first sample at which an event counts, such as the end of the rapid start.
        tolerance: largest distance of events that coincide.
    """

    series: np.ndarray
    loss: np.ndarray
    least_jump: float
    least_drop: float
    begin: int
    tolerance: float

    def __post_init__(self) -> None:
        shapes = tuple(numbers_in("SuddenMoves", name, getattr(self, name)).shape for name in ("series", "loss"))
        if len(shapes[0]) != 3 or shapes[0][:2] != shapes[1]:
            raise InputError(
                f"SuddenMoves: expected series (instance, time, series) and loss (instance, time), got shapes "
                f"{shapes[0]} and {shapes[1]}"
            )
        check_whole("SuddenMoves", "begin", self.begin, 0, shapes[1][1] - 2)
        for name in ("least_jump", "least_drop", "tolerance"):
            check_interval("SuddenMoves", name, getattr(self, name), 0, open_low=True, one=True)

    @property
    def intervals(self) -> int:
        """Between samples."""
        return int(self.loss.shape[1]) - 1

    @cached_property
    def jumps(self) -> list[list[list[Transition]]]:
        """Those of each series of each instance, from `begin` on."""
        found = [[transitions(one, self.least_jump) for one in row.T] for row in self.series]
        return [[[move for move in moves if move.fastest >= self.begin] for moves in row] for row in found]

    @cached_property
    def drops(self) -> list[list[Transition]]:
        """Those of each instance's loss, from the first sample on."""
        return [[move for move in transitions(row, self.least_drop) if move.change < 0] for row in self.loss]

    @cached_property
    def jump_times(self) -> list[np.ndarray]:
        """When any series of an instance jumps."""
        return [np.sort([move.fastest for moves in row for move in moves]) for row in self.jumps]

    @cached_property
    def drop_times(self) -> list[np.ndarray]:
        """When an instance's loss drops, from `begin` on."""
        return [np.array([move.fastest for move in row if move.fastest >= self.begin]) for row in self.drops]

    @cached_property
    def jumps_met(self) -> Coincidence:
        """Jumps that coincide with drops."""
        return coincidence(self.jump_times, self.drop_times, self.tolerance, (0, self.intervals))

    @cached_property
    def drops_met(self) -> Coincidence:
        """Drops that coincide with jumps."""
        return coincidence(self.drop_times, self.jump_times, self.tolerance, (0, self.intervals))

    def fall_around_jumps(self, reach: int) -> Around:
        """The fall of the loss per interval around jumps, at lags -reach .. reach."""
        check_whole("SuddenMoves", "reach", reach, 0)
        at = [np.floor(times).clip(max=self.intervals - 1) for times in self.jump_times]
        return around(-np.diff(self.loss, axis=1), at, np.arange(-reach, reach + 1))

    @cached_property
    def windows(self) -> np.ndarray:
        """(instance, interval), whether an interval after `begin` lies within the tolerance of a jump of its own."""
        middle = np.arange(self.intervals) + 0.5
        near = [(np.abs(middle[:, None] - times) <= self.tolerance).any(1) for times in self.jump_times]
        return np.array(near) & (middle >= self.begin)

    def rests(self) -> np.ndarray:
        """(instance, time, series), whether a series rests: from `begin` to its instance's last jump, but for its own
        jumps. Nowhere in an instance without jumps."""
        resting = np.zeros(self.series.shape, dtype=bool)
        for row, parts in enumerate(self.jumps):
            last = max((move.start for moves in parts for move in moves), default=0)
            resting[row, self.begin : last] = True
            for one, moves in enumerate(parts):
                for move in moves:
                    resting[row, move.start : move.stop + 1, one] = False
        return resting

    def typical(self) -> int:
        """Among the instances that jump one with the median number of jumps, and of those the one with the median fall
        of the loss from `begin` on; among all where none jumps."""
        counts = np.array([len(times) for times in self.jump_times])
        rows = np.flatnonzero(counts) if counts.any() else np.arange(len(counts))
        same = rows[counts[rows] == np.sort(counts[rows])[len(rows) // 2]]
        fall = self.loss[same, self.begin] - self.loss[same, -1]
        return int(same[np.argsort(fall)[len(same) // 2]])

    def numbers(self, unit: float = 1, every: float = 1) -> dict[str, Interval]:
        """How jumps and drops go together, means over instances that have such events; undefined where none has.

        Shares of jumps with a drop within the tolerance, and of drops with a jump; the fall of the loss within it of
        jumps, in `unit` steps where samples are `every` steps apart; how much of the fall after `begin` lies there, and
        how much of the time. Each beside the same with another instance's events or loss.
        """
        met, back, rows = self.jumps_met, self.drops_met, self.jumps_met.rows
        around = self.fall_around_jumps(int(self.tolerance))
        own, other = (np.nanmean(part, axis=1) * unit / every if len(rows) > 1 else np.zeros(0)
                      for part in (around.own, around.paired))  # fmt: skip
        fall, window = -np.diff(self.loss[rows, self.begin :], axis=1).clip(max=0), self.windows[rows, self.begin :]
        strange = (fall.sum(0) - fall) / max(len(fall) - 1, 1)  # the others' mean
        parts = {
            "jumps_per_series": [len(times) / self.series.shape[-1] for times in self.jump_times],
            "jumps_with_a_drop": met.share,
            "jumps_with_another_seeds_drop": met.paired,
            "jumps_with_a_drop_minus_twice_that": met.share - 2 * met.paired,
            "drops_with_a_jump": back.share,
            "drops_with_another_seeds_jump": back.paired,
            "drops_with_a_jump_minus_twice_that": back.share - 2 * back.paired,
            "fall_at_jumps": own,
            "fall_of_other_seeds_then": other,
            "fall_at_jumps_minus_twice_that": own - 2 * other,
            "late_time_in_them": window.mean(1),
        }
        falls = {"late_fall_in_windows_of_jumps": fall, "other_seeds_late_fall_in_them": strange}
        inside = {name: ratio((of * window).sum(1), of.sum(1), paired=True) if len(rows) else UNDEFINED
                  for name, of in falls.items()}  # fmt: skip
        jumped = {"seeds_that_jump": share(len(rows), len(self.loss))}
        return jumped | {name: mean(values, skipna=True) for name, values in parts.items()} | inside

    def controls(self) -> dict[str, Interval]:
        """The share of jumps with a drop if drops are shifted in time, and at twice the tolerance; how many events fall
        into the last fifth."""
        wide = coincidence(self.jump_times, self.drop_times, 2 * self.tolerance, (0, self.intervals))
        late = {name: [(own > 0.8 * self.intervals).sum() for own in times]
                for name, times in (("jumps", self.jump_times), ("drops", self.drop_times))}  # fmt: skip
        found: dict[str, Any] = {
            "jumps_with_a_shifted_drop": self.jumps_met.shifted,
            "jumps_with_a_drop_at_twice_the_tolerance": wide.share,
            "jumps_with_another_seeds_drop_at_twice_the_tolerance": wide.paired,
            **{f"{name}_per_seed_in_the_last_fifth": counts for name, counts in late.items()},
        }
        return {name: mean(values, skipna=True) for name, values in found.items()}
