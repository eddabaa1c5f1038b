"""Cells, each trained at the learning rate that suits it, into one tidy table: a row per network."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from toysup.checks import InputError, check_kind, check_whole, in_line, listed
from toysup.ensemble import Trained
from toysup.grid import Grid
from toysup.measure import recovered
from toysup.results import Measure, Results, all_measured, of_rows
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Model, Setting, describe, get_path, is_dynamic, set_paths
from toysup.study.rules import MAIN, needs
from toysup.sweep import sweep

__all__ = ["Best", "Given", "Search", "Table", "Variant", "train"]

LR = "optimizer.lr"


class Best(NamedTuple):
    """What the search says of a cell: the learning rate, the mean score there, and whether worse rates lie on both
    sides of it."""

    lr: float
    score: float
    bracketed: bool


@dataclass(frozen=True)
class Search:
    """How each cell's learning rate is searched (`search.best_rates`), on seeds that no result uses.

    grid: cell -> the grid trained at each rate, without seeds. Cells whose grids are equal share one search.
    rates: those tried, or a function of the cell that gives them. of: which cells; others keep their setting's.
    """

    grid: Callable[[Any], Grid | Setting]
    rates: Sequence[float] | Callable[[Any], Sequence[float]]
    score: Measure = recovered
    lowest: bool = False
    extend: int = 3
    within: float = 0.01
    seeds: Iterable[int] = SEARCH_SEEDS
    of: Callable[[Any], bool] = lambda cell: True


@dataclass(frozen=True)
class Variant:
    """The same cells trained otherwise, as a control.

    change: factors by dotted path ({"steps": 2}), or a function from the cell's grid to another. of: which cells.
    measures: None: the study's.
    """

    change: Mapping[str, float] | Callable[[Grid], Grid]
    of: Callable[[Any], bool] = lambda cell: True
    measures: Sequence[Measure] | None = None

    def __call__(self, grid: Grid) -> Grid:
        """The grid as this variant trains it."""
        if not isinstance(self.change, Mapping):
            return self.change(grid)
        new: dict[str, Any] = {}
        for path, factor in self.change.items():
            old = get_path(grid.setting, path)
            new[path] = max(1, round(old * factor)) if isinstance(old, int) else old * factor
        return dataclasses.replace(grid, setting=set_paths(grid.setting, new))


class Given(NamedTuple):
    """Networks that are not trained here (built by hand, untrained), or rows of values (published, timed), and their
    cell; `trained`: how many networks were trained for such rows."""

    cell: Any
    networks: Trained | pd.DataFrame
    variant: str = MAIN
    trained: int = 0


@dataclass
class Table:
    """What training gave.

    rows: one per network: the cell's fields and properties, `variant`, lr, score and bracketed (where searched), axes,
    measures, train_loss, diverged_step, engine, steps. features: one per network and feature, where measures give such.
    rates: one per cell that was searched. answers: the sweeps.
    """

    rows: pd.DataFrame
    features: pd.DataFrame
    rates: pd.DataFrame
    answers: list[Results]
    given: list[Trained] = field(default_factory=list)
    elsewhere: int = 0

    def networks(self, rows: pd.DataFrame) -> Trained:
        """The networks of some rows, in their order; all of one shape and cell. InputError for rows that have none."""
        sources = rows["source"].unique()
        if len(sources) != 1:
            raise InputError(f"networks: expected rows of one sweep, got {len(sources)}; choose one cell and variant")
        source, numbers = int(sources[0]), [int(row) for row in rows["row"]]
        if source >= 0:
            found: Trained = self.answers[source].trained(numbers)
            return found
        if source < -len(self.given):
            raise InputError("networks: these rows are published values, which have no networks")
        built: Trained = self.given[-1 - source].take(numbers)
        return built

    def moved(self, answers: int, given: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(rows, features) as part of a table that has so many answers and given networks already."""

        def numbered(table: pd.DataFrame) -> pd.DataFrame:
            source = table["source"]
            own = np.where(source >= 0, source + answers, np.where(source > -(10**9), source - given, source))
            return table.assign(source=own)

        return numbered(self.rows), numbered(self.features) if len(self.features) else self.features

    @property
    def instances(self) -> int:
        """Networks trained for it, without those of the search."""
        return sum(len(answer) for answer in self.answers) + self.elsewhere

    @property
    def seconds(self) -> float:
        """Spent on training and measuring, over all runs."""
        return sum(answer.seconds for answer in self.answers)


