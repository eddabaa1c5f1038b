"""A sweep's answers: tables, and the networks they were measured on, read from the folder where they are kept."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from toysup.checks import InputError, check_folder, check_measures, in_line, listed
from toysup.ensemble import (
    Stack,
    Trained,
    code_of,
    concatenated,
    initial_values,
    measured_at_once,
    split,
    step_key,
    task_constants,
    work,
)
from toysup.grid import RESERVED, Grid
from toysup.identity import identity
from toysup.safely import under_usual_defaults
from toysup.setting import describe, rebuild
from toysup.store import Store, digest_of, measure_key
from toysup.trust import named

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Cut",
    "Job",
    "Measure",
    "Results",
    "jobs_of",
    "key_of",
    "load",
    "measured",
    "of_rows",
    "tensors_of",
    "trainer_of",
]

Measure = Callable[[Trained], Any]
INDEX = ("row", "feature")  # of a measure's table: what a value is of
Cut = tuple[int, str, bool]  # of one shape: instances of a chunk, engine, whether its step is compiled


@dataclass(frozen=True)
class Job:
    """One chunk of the sweep: which instances of which stack, how many of them are padding, and where they belong."""

    chunk: int
    stack: Stack
    rows: np.ndarray  # rows of the table; shorter than the stack where the last chunk is padded
    key: str  # jobs with the same key are served by one step function
    compile: bool
    engine: str

    def work(self) -> float:
        return work(self.stack, self.engine)


def jobs_of(grid: Grid, device: torch.device, cut: Sequence[Cut]) -> list[Job]:
    jobs: list[Job] = []
    for (stack, rows), (size, engine, compile) in zip(grid.groups, cut, strict=True):
        for number, part in enumerate(split(len(stack), size)):
            own = rows[part[: min(size, len(rows) - number * size)]]
            taken = stack.take(part)
            key = step_key(taken, device) if engine == "general" else f"fused {len(jobs)}"
            jobs.append(Job(len(jobs), taken, own, key, compile, engine))
    return jobs


def _frame(rows: np.ndarray, trained: Trained, measure: Measure) -> pd.DataFrame:
    """What a measure finds: `row`, for vectors `feature`, and its columns, with `<column>_error` where it gives one."""
    import pandas as pd  # slow to import

    answer = measure(trained)
    several = answer if isinstance(answer, Mapping) else {measure.__name__: answer}
    if not several:
        raise InputError("expected at least one column, got an empty mapping")
    columns: dict[str, np.ndarray] = {}
    shape: tuple[int, ...] | None = None
    for name, one in several.items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InputError(f"expected columns named by text, got {in_line(name)}")
        if name in INDEX:
            raise InputError(f"a column {name} says where a value belongs; rename it")
        value, error = one if isinstance(one, tuple) and len(one) == 2 else (one, None)
        for column, tensor in ((name, value), (f"{name}_error", error)):
            if tensor is None and column != name:
                continue
            if column in columns or (column != name and column in several):
                raise InputError(f"two of its columns are called {column}")
            array = tensor.numpy(force=True) if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
            real = array.dtype.kind in "biuf"
            if (
                not real
                or array.ndim not in (1, 2)
                or len(array) != len(trained)
                or array.shape != (shape or array.shape)
            ):
                got = tuple(array.shape) if real else in_line(tensor)
                like = f"{shape}, as the column before," if shape else "(instance,) or (instance, feature)"
                of = f" for {column}" if isinstance(answer, Mapping) else ""
                raise InputError(f"expected {like} with {len(trained)} instances{of}, got {got}")
            shape, columns[column] = array.shape, array.reshape(-1)
    if len(shape) == 1:
        return pd.DataFrame({"row": rows} | columns)
    index = {"row": np.repeat(rows, shape[1]), "feature": np.tile(np.arange(shape[1]), len(rows))}
    return pd.DataFrame(index | columns)


def columns_of(frame: pd.DataFrame) -> list[str]:
    """The columns of a measure, less what says which row and feature a value is of."""
    return [name for name in frame if name not in INDEX]


def _told_apart(measure: Measure, frame: pd.DataFrame, taken: dict[str, str], kept: str) -> None:
    """Note whose a measure's columns are. InputError where one is there already."""
    for name in columns_of(frame):
        owner = taken.setdefault(name, measure.__name__)
        if owner != measure.__name__:
            raise InputError(f"measure {measure.__name__}: its column {name} is one {owner} has; rename it{kept}")


