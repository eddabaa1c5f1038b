"""A grid of settings, declared: axes by dotted path, every combination of their values one instance.

Any field of a setting can be an axis. Axes over static fields split the grid into shapes; the rest become per-instance
tensors. Several paths that move together are one axis, named by a tuple.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from toysup.checks import InputError, check_kind, check_room, in_line, listed
from toysup.ensemble import Stack, check_schedules, whole_seeds
from toysup.setting import SEEDS, Setting, describe, get_path, is_dynamic, set_paths
from toysup.tasks import Task

__all__ = ["RESERVED", "Grid"]

RESERVED = ("row", "feature", "train_loss", "diverged_step", "engine")  # columns that are not axes or measures


@dataclass(frozen=True)
class _Axis:
    paths: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]  # one tuple of values, in the order of paths, for each point
    labels: tuple[Any, ...] | None  # text or numbers, for the table


@dataclass(frozen=True)
class Grid:
    """A setting and the axes along which it varies; every combination of axis values is one instance.

    `axes` maps a dotted path ("features.density", "model.shape", "seed", ...) to its values, or a tuple of paths that
    move together to tuples of values. Values may be given as a mapping from label to value; the label goes into the
    table. The first axis varies slowest.

    Raises InputError, before anything is trained, for an unknown path, an axis that is empty, holds a value twice, sets
    a part of what another axis sets or is called as a column that every table has, tuples of the wrong length, any
    value or combination of values that the setting refuses, and combinations that are one and the same instance.
    """

    setting: Setting
    axes: Mapping[Any, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("Grid", "setting", self.setting, Setting)
        if not isinstance(self.axes, Mapping):
            raise InputError(f"Grid: axes must map a path such as 'seed' to its values, got {in_line(self.axes)}")
        for key in self.axes:
            paths = (key,) if isinstance(key, str) else key
            if not isinstance(paths, tuple) or not paths or not all(isinstance(path, str) for path in paths):
                raise InputError(f"Grid: an axis must be a dotted path, or a tuple of them, got {in_line(key)}")
        own = {
            key: dict(given) if isinstance(given, Mapping) else _listed(key, given) for key, given in self.axes.items()
        }
        object.__setattr__(self, "axes", own)  # copies, so that an iterator is read once
        seen: set[str] = set()
        for axis in self._axes:
            for path in axis.paths:
                get_path(self.setting, path)
                name = path.rpartition(".")[2]
                if name in RESERVED:
                    raise InputError(
                        f"Grid: axis {path!r} would be a column {name!r}, which every table has; rename it"
                    )
                if path in seen:
                    raise InputError(f"Grid: axis {path!r} is given twice")
                seen.add(path)
            self._check_distinct(axis)
        for path, other in itertools.permutations(sorted(seen), 2):
            if other.startswith(path + "."):
                raise InputError(f"Grid: axis {other!r} is a part of what axis {path!r} sets; give one of them")
        rows = math.prod(len(axis.values) for axis in self._axes)
        check_room("Grid", f"{rows:,} rows", 8 * rows * (len(self._axes) + 4))
        check_schedules([stack.setting for stack, _ in self.groups])  # which builds and validates every shape

    @staticmethod
    def _check_distinct(axis: _Axis) -> None:
        """Refuse values that stand in an axis twice: their rows would look like independent networks."""
        plain = all(type(value) in (int, float) for row in axis.values for value in row)
        try:
            keys = axis.values if plain else [json.dumps(describe(row, code=id)) for row in axis.values]
        except InputError as error:
            raise InputError(f"Grid: axis {', '.join(axis.paths)}: {error}") from None
        if len(set(keys)) == len(keys):
            return
        first: dict[Any, int] = {}
        twice = next(number for number, key in enumerate(keys) if first.setdefault(key, number) != number)
        value = axis.values[twice][0] if len(axis.paths) == 1 else axis.values[twice]
        raise InputError(
            f"Grid: axis {', '.join(axis.paths)} holds {in_line(value, 60)} twice, which would look like replicates"
        )

    @cached_property
    def _axes(self) -> list[_Axis]:
        axes = []
        for key, given in self.axes.items():
            paths = (key,) if isinstance(key, str) else tuple(key)
            labels = tuple(given) if isinstance(given, Mapping) else None
            values = list(given.values()) if isinstance(given, Mapping) else given
            if not values:
                raise InputError(f"Grid: axis {key!r} has no values")
            rows = [(value,) if isinstance(key, str) else tuple(_listed(key, value)) for value in values]
            wrong = [row for row in rows if len(row) != len(paths)]
            if wrong:
                raise InputError(f"Grid: axis {key!r} needs {len(paths)} values at each point, got {len(wrong[0])}")
            axes.append(_Axis(paths, tuple(rows), labels))
        return axes

    @cached_property
    def _index(self) -> np.ndarray:
        """(axis, row): which value of each axis a row has."""
        sizes = [len(axis.values) for axis in self._axes]
        return np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes)) if sizes else np.zeros((0, 1), dtype=int)

    def __len__(self) -> int:
        return self._index.shape[1]

    def _dynamic(self, path: str) -> bool:
        return is_dynamic(path, get_path(self.setting, path))

    def _static_keys(self, axis: _Axis) -> list[str]:
        """For each value of an axis what of it needs a stack of its own."""
        static = [not self._dynamic(path) for path in axis.paths]
        if not any(static):
            return [""] * len(axis.values)
        parts = [list(itertools.compress(value, static)) for value in axis.values]
        return [json.dumps(describe(part, code=id)) for part in parts]  # two functions may share a name

    @cached_property
    def groups(self) -> list[tuple[Stack, np.ndarray]]:
        """(stack, its rows) for every shape of the grid."""
        keys = np.empty(self._index.shape, dtype=int)
        for number, axis in enumerate(self._axes):
            texts = self._static_keys(axis)
            first = {text: position for position, text in reversed(list(enumerate(texts)))}
            keys[number] = np.array([first[text] for text in texts])[self._index[number]]
        sizes = [len(axis.values) for axis in self._axes]
        together = np.ravel_multi_index(list(keys), sizes) if sizes else np.zeros(1, dtype=int)
        _, group = np.unique(together, return_inverse=True)
        order = dict.fromkeys(group.tolist())
        return [self._stack(np.flatnonzero(group == number)) for number in order]

    def _stack(self, rows: np.ndarray) -> tuple[Stack, np.ndarray]:
        first = self.setting_of(int(rows[0]))
        first.build()  # so that a model that cannot be built is refused before anything is trained
        self._check_combinations(first, rows)
        columns: dict[str, np.ndarray] = {}
        numbers_of: list[np.ndarray] = []  # which value of each path that differs a row has
        for number, axis in enumerate(self._axes):
            used, inverse = _used(self._index[number, rows], len(axis.values))
            for position, path in enumerate(axis.paths):
                if not self._dynamic(path):
                    continue
                values = [axis.values[point][position] for point in used]
                if path in SEEDS:
                    columns[path] = np.array([-1 if v is None else v for v in values], dtype=np.int64)[inverse]
                else:
                    arrays = [np.asarray(v, dtype=np.float64) for v in values]
                    shape = np.broadcast_shapes(*[a.shape for a in arrays])
                    columns[path] = np.stack([np.broadcast_to(a, shape) for a in arrays])[inverse]
                    distinct: dict[bytes, int] = {}
                    own = [distinct.setdefault(np.broadcast_to(a, shape).tobytes(), len(distinct)) for a in arrays]
                    numbers_of.append(np.array(own)[inverse])
        seed = columns.pop("seed", np.full(len(rows), first.seed, dtype=np.int64))
        seeds = []
        for name in ("data_seed", "init_seed"):
            fixed = -1 if getattr(first, name) is None else getattr(first, name)
            own = columns.pop(name, np.full(len(rows), fixed, dtype=np.int64))
            seeds.append(np.where(own < 0, seed, own))
        self._check_instances(rows, np.stack([*seeds, *numbers_of]))
        return Stack(first, *seeds, columns), rows

    def _points(self, rows: np.ndarray, axes: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The values that some axes have together in any of the rows: path -> value, each combination once."""
        if not axes:
            return
        sizes = [len(self._axes[number].values) for number in axes]
        together = np.ravel_multi_index(list(self._index[list(axes)][:, rows]), sizes)
        used = np.unique(together) if len(axes) > 1 else _used(together, sizes[0])[0]
        for points in np.stack(np.unravel_index(used, sizes), axis=1):
            yield {
                path: value
                for number, point in zip(axes, points, strict=True)
                for path, value in zip(self._axes[number].paths, self._axes[number].values[point], strict=True)
                if self._dynamic(path)
            }

    def _check_combinations(self, first: Setting, rows: np.ndarray) -> None:
        """Refuse combinations that a setting refuses. Fields must agree with others of their own part (features, task,
        optimizer), and the task with the features; so these are checked in all combinations, and no others."""
        heads = [{path.partition(".")[0] for path in axis.paths if self._dynamic(path)} for axis in self._axes]
        of = {name: [n for n, own in enumerate(heads) if name in own] for name in ("features", "task")}
        for number, own in enumerate(heads):
            if own - {"features", "task"} and not self._plain_seeds(number):
                for values in self._points(rows, [number]):
                    set_paths(first, values)
        for values in self._points(rows, [n for n, own in enumerate(heads) if "optimizer" in own]):
            set_paths(first.optimizer, _below(values, "optimizer"))
        if set(of["features"]) & set(of["task"]):  # some move together
            for values in self._points(rows, sorted({*of["features"], *of["task"]})):
                set_paths(first, values)
            return
        made = {
            name: [set_paths(getattr(first, name), _below(values, name)) for values in self._points(rows, axes)]
            or [getattr(first, name)]
            for name, axes in of.items()
        }
        for task in made["task"]:
            if type(task).check is not Task.check:
                for features in made["features"]:
                    task.check(features)

    def _plain_seeds(self, number: int) -> bool:
        """Whether an axis holds nothing but seeds, all of them sound: looked at together, since there may be many."""
        axis = self._axes[number]
        if not set(axis.paths) <= set(SEEDS):
            return False
        try:
            for name, column in zip(axis.paths, zip(*axis.values, strict=True), strict=True):
                whole_seeds(name, [0 if seed is None and name != "seed" else seed for seed in column])
        except InputError:
            return False
        return True

    def _check_instances(self, rows: np.ndarray, numbers_of: np.ndarray) -> None:
        """Refuse rows that are one and the same instance, such as seeds under a fixed data_seed and init_seed."""
        least = numbers_of.min(1, keepdims=True)
        sizes = (numbers_of.max(1, keepdims=True) - least + 1)[:, 0].tolist()
        if math.prod(sizes) < 2**62:  # one number for each row
            key = np.ravel_multi_index(list(numbers_of - least), sizes)
            order = np.argsort(key, kind="stable")
            same = np.diff(key[order]) == 0
        else:
            order = np.lexsort(numbers_of)
            same = (np.diff(numbers_of[:, order], axis=1) == 0).all(0)
        if same.any():
            one, other = sorted(rows[order[same.argmax() + np.arange(2)]].tolist())
            raise InputError(f"Grid: rows {one} and {other} are the same instance, and would look like two")

    def setting_of(self, row: int) -> Setting:
        """The setting of one row. InputError for a row that is not there."""
        if isinstance(row, bool) or not isinstance(row, numbers.Integral) or not 0 <= row < len(self):
            raise InputError(f"Grid: row must be a whole number in [0, {len(self)}), got {in_line(row)}")
        values = {}
        for number, axis in enumerate(self._axes):
            values |= dict(zip(axis.paths, axis.values[self._index[number, row]], strict=True))
        return set_paths(self.setting, values) if values else self.setting

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per instance, one column per axis: its last name, or its path where that is another column's."""
        last = [path.rpartition(".")[2] for axis in self._axes for path in axis.paths]
        columns: dict[str, Any] = {"row": np.arange(len(self))}
        for number, axis in enumerate(self._axes):
            points = self._index[number]
            for position, path in enumerate(axis.paths):
                name = path.rpartition(".")[2]
                name = path if last.count(name) > 1 else name
                values = [row[position] for row in axis.values]
                label = list(axis.labels) if axis.labels and position == 0 else _cells(values)
                columns[name] = _column(label)[points]
        for number, axis in enumerate(self._axes):
            for position in range(len(axis.paths)):
                values = [row[position] for row in axis.values]
                if all(dataclasses.is_dataclass(value) for value in values):
                    for f in dataclasses.fields(values[0]):
                        own = [getattr(value, f.name, None) for value in values]
                        if all(isinstance(v, int | float | str) for v in own) and f.name not in RESERVED:
                            columns.setdefault(f.name, _column(own)[self._index[number]])
        return pd.DataFrame(columns)