def train(
    cells: Sequence[Any],
    grid: Callable[..., Grid | Setting] | None,
    measures: Sequence[Measure] | Callable[[Any], Sequence[Measure]],
    *,
    seeds: int | Iterable[int],
    search: Search | None,
    variants: Mapping[str, Variant],
    given: Sequence[Given | Table],
    snapshots: Sequence[int],
    options: Mapping[str, Any],
    sweeping: Mapping[str, Any],
) -> Table:
    """Search, train, measure and put together; what is there already in `options["results"]` is not trained again."""
    cells = listed("Study", "cells", cells)
    if len(set(map(repr, cells))) < len(cells):
        raise InputError(f"Study: cells must differ, got {in_line(next(c for c in cells if cells.count(c) > 1))} twice")
    if cells and grid is None:
        raise InputError("Study: expected grid, a function from a cell to what is trained, got none")
    labels = _labels(cells)
    measures_of = measures if callable(measures) else lambda cell: measures
    best = _searched(cells, labels, search, options) if search and cells else {}
    wanted: dict[tuple[str, tuple[Measure, ...]], tuple[Grid, Any]] = {}
    for label, cell in zip(labels, cells, strict=True):
        own = _grid_of(cell, grid, best.get(label))
        if label in best:
            own = dataclasses.replace(own, setting=set_paths(own.setting, {LR: best[label].lr}))
        own = _seeded(own, seeds)
        wanted[label, tuple(measures_of(cell))] = own, (cell, MAIN, label)
        for name, variant in variants.items():
            if variant.of(cell):
                asked = tuple(measures_of(cell) if variant.measures is None else variant.measures)
                wanted[f"{label} {name}", asked] = variant(own), (cell, name, label)
    answers: list[Results] = []
    parts, features = [], []
    for asked in dict.fromkeys(measures for _, measures in wanted):
        grids = {label: one for (label, theirs), (one, _) in wanted.items() if theirs == asked}
        stacks = {stack.name: stack for stack in stacked(grids)}
        found = sweep({name: stack.grid for name, stack in stacks.items()}, list(asked), snapshots=snapshots,
                      **options, **sweeping)  # fmt: skip
        for name, answer in found.items():
            source = len(answers)
            answers.append(answer)
            for label, point in stacks[name].members:
                cell, variant, base = wanted[label, asked][1]
                more = {"variant": variant} | (best[base]._asdict() if base in best else {})
                more |= {"source": source, "cell": base}
                parts.append(_part(answer.table, stacks[name], point, cell, more, grids[label].setting))
                if len(answer.features):
                    features.append(_part(answer.features, stacks[name], point, cell, more, grids[label].setting))
    built: list[Trained] = []
    elsewhere = 0
    earlier = [one for one in given if isinstance(one, Table)]
    for before in earlier:
        own, long = before.moved(len(answers), len(built))
        parts.append(own)
        features += [long] if len(long) else []
        answers += before.answers
        built += before.given
    for one in given:
        if isinstance(one, Table):
            continue
        check_kind("Study", "given", one, Given)
        elsewhere += one.trained
        table, long = one.networks, None
        source = -len(built) - 1
        if isinstance(table, Trained):
            table, long = _measured(table, measures_of(one.cell))
            built.append(one.networks)
        else:
            table, source = table.reset_index(drop=True).rename_axis("row").reset_index(), -(10**9)
        more = {"variant": one.variant, "source": source, "cell": _labels([one.cell])[0]}
        parts.append(_assigned(table, one.cell, more))
        if long is not None and len(long):
            features.append(_assigned(long, one.cell, more))
    if not parts:
        raise InputError("Study: expected cells to train, or given rows, got neither")
    searched = [(cell, best[label]) for label, cell in zip(labels, cells, strict=True) if label in best]
    rates = pd.DataFrame([{**columns_of(cell), **rate._asdict()} for cell, rate in searched])
    rates = pd.concat([one for one in (*(before.rates for before in earlier), rates) if len(one)] or [rates])
    long = pd.concat(features, ignore_index=True) if features else pd.DataFrame()
    return Table(pd.concat(parts, ignore_index=True), long, rates, answers, built, elsewhere)