def measured(rows: np.ndarray, trained: Trained, measure: Measure, kept: str = "") -> pd.DataFrame:
    """`_frame`, whose errors say which measure failed, and at which row."""
    try:
        return _frame(rows, trained, measure)
    except Exception as error:
        row, reason = _first_failure(rows, trained, measure, error)
        said = " ".join(str(reason).split())
        said = said if isinstance(reason, InputError) else f"{type(reason).__name__}: {said}"
        raise InputError(f"measure {measure.__name__}, {row}: {said}{kept}") from error


def _first_failure(rows: np.ndarray, trained: Trained, measure: Measure, error: Exception) -> tuple[str, Exception]:
    """The first row that fails alone, and why; where none does, all of them with what they fail of together."""
    for number, row in enumerate(rows):
        try:
            _frame(rows[[number]], trained.take([number]), measure)
        except Exception as alone:
            return f"row {row}", alone
    return f"rows {rows[0]} to {rows[-1]}", error


def all_measured(
    trained: Trained, measures: Sequence[Measure], taken: Mapping[str, str], kept: str = ""
) -> Iterator[tuple[Measure, pd.DataFrame]]:
    """What measures find, a few instances at a time, so that what they draw and compute stays small.

    `taken`: columns that are there already -> whose they are. One that fails, or has such a column, does so after all
    others are there: InputError, with its name and the row.
    """
    import pandas as pd  # slow to import

    taken = dict(taken)
    frames: dict[Measure, list[pd.DataFrame]] = {measure: [] for measure in measures}
    failed: InputError | None = None
    for part in tiles(trained):
        for measure in list(frames):
            try:
                found = measured(part.rows, part, measure, kept)
                _told_apart(measure, found, taken, kept)
                frames[measure].append(found)
            except InputError as error:
                failed = failed or error
                del frames[measure]
    for measure, found in frames.items():
        yield measure, pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]
    if failed:
        raise failed


def tiles(trained: Trained) -> Iterator[Trained]:
    """A stack in parts that measures go through one after another."""
    size = measured_at_once(trained.setting)
    if len(trained) <= size:
        yield trained
        return
    for start in range(0, len(trained), size):
        yield trained.take(range(start, min(len(trained), start + size)))


def of_rows(trained: Trained, rows: np.ndarray) -> Trained:
    object.__setattr__(trained, "rows", rows)  # just made, nobody else has it
    return trained


def tensors_of(trained: Trained) -> dict[str, torch.Tensor]:
    """What is kept of trained networks. Buffers that are a pure draw are drawn again instead."""
    drawn = hasattr(trained.setting.build(), "initial")
    tensors = {f"parameters.{name}": tensor for name, tensor in trained.parameters.items()}
    for name, tensor in trained.buffers.items():
        if name in trained.moving:
            tensors[f"moving.{name}"] = tensor
        elif not drawn:
            tensors[f"buffers.{name}"] = tensor
    tensors |= {"history": trained.history, "diverged_step": trained.diverged_step}
    for step, kept in trained.snapshots.items():
        tensors |= {f"snapshots.{step}.{name}": tensor for name, tensor in kept.items()}
    return tensors


def trainer_of(grid: Grid, cut: Sequence[Cut], code: Callable[..., str] = identity) -> str:
    """Identity of the code that trains a grid."""
    own = [code_of(stack, engine) for (stack, _), (_, engine, _) in zip(grid.groups, cut, strict=True)]
    return code(*dict.fromkeys(function for functions in own for function in functions))


def key_of(measure: Measure, code: Callable[..., str] = identity) -> str:
    """What a measure's files are called: its numbers depend on its code, and on what hands it the networks."""
    return measure_key(measure.__name__, code(measure, Trained))


