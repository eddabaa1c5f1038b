"""A grid of settings, declared: axes by dotted path, every combination of their values one instance.

Any field of a setting can be an axis. Axes over static fields split the grid into shapes; the rest become per-instance
tensors. Several paths that move together are one axis, under a tuple of them, or under a name of its own (`Axis`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toysup.checks import InputError, check_kind, check_room, check_text, in_line, listed
from toysup.ensemble import Stack, check_schedules, whole_seeds
from toysup.setting import SEEDS, Setting, describe, get_path, is_dynamic, set_paths
from toysup.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RESERVED", "Axis", "Grid"]

RESERVED = ("row", "feature", "train_loss", "diverged_step", "engine")  # columns that are not axes or measures
NAMED = "axis"  # what an account of a named axis begins with; no setting has a field of this name


@dataclass(frozen=True)
class Axis:
    """An axis with a name, which is a column of its own: labels stand there, numbers under their paths' last names.

        Axis("world", ("features.density", "task.penalty"), {"sparse": (0.02, 0.1), "lax": (0.1, 0.03)})

    Args:
        name: of the column.
        paths: one dotted path, or a tuple of them that move together.
        values: a mapping from label to value, or values alone; for a tuple of paths, each is a tuple. Without labels
            the column holds the values of one path, or numbers the points of several, from 0.

    Raises InputError for a name that is no text or that every table has as a column, paths that are none, and values
    that are no list. Whether they fit a setting, `Grid` finds out.
    """

    name: str
    paths: str | tuple[str, ...]
    values: Mapping[Any, Any] | Sequence[Any]

    def __post_init__(self) -> None:
        check_text("Axis", "name", self.name)
        if not self.name.strip() or self.name in RESERVED:
            raise InputError(f"Axis: name must be that of a column of its own, got {self.name!r}")
        _check_paths("Axis: paths", self.paths)
        object.__setattr__(self, "values", _kept(self.name, self.values))


@dataclass(frozen=True)
class _Points:
    """An axis as it is read: all its values, and what the table calls them."""

    paths: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]  # one tuple of values, in the order of paths, for each point
    labels: tuple[Any, ...] | None  # text or numbers, for the table
    name: str | None  # of the column for the labels; the first path's own without one

    def column(self, position: int) -> list[Any]:
        """The values of one path."""
        return [row[position] for row in self.values]


@dataclass(frozen=True, init=False, repr=False)
class Grid:
    """A setting and the axes along which it varies; every combination of axis values is one instance.

    `axes` maps a dotted path ("features.density", "model.shape", "seed", ...) to its values, or a tuple of paths that
    move together to tuples of values. Values may be given as a mapping from label to value; the label goes into the
    table, in the column of the (first) path. The first axis varies slowest.

    Axes with names, whose labels have a column to themselves, are given in a list of them and of (path, values) pairs:

        Grid(setting, [Axis("world", paths, {"sparse": ..., "lax": ...}), ("seed", range(8))])

    One list, rather than names beside a mapping, since the order of axes is that of the table's rows. As `grid.axes`
    all are a mapping again, named ones by name, so that `Grid(setting, {**grid.axes, "seed": range(8, 16)})` is the
    same with other seeds.

    Inside one stack, which is trained as a whole, may vary: seeds, the optimizer's rates, and floats and arrays of
    floats of the features and the task. Every other value makes stacks of its own, and costs accordingly: whole
    numbers, objects, and whatever belongs to the model, floats included. `repr` says what does which.

    Raises InputError, before anything is trained, for an unknown path, an axis that is empty, holds a value twice, sets
    a part of what another axis sets or is called as another column, tuples of the wrong length, any value or
    combination of values that the setting refuses, and combinations that are one and the same instance.
    """

    setting: Setting
    axes: Mapping[Any, Any]

    def __init__(self, setting: Setting, axes: Mapping[Any, Any] | Iterable[Axis | tuple[Any, Any]] = ()) -> None:
        check_kind("Grid", "setting", setting, Setting)
        object.__setattr__(self, "setting", setting)
        object.__setattr__(self, "axes", _read(axes))
        seen: set[str] = set()
        for axis in self._axes:
            for path in axis.paths:
                get_path(self.setting, path)
                name = _last(path)
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
        for axis in self._axes:
            same = self._columns.get(axis.name or "")
            if same and (axis.labels or axis.paths != (same,)):  # without labels it is the column of its only path
                raise InputError(f"Grid: axis {axis.name!r} is called as the column of {same!r} is; rename it")
        rows = math.prod(len(axis.values) for axis in self._axes)
        check_room("Grid", f"{rows:,} rows", 8 * rows * (len(self._axes) + 4))
        check_schedules([stack.setting for stack, _ in self.groups])  # which builds and validates every shape

    def __repr__(self) -> str:
        """How many instances and stacks; for each axis its name, values, and whether they vary inside a stack."""
        lines = [f"Grid: {_many(len(self), 'instance')} in {_many(len(self.groups), 'stack')}"]
        for axis in self._axes:
            splits = [path for path in axis.paths if not self._dynamic(path)]
            says = "vary inside a stack"
            if splits:
                says = "split stacks" if len(splits) == len(axis.paths) else f"{', '.join(splits)} splits stacks"
            over = ", ".join(axis.paths)
            name = over if axis.name in (None, over) else f"{axis.name} ({over})"
            lines.append(f"  {name}: {_many(len(axis.values), 'value')}, {says}")
        return "\n".join(lines)

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that any axis sets."""
        return tuple(path for axis in self._axes for path in axis.paths)

    @property
    def account(self) -> dict[Any, Any]:
        """`axes` in plain values, for `describe`: a named one stands under (NAMED, name, paths). `from_account` reads
        it. What identifies a sweep so holds names and numbers, and no code of this file."""
        return dict(
            ((NAMED, given.name, given.paths), given.values) if isinstance(given, Axis) else (key, given)
            for key, given in self.axes.items()
        )

    @classmethod
    def from_account(cls, setting: Setting, account: Mapping[Any, Any]) -> Grid:
        """The grid whose `account` this is; tuples may be lists in it, as in JSON."""
        check_kind("Grid", "account", account, Mapping)
        entries = []
        for key, values in account.items():
            named = isinstance(key, tuple) and len(key) == 3 and key[0] == NAMED
            entries.append(Axis(key[1], key[2], values) if named else (key, values))
        return cls(setting, entries)

    @staticmethod
    def _check_distinct(axis: _Points) -> None:
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
    def _axes(self) -> list[_Points]:
        axes = []
        for key, entry in self.axes.items():
            named = isinstance(entry, Axis)
            given, over = (entry.values, entry.paths) if named else (entry, key)
            paths = (over,) if isinstance(over, str) else over
            labels = tuple(given) if isinstance(given, Mapping) else None
            values = list(given.values()) if isinstance(given, Mapping) else given
            if not values:
                raise InputError(f"Grid: axis {key!r} has no values")
            rows = [(value,) if isinstance(over, str) else tuple(_listed(key, value)) for value in values]
            wrong = [row for row in rows if len(row) != len(paths)]
            if wrong:
                raise InputError(f"Grid: axis {key!r} needs {len(paths)} values at each point, got {len(wrong[0])}")
            axes.append(_Points(paths, tuple(rows), labels, key if named else None))
        return axes

    @cached_property
    def _index(self) -> np.ndarray:
        """(axis, row): which value of each axis a row has."""
        sizes = [len(axis.values) for axis in self._axes]
        return np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes)) if sizes else np.zeros((0, 1), dtype=int)

    def __len__(self) -> int:
        return int(self._index.shape[1])

    def _dynamic(self, path: str) -> bool:
        return is_dynamic(path, get_path(self.setting, path))

    def _static_keys(self, axis: _Points) -> list[str]:
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
                    places = [distinct.setdefault(np.broadcast_to(a, shape).tobytes(), len(distinct)) for a in arrays]
                    numbers_of.append(np.array(places)[inverse])
        seed = columns.pop("seed", np.full(len(rows), first.seed, dtype=np.int64))
        seeds = []
        for name in ("data_seed", "init_seed"):
            fixed = -1 if getattr(first, name) is None else getattr(first, name)
            own = columns.pop(name, np.full(len(rows), fixed, dtype=np.int64))
            seeds.append(np.where(own < 0, seed, own))
        self._check_instances(rows, np.stack([*seeds, *numbers_of]))
        data_seed, init_seed = seeds
        return Stack(first, data_seed, init_seed, columns), rows

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
    def _columns(self) -> dict[str, str]:
        """Column -> path: its last name, or the whole where that is another path's as well."""
        last = [_last(path) for path in self.paths]
        return {name if last.count(name) == 1 else path: path for name, path in zip(last, self.paths, strict=True)}

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per instance; for each axis a column under its name, where it has one, and one for each path: its
        last name, or the path where that is another column's. Parts of dataclasses follow where their names are free.
        """
        import pandas as pd  # slow to import

        column_of = {path: name for name, path in self._columns.items()}
        columns: dict[str, Any] = {"row": np.arange(len(self))}
        for number, axis in enumerate(self._axes):
            cells = {column_of[path]: _cells(axis.column(position)) for position, path in enumerate(axis.paths)}
            if axis.name is not None:
                whole = _cells(axis.column(0)) if len(axis.paths) == 1 else list(range(len(axis.values)))
                cells = {axis.name: whole if axis.labels is None else list(axis.labels)} | cells
            elif axis.labels:
                cells[column_of[axis.paths[0]]] = list(axis.labels)
            columns |= {name: _column(own)[self._index[number]] for name, own in cells.items()}
        for number, axis in enumerate(self._axes):
            for position in range(len(axis.paths)):
                values = axis.column(position)
                if all(dataclasses.is_dataclass(value) for value in values):
                    for f in dataclasses.fields(values[0]):
                        own = [getattr(value, f.name, None) for value in values]
                        if all(isinstance(v, int | float | str) for v in own) and f.name not in RESERVED:
                            columns.setdefault(f.name, _column(own)[self._index[number]])
        return pd.DataFrame(columns)


def _read(axes: Any) -> dict[Any, Any]:
    """Axes by path or name, their values copied, so that an iterator is read once."""
    wanted = "Grid: axes must map a path such as 'seed' to its values"
    if isinstance(axes, Axis) or not isinstance(axes, Iterable) or isinstance(axes, str):
        raise InputError(f"{wanted}, or list such pairs and Axis objects, got {in_line(axes)}")
    entries = list(axes.items()) if isinstance(axes, Mapping) else listed("Grid", "axes", axes, "axes")
    own: dict[Any, Any] = {}
    for entry in entries:
        if not isinstance(entry, Axis) and not (isinstance(entry, tuple) and len(entry) == 2):
            raise InputError(f"{wanted}, or list such pairs and Axis objects, got {in_line(entry)} among them")
        key, given = (entry.name, entry) if isinstance(entry, Axis) else entry
        if not isinstance(given, Axis):
            _check_paths("Grid: an axis", key)
            given = _kept(key, given)
        elif key != given.name:
            raise InputError(f"Grid: axis {given.name!r} stands under another name, {in_line(key)}")
        if key in own:
            raise InputError(f"Grid: axis {key!r} is given twice")
        own[key] = given
    return own


def _check_paths(what: str, key: Any) -> None:
    paths = (key,) if isinstance(key, str) else key
    if not isinstance(paths, tuple) or not paths or not all(isinstance(path, str) for path in paths):
        raise InputError(f"{what} must be a dotted path, or a tuple of them, got {in_line(key)}")


def _kept(key: Any, given: Any) -> Any:
    return dict(given) if isinstance(given, Mapping) else _listed(key, given)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


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
    cells = [_cell(value) for value in values]
    known: dict[str, dict[str, int]] = {}
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