def columns_of(cell: Any) -> dict[str, Any]:
    """A cell's fields, and the properties that its class adds to them."""
    if not isinstance(cell, tuple) or not hasattr(cell, "_asdict"):
        raise InputError(f"Study: a cell must be a NamedTuple, whose fields become columns, got {in_line(cell)}")
    own = {name: getattr(cell, name) for name, _ in inspect.getmembers(type(cell), lambda v: isinstance(v, property))}
    return {**cell._asdict(), **own}


def _labels(cells: Sequence[Any]) -> list[str]:
    """A name for each cell that can be part of a file's name."""
    found: list[str] = []
    for cell in cells:
        text = "_".join(f"{value:g}" if isinstance(value, float) else str(value) for value in cell)
        label = re.sub(r"[^\w.=+-]+", "-", text).strip(".-")[:60] or "cell"
        while label in found:
            label += "'"
        found.append(label)
    return found


def _grid_of(cell: Any, make: Any, best: Best | None) -> Grid:
    given: dict[str, Any] = {"best": best} if "best" in needs(make)[1:] else {}
    made = make(cell, **given)
    made = Grid(made) if isinstance(made, Setting) else made
    check_kind("Study", f"grid of {in_line(cell)}", made, Grid)
    return made


def _seeded(grid: Grid, seeds: int | Iterable[int]) -> Grid:
    """The grid with an axis of seeds, unless it has one."""
    if "seed" in grid.paths:
        return grid
    if isinstance(seeds, int):
        seeds = range(check_whole("Study", "seeds", seeds))
    return dataclasses.replace(grid, axes={**grid.axes, "seed": list(seeds)})


def _searched(cells: Sequence[Any], labels: Sequence[str], search: Search, options: Mapping[str, Any]
              ) -> dict[str, Best]:  # fmt: skip
    """Label -> what the search found; equal grids are searched once."""
    of: dict[str, str] = {}  # label -> label of the first cell with the same grid
    firsts: dict[str, str] = {}
    by_rates: dict[tuple[float, ...], dict[str, Grid]] = {}
    seeds = tuple(search.seeds)
    for label, cell in zip(labels, cells, strict=True):
        if not search.of(cell):
            continue
        grid = _seeded(_grid_of(cell, search.grid, None), seeds)
        rates = tuple(float(r) for r in (search.rates(cell) if callable(search.rates) else search.rates))
        key = json.dumps([describe(grid.setting, code=id), describe(grid.account, code=id), rates])
        if key not in firsts:
            firsts[key] = label
            by_rates.setdefault(rates, {})[label] = grid
        of[label] = firsts[key]
    found: dict[str, Best] = {}
    names = ("score", "lowest", "extend", "within")
    how: dict[str, Any] = {name: getattr(search, name) for name in names}
    for rates, grids in by_rates.items():
        table = best_rates(grids, rates, **how, **options)
        found |= {str(n): Best(float(row["lr"]), float(row["score"]), bool(row["bracketed"])) for n, row in
                  table.iterrows()}  # fmt: skip
    return {label: found[first] for label, first in of.items()}


# ---------------------------------------------------------------------------------------- cells that train as one stack


class Stacked(NamedTuple):
    """Cells that differ in numbers alone, as one grid; `members`: (label, its place on the axis that joins them)."""

    name: str
    grid: Grid
    members: list[tuple[str, int]]
    paths: tuple[str, ...]  # in which they differ