class Results:
    """A sweep's answers: `table` (a row per instance), `features` (a row per instance and feature) and the networks."""

    def __init__(
        self, store: Store, grid: Grid, jobs: list[Job], keys: Mapping[str, str], account: Any, temporary: Any = None
    ) -> None:
        self.store, self.grid, self.jobs, self.keys, self.temporary = store, grid, jobs, dict(keys), temporary
        self.account = account  # what the folder is identified by

    def __len__(self) -> int:
        """Instances."""
        return len(self.grid)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.store.path

    def still_told(self, measures: Sequence[Measure], code: Callable[..., str]) -> bool:
        """Whether code does what it did when the folder was opened."""
        kept = self.account
        account = {"setting": describe(self.grid.setting, code=code), "axes": describe(self.grid.account, code=code)}
        keys = [key_of(measure, code) for measure in measures]
        same = all(digest_of(kept[name]) == digest_of(found) for name, found in account.items())
        return same and keys == list(self.keys.values())

    def verify(self, *, whole: bool = True) -> None:
        """Check files against their checksums, their folder and the rows they belong to: tables, and all weights if
        `whole`. InputError naming the first that is damaged, with what to do."""
        self.store.verify({job.chunk: job.rows for job in self.jobs}, self.keys.values(), whole)

    def taken(self, chunk: int, measures: Iterable[str] = ()) -> dict[str, str]:
        """Columns that no further measure may have -> whose they are: the table's, and those of measures of a chunk."""
        found = dict.fromkeys((*self.grid.table, *RESERVED), "the table")
        for name in measures:
            found |= dict.fromkeys(self.store.columns(chunk, f"{self.keys[name]}.parquet"), name)
        return found

    def _gather(self, vectors: bool) -> pd.DataFrame:
        import pandas as pd  # slow to import

        parts, owners = [], {}
        for job in self.jobs:
            frames = []
            for name, key in self.keys.items():
                frame = self.store.table(job.chunk, f"{key}.parquet", rows=job.rows)
                both = [owners[one] for one in columns_of(frame) if owners.setdefault(one, name) != name]
                if both:
                    said = f"results: measures {both[0]} and {name} of {self.path} have columns of the same name"
                    raise InputError(f"{said}; run the sweep again with one of them")
                frames += [frame] if ("feature" in frame) == vectors else []
            if vectors:
                if frames:
                    frames = [frame.set_index(["row", "feature"]) for frame in frames]
                    parts.append(pd.concat(frames, axis=1).reset_index())
                continue
            trained = self.store.table(job.chunk, rows=job.rows)
            frames = [frame.drop(columns="row") for frame in frames]
            parts.append(pd.concat([trained[["row"]], *frames, trained.drop(columns="row")], axis=1))
        if not parts:
            return pd.DataFrame({"row": pd.Series(dtype=int)})
        return self.grid.table.merge(pd.concat(parts, ignore_index=True), on="row", validate="one_to_many")

    @property
    def seconds(self) -> float:
        """Wall-clock seconds spent on training and measuring it, over all runs that had a part in it."""
        return self.store.seconds()

    @cached_property
    def table(self) -> pd.DataFrame:
        """Axes, measures and their `_error`s, train_loss, diverged_step (-1: never) and engine, in the grid's order."""
        return self._gather(False).sort_values("row", ignore_index=True)

    @cached_property
    def features(self) -> pd.DataFrame:
        """Axes and vector measures, one row per instance and feature; empty where no measure gives vectors."""
        return self._gather(True)

    def _find(self, row: int) -> tuple[Job, int]:
        if isinstance(row, numbers.Integral) and not isinstance(row, bool):
            for job in self.jobs:
                at = np.flatnonzero(job.rows == row)
                if len(at):
                    return job, int(at[0])
        raise InputError(f"results: row must be a whole number in [0, {len(self.grid)}), got {row!r}")

    @under_usual_defaults
    def part(self, job: Job) -> Trained:
        """One chunk as it was after training."""
        stack = job.stack.take(range(len(job.rows)))
        tensors = self.store.weights(job.chunk, rows=job.rows)
        snapshots: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("snapshots."):
                _, step, rest = name.split(".", 2)
                snapshots.setdefault(int(step), {})[rest] = tensor

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(f"{prefix}.")}

        moving = under("moving")
        buffers = {**under("buffers"), **moving}
        names = [name for name, _ in stack.setting.build().named_buffers()]
        if set(names) - set(buffers):
            buffers = {**initial_values(stack)[1], **buffers}  # frozen: the same pure draw as at the start
        order = [name for name, _ in stack.setting.build().named_parameters()]
        parameters = under("parameters")
        return Trained(
            stack,
            {name: parameters[name] for name in order},
            {name: buffers[name] for name in names},
            task_constants(stack),
            tensors["history"],
            tensors["diverged_step"],
            dict(sorted(snapshots.items())),
            str(self.store.table(job.chunk, columns=["engine"])["engine"].iloc[0]),
            moving=tuple(name for name in names if name in moving),
            rows=job.rows,
        )

    def __iter__(self) -> Iterator[Trained]:
        """All networks, each once, a part of one shape at a time; its `rows` say which they are."""
        for job in self.jobs:
            yield self.part(job)

    @under_usual_defaults
    def trained(self, rows: Sequence[int] | None = None) -> Trained:
        """The networks as they were after training, all of them or those of some rows, in the order of the rows given.

        InputError where they are of several shapes, which are not one stack: go through the parts then
        (`for part in results`), or give rows of one shape.
        """
        wanted = list(range(len(self.grid))) if rows is None else listed("results", "rows", rows, "rows")
        if not wanted:
            raise InputError("results: rows must be at least one, got none")
        if rows is None:
            jobs = self.jobs
        else:
            chosen = {job.chunk: job for job in (self._find(row)[0] for row in wanted)}
            jobs = [chosen[chunk] for chunk in sorted(chosen)]
        shapes = len({id(job.stack.setting) for job in jobs})
        if shapes > 1:
            raise InputError(
                f"results: the rows are of {shapes} shapes, which are not one stack; go through the parts "
                "(for part in results), or give rows of one shape"
            )
        parts = [self.part(job) for job in jobs]
        stack = Stack.joined([part.stack for part in parts])
        found = concatenated(stack, parts)
        place = {row: number for number, row in enumerate(np.concatenate([part.rows for part in parts]).tolist())}
        found = of_rows(found, np.array(list(place)))
        return found.take([place[row] for row in wanted]) if list(place) != wanted else found

    @under_usual_defaults
    def measure(self, measure: Measure, snapshot: int | None = None) -> pd.DataFrame:
        """A further measure of all instances from the weights on disk, at the end or at a snapshot.

        A table as in `table` or, for vectors, as in `features`.
        """
        import pandas as pd  # slow to import

        (measure,), parts, taken = check_measures("results.measure", [measure]), [], self.taken(0)
        for trained in self:
            chosen = trained if snapshot is None else trained.at(snapshot)
            parts += [table for _, table in all_measured(chosen, [measure], taken)]
        return self.grid.table.merge(pd.concat(parts, ignore_index=True), on="row")

    def parameters(self, name: str) -> np.ndarray:
        """One parameter of every instance, (row, ...), where all have it in one shape (InputError otherwise)."""
        whole = f"parameters.{name}"
        found = [self.store.weights(job.chunk, [whole], job.rows).get(whole) for job in self.jobs]
        arrays = [tensor.numpy() for tensor in found if tensor is not None]
        if len(arrays) < len(found) or len({array.shape[1:] for array in arrays}) > 1:
            raise InputError(f"results: no parameter {name!r} that all instances have in one shape")
        order = np.argsort(np.concatenate([job.rows for job in self.jobs]))
        return np.concatenate(arrays)[order]

    def model(self, row: int) -> nn.Module:
        """The trained network of one row, as an ordinary module."""
        job, at = self._find(row)
        return self.part(job).model(at)

    def history(self, row: int) -> np.ndarray:
        """Training loss of one row, averaged over equal stretches of training."""
        job, at = self._find(row)
        return self.store.weights(job.chunk, ["history"], job.rows)["history"][at].numpy()