def _used(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers below `size` that occur, ascending; where each point stands among them)."""
    occurs = np.zeros(size, dtype=bool)
    occurs[points] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[points]


def _below(values: Mapping[str, Any], head: str) -> dict[str, Any]:
    """The values at paths below one field, by the rest of their path."""
    return {path.partition(".")[2]: value for path, value in values.items() if path.partition(".")[0] == head}


def _column(values: list[Any]) -> np.ndarray:
    """Values of one kind as an array of it; of several kinds, or with None among them, as they are."""
    kinds = {
        bool if isinstance(v, bool | np.bool_) else float if isinstance(v, numbers.Real) else type(v) for v in values
    }
    if len(kinds) == 1 and kinds <= {bool, float, str}:
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _listed(key: Any, values: Any) -> list[Any]:
    return listed("Grid", f"axis {key!r}", values)


def _cells(values: list[Any]) -> list[Any]:
    """What values are called in the table: those that differ are called differently, also where they print alike (two
    classes of one name, long arrays)."""
    cells, known = [_cell(value) for value in values], {}
    for number, (value, cell) in enumerate(zip(values, cells, strict=True)):
        if isinstance(cell, str) and not isinstance(value, str):
            same = known.setdefault(cell, {})
            place = same.setdefault(json.dumps(describe(value, code=id)), len(same) + 1)
            cells[number] = cell if place == 1 else f"{cell} #{place}"
    return cells


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str | np.generic):
        return value
    if dataclasses.is_dataclass(value):
        return str(value)
    if isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        return np.array2string(np.asarray(value), precision=4, threshold=8)
    return repr(value)