def leaves(owner: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of a setting."""
    if isinstance(owner, Model):
        yield prefix + "build", owner.build
        for name, value in owner.arguments.items():
            yield f"{prefix}{name}", value
        return
    for f in dataclasses.fields(owner):
        value, path = getattr(owner, f.name), prefix + f.name
        below = isinstance(value, Model) or (
            dataclasses.is_dataclass(value) and path in ("features", "task", "optimizer")
        )
        if below and not isinstance(value, type):
            yield f"{path}.", type(value)
            yield from leaves(value, path + ".")
        else:
            yield path, value


def stacked(grids: Mapping[str, Grid]) -> Iterator[Stacked]:
    """The grids, those joined into one that have the same axes and differ in numbers that vary inside a stack."""
    groups: dict[str, list[tuple[str, Grid, dict[str, Any]]]] = {}
    for label, grid in grids.items():
        static, moving = {}, {}
        for path, value in leaves(grid.setting):
            if not path.endswith(".") and path != "model.build" and is_dynamic(path, value):
                moving[path] = value
            else:
                static[path] = value
        key = json.dumps([sorted(moving), describe(static, code=id), describe(grid.account, code=id)])
        groups.setdefault(key, []).append((label, grid, moving))
    for members in groups.values():
        label, first, moving = members[0]
        axes = first.paths
        differ = tuple(
            path for path in moving
            if len({json.dumps(describe(own[path], code=id)) for _, _, own in members}) > 1
            and not any(path == axis or path.startswith(axis + ".") for axis in axes)
        )  # fmt: skip
        if not differ:
            yield Stacked(label, first, [(own, 0) for own, _, _ in members], ())
            continue
        points: dict[str, tuple[Any, ...]] = {}
        places = []
        for own, _, values in members:
            point = tuple(values[path] for path in differ)
            text = json.dumps(describe(point, code=id))
            points.setdefault(text, point)
            places.append((own, list(points).index(text)))
        grid = Grid(first.setting, {differ: list(points.values()), **first.axes})
        yield Stacked(label, grid, places, differ)


def _part(table: pd.DataFrame, stack: Stacked, point: int, cell: Any, more: dict[str, Any], setting: Setting
          ) -> pd.DataFrame:  # fmt: skip
    """A cell's rows of a sweep's table."""
    if stack.paths:
        each = len(stack.grid) // len(stack.grid.axes[stack.paths])
        table = table[table["row"] // each == point]
    last = [path.rpartition(".")[2] for path in stack.paths]
    table = table.drop(columns=[name for name in last if name in table])
    numbers = {
        path.rpartition(".")[2]: value for path in stack.paths if isinstance(value := get_path(setting, path), float)
    }
    numbers = {name: value for name, value in numbers.items() if last.count(name) == 1 and name not in table}
    steps = {} if "steps" in table else {"steps": setting.steps}
    return _assigned(table, cell, {**numbers, **steps, **more})


def _assigned(table: pd.DataFrame, cell: Any, more: Mapping[str, Any]) -> pd.DataFrame:
    """A table with the cell's columns first, which stand for what they are called."""
    own = columns_of(cell)
    more = {name: value for name, value in more.items() if name not in own}
    kept = table.drop(columns=[name for name in (*own, *more) if name in table])
    head = pd.DataFrame({n: pd.Series([v] * len(kept), index=kept.index) for n, v in own.items()}, index=kept.index)
    tail = pd.DataFrame({n: pd.Series([v] * len(kept), index=kept.index) for n, v in more.items()}, index=kept.index)
    return pd.concat([head, kept, tail], axis=1)


def _measured(networks: Trained, measures: Sequence[Measure]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row per network, one per network and feature) of networks that were not trained here."""
    rows = np.arange(len(networks))
    stack = networks.stack
    table = pd.DataFrame({"row": rows, "seed": np.asarray(stack.init_seed), "steps": 0})
    table = table.assign(**{path.rpartition(".")[2]: values for path, values in stack.varying.items() if
                            np.asarray(values).ndim == 1})  # fmt: skip
    table["engine"], long = "given", None
    for _, frame in all_measured(of_rows(networks, rows), measures, {"row": "every table"}):
        if "feature" in frame:
            long = frame if long is None else long.merge(frame, on=["row", "feature"])
        else:
            table = table.merge(frame, on="row", validate="one_to_one")
    if long is None:
        return table, pd.DataFrame()
    shared = table.drop(columns=[c for c in long.columns if c in table and c != "row"])
    return table, shared.merge(long, on="row", validate="one_to_many")