@under_usual_defaults
def load(path: Path | str, *, trust: bool = False, classes: Sequence[Any] = (), verify: bool = False) -> Results:
    """A finished sweep from its folder, with every measure that was asked for under its name last.

    Only this package's own classes, and functions of torch that act entry by entry, are made from what the folder says;
    others are handed over by `classes`, or all are imported with `trust`, which lets whoever made the folder run code
    here.

    Tables are checked against their checksums now, weights when they are read; up to a quarter of a GiB of them, or as
    much spread over more, are checked now as well, all of them with `verify`.

    InputError where it is unfinished, damaged or needs classes that are not at hand. Where the code of its features,
    task or model does something else by now, a warning says so: tables are as they were, networks and further measures
    would be the new code's.
    """
    check_folder("load", "path", path)
    store = Store(Path(path).expanduser())
    account, arrays = store.identity(), store.arrays()
    changed: set[str] = set()
    found = named(trust, classes)
    try:
        setting, axes = (rebuild(account[part], arrays, found, changed) for part in ("setting", "axes"))
        device, cut, code = torch.device(account["device"]), account["cut"], account["code"]
    except (KeyError, TypeError, RuntimeError):
        raise InputError(f"load: {store.path / 'config.json'} is not of a sweep") from None
    grid = Grid.from_account(setting, axes)
    jobs = jobs_of(grid, device, cut)
    missing = {job.chunk for job in jobs} - store.trained()
    if missing:
        raise InputError(f"results: {path} lacks {len(missing)} of {len(jobs)} chunks; rerun its sweep to finish it")
    keys = store.measures(expected=True)
    for name, key in keys.items():
        missing = {job.chunk for job in jobs} - store.measured(key)
        if missing:
            said = f"results: {path} lacks measure {name} of {len(missing)} of {len(jobs)} chunks"
            raise InputError(f"{said}; rerun its sweep to finish it")
    results = Results(store, grid, jobs, keys, account)
    results.verify(whole=verify)
    try:
        same = trainer_of(grid, cut) == code
    except StopIteration:  # no kernel fits any more
        same = False
    changed |= set() if same else {"the code that trains"}
    if changed:
        said = f"results: {', '.join(sorted(changed))} changed since {path} was made: its tables are as they were, but "
        warnings.warn(said + "its networks and further measures would be those of the new code", stacklevel=2)
    return results
