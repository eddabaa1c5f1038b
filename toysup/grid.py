"""A grid of settings, declared: axes by dotted path, every combination of their values one instance.

Any field of a setting can be an axis. Axes over static fields split the grid into shapes; the rest become per-instance
tensors. Several paths that move together are one axis, named by a tuple.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from toysup.checks import InputError
from toysup.ensemble import Stack
from toysup.setting import SEEDS, Setting, describe, get_path, is_dynamic, set_paths

__all__ = ["Grid"]


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

    Raises InputError for an unknown path, an empty axis, tuples of the wrong length, and any value that the setting
    refuses, before anything is trained.
    """

    setting: Setting
    axes: Mapping[Any, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {
            key: dict(given) if isinstance(given, Mapping) else _listed(key, given) for key, given in self.axes.items()
        }
        object.__setattr__(self, "axes", own)  # copies, so that an iterator is read once
        seen: set[str] = set()
        for axis in self._axes:
            for path in axis.paths:
                get_path(self.setting, path)
                if path in seen:
                    raise InputError(f"Grid: axis {path!r} is given twice")
                seen.add(path)
        self.groups  # noqa: B018 (builds and validates every shape)

    @cached_property
    def _axes(self) -> list[_Axis]:
        axes = []
        for key, given in self.axes.items():
            paths = (key,) if isinstance(key, str) else tuple(key)
            labels = tuple(given) if isinstance(given, Mapping) else None
            values = list(given.values()) if isinstance(given, Mapping) else list(given)
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

    def _static_key(self, axis: _Axis, point: int) -> str:
        static = [v for p, v in zip(axis.paths, axis.values[point], strict=True) if not self._dynamic(p)]
        return json.dumps(describe(static))

    @cached_property
    def groups(self) -> list[tuple[Stack, np.ndarray]]:
        """(stack, its rows) for every shape of the grid."""
        keys = np.empty(self._index.shape, dtype=int)
        for number, axis in enumerate(self._axes):
            texts = [self._static_key(axis, point) for point in range(len(axis.values))]
            first = {text: position for position, text in reversed(list(enumerate(texts)))}
            keys[number] = np.array([first[text] for text in texts])[self._index[number]]
        _, group = np.unique(keys, axis=1, return_inverse=True)
        order = dict.fromkeys(group.tolist())
        return [self._stack(np.flatnonzero(group == number)) for number in order]

    def _stack(self, rows: np.ndarray) -> tuple[Stack, np.ndarray]:
        first = self.setting_of(rows[0])
        first.build()  # so that a model that cannot be built is refused before anything is trained
        columns: dict[str, np.ndarray] = {}
        for number, axis in enumerate(self._axes):
            points = self._index[number, rows]
            used, inverse = np.unique(points, return_inverse=True)
            for position, path in enumerate(axis.paths):
                if not self._dynamic(path):
                    continue
                values = [axis.values[point][position] for point in used]
                for point in used:  # every value is checked, with the first row's values on the other axes
                    together = dict(zip(axis.paths, axis.values[point], strict=True))
                    set_paths(first, together)
                if path in SEEDS:
                    columns[path] = np.array([-1 if v is None else v for v in values], dtype=np.int64)[inverse]
                else:
                    arrays = [np.asarray(v, dtype=np.float64) for v in values]
                    shape = np.broadcast_shapes(*[a.shape for a in arrays])
                    columns[path] = np.stack([np.broadcast_to(a, shape) for a in arrays])[inverse]
        seed = columns.pop("seed", np.full(len(rows), first.seed, dtype=np.int64))
        seeds = []
        for name in ("data_seed", "init_seed"):
            fixed = -1 if getattr(first, name) is None else getattr(first, name)
            own = columns.pop(name, np.full(len(rows), fixed, dtype=np.int64))
            seeds.append(np.where(own < 0, seed, own))
        return Stack(first, *seeds, columns), rows

    def setting_of(self, row: int) -> Setting:
        """The setting of one row."""
        values = {}
        for number, axis in enumerate(self._axes):
            values |= dict(zip(axis.paths, axis.values[self._index[number, row]], strict=True))
        return set_paths(self.setting, values) if values else self.setting

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per instance, one column per axis: its last name, or the whole path where two would clash."""
        last = [path.rpartition(".")[2] for axis in self._axes for path in axis.paths]
        columns: dict[str, Any] = {"row": np.arange(len(self))}
        for number, axis in enumerate(self._axes):
            points = self._index[number]
            for position, path in enumerate(axis.paths):
                name = path.rpartition(".")[2]
                name = path if last.count(name) > 1 else name
                values = [row[position] for row in axis.values]
                label = list(axis.labels) if axis.labels and position == 0 else [_cell(value) for value in values]
                columns[name] = np.array(label)[points]
                if all(dataclasses.is_dataclass(value) for value in values):
                    for f in dataclasses.fields(values[0]):
                        own = [getattr(value, f.name, None) for value in values]
                        if all(isinstance(v, int | float | str) for v in own):
                            columns.setdefault(f.name, np.array(own)[points])
        return pd.DataFrame(columns)


def _listed(key: Any, values: Any) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise InputError(f"Grid: axis {key!r} needs a list of values, got {values!r}") from None


def _cell(value: Any) -> Any:
    if isinstance(value, int | float | str | np.generic):
        return value
    if dataclasses.is_dataclass(value):
        return str(value)
    if isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        return np.array2string(np.asarray(value), precision=4, threshold=8)
    return repr(value)
