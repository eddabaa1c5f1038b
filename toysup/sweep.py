"""A grid of settings -> stacks of equal shape -> chunks -> results; unfinished sweeps are resumed.

Any field of a setting can be an axis, named by its dotted path. Axes over static fields split the grid into shapes; the
rest become per-instance tensors. Several paths that move together are one axis, named by a tuple.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from toysup.checks import InputError, check_whole
from toysup.ensemble import (
    Stack,
    Trained,
    check_snapshots,
    chunks,
    initial_values,
    load_compiler,
    resolve_device,
    task_constants,
    train_chunk,
    work,
    worth_compiling,
)
from toysup.measure import held_out_loss, recovered
from toysup.setting import SEEDS, Setting, describe, get_path, is_dynamic, rebuild, set_paths
from toysup.store import Store, source_digest

__all__ = ["Grid", "Results", "load", "sweep"]

Measure = Callable[[Trained], Any]


@dataclass(frozen=True)
class _Axis:
    paths: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]  # one tuple of values, in the order of paths, for each point
    labels: tuple[str, ...] | None


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
            labels = tuple(map(str, given)) if isinstance(given, Mapping) else None
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


@dataclass(frozen=True)
class _Job:
    """One chunk of the sweep: which instances of which stack, how many of them are padding, and where they belong."""

    chunk: int
    stack: Stack
    rows: np.ndarray  # rows of the table; shorter than the stack where the last chunk is padded
    compile: bool
    turn: int  # its number within its group


def _jobs(grid: Grid, device: torch.device, compile: bool | None) -> list[_Job]:
    jobs: list[_Job] = []
    for stack, rows in grid.groups:
        wanted = worth_compiling(stack) if compile is None else compile
        for number, part in enumerate(chunks(stack, device)):
            real = min(len(part), len(rows) - number * len(part))
            jobs.append(_Job(len(jobs), stack.take(part), rows[part[:real]], wanted, number))
    return jobs


def _frames(job: _Job, trained: Trained, measures: Sequence[Measure]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    wide: dict[str, Any] = {"row": job.rows}
    long: dict[str, Any] = {}
    for measure in measures:
        answer = measure(trained)
        value, error = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        for name, tensor in ((measure.__name__, value), (f"{measure.__name__}_error", error)):
            if tensor is None and name != measure.__name__:
                continue
            array = tensor.numpy(force=True) if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
            if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or len(array) != len(trained):
                got = tuple(array.shape) if array.dtype.kind in "biuf" else repr(tensor)
                raise InputError(
                    f"measure {measure.__name__}: expected (instance,) or (instance, feature) with "
                    f"{len(trained)} instances, got {got}"
                )
            if array.ndim == 1:
                wide[name] = array
            else:
                long.setdefault(array.shape[1], {})[name] = array.reshape(-1)
    wide["train_loss"] = trained.history[:, -1].numpy()
    wide["diverged_step"] = trained.diverged_step.numpy()
    frames = []
    for count, columns in long.items():
        index = {"row": np.repeat(job.rows, count), "feature": np.tile(np.arange(count), len(job.rows))}
        frames.append(pd.DataFrame(index | columns).set_index(["row", "feature"]))
    return pd.DataFrame(wide), pd.concat(frames, axis=1).reset_index() if frames else None


def _perform(
    job: _Job,
    store: Store,
    measures: Sequence[Measure],
    device: torch.device,
    snapshots: Sequence[int],
    on_progress: Callable[[int, float], None],
) -> str:
    """Train, measure and keep one chunk; the engine's name."""
    trained = train_chunk(
        job.stack, device=device, compile=job.compile, snapshots=snapshots, on_progress=on_progress
    ).take(range(len(job.rows)))
    table, features = _frames(job, trained, measures)
    table["engine"] = trained.engine
    tensors = {f"parameters.{name}": tensor for name, tensor in trained.parameters.items()}
    tensors |= {"history": trained.history, "diverged_step": trained.diverged_step}
    for step, kept in trained.snapshots.items():
        tensors |= {f"snapshots.{step}.{name}": tensor for name, tensor in kept.items()}
    store.write(job.chunk, table, features, tensors)
    return trained.engine


# What forked workers need, found by them in memory: nothing is pickled, so classes may be defined anywhere.
_WORK: dict[str, Any] = {}


def _worker_start(parent: int) -> None:
    def watch() -> None:  # a worker must not outlive a parent that was killed
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)


WORTH_FORKING = 2e8  # `ensemble.work` below which one process is done before workers have warmed up
NEWS = struct.Struct("dd")  # (instance-steps done, mean loss): short enough for a pipe to take it whole, without a lock


def _worker_job(position: int) -> str:
    def tell(done: int, loss: float) -> None:
        os.write(_WORK["news"], NEWS.pack(done, loss))

    return _perform(_WORK["jobs"][position], *_WORK["rest"], tell)


def _run_in_workers(jobs: list[_Job], rest: tuple[Any, ...], workers: int, tell: Callable[[int, float], None]) -> None:
    context = multiprocessing.get_context("fork")
    read, news = os.pipe()
    _WORK.update(jobs=jobs, rest=rest, news=news)

    def listen() -> None:  # until the last writer is gone
        while said := os.read(read, NEWS.size):
            tell(*NEWS.unpack(said))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle library threads, as DataLoader does
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_worker_start, initargs=(os.getpid(),))
        waiting = {pool.submit(_worker_job, position) for position in range(len(jobs))}
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker was killed (out of memory?); finished chunks are kept, run again to go on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.close(news)
        listener.join()
        os.close(read)
        _WORK.clear()


class _Temporary:
    """A folder that goes when this does."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="toysup-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _own_code(grid: Grid) -> list[Any]:
    """The classes and functions that the grid's settings are made of, in order."""
    found = []
    for stack, _ in grid.groups:
        setting, schedule = stack.setting, stack.setting.optimizer.schedule
        found += [type(setting.features), type(setting.task), setting.model.build]
        found.append(type(schedule) if dataclasses.is_dataclass(schedule) else schedule)
    return list(dict.fromkeys(found))


def sweep(
    grid: Grid,
    measures: Sequence[Measure] = (held_out_loss, recovered),
    *,
    results: Path | str | None = None,
    name: str = "sweep",
    device: str | torch.device = "auto",
    compile: bool | None = None,
    workers: int | None = None,
    snapshots: Sequence[int] = (),
    progress: bool | None = None,
) -> Results:
    """Train and measure every instance of the grid; chunks already finished in `results` are not trained again.

    results: parent folder; the sweep's own is `<name>-<hash>` below it. None keeps everything in a temporary folder.
    workers: processes that share the chunks (CPU on Linux; default: one for each core); the numbers don't depend on it.
    compile: None decides by the amount of work in each shape. snapshots: steps after which weights are kept as well.
    progress: True or False for the bar; None shows it on a terminal only.

    Raises InputError before training for an unknown device or measure, and for a results folder that is damaged or was
    made by another config.
    """
    device = resolve_device(device)
    for measure in measures:
        if not callable(measure) or not hasattr(measure, "__name__"):
            raise InputError(f"sweep: a measure must be a named function of a Trained, got {measure!r}")
    names = [measure.__name__ for measure in measures]
    if len(set(names)) < len(names):
        raise InputError(f"sweep: two measures are called {max(names, key=names.count)}")
    if workers is not None:
        check_whole("sweep", "workers", workers)
    taken = {*grid.table.columns, "feature", "train_loss", "diverged_step", "engine"}
    clash = [name for name in names if taken & {name, f"{name}_error"}]
    if clash:
        raise InputError(f"sweep: a measure is called {clash[0]}, as another column of the table is")
    snapshots = [int(step) for step in snapshots]
    for stack, _ in grid.groups:
        check_snapshots(stack.setting, snapshots)

    arrays: dict[str, np.ndarray] = {}
    identity = {
        "setting": describe(grid.setting, arrays),
        "axes": describe(grid.axes, arrays),
        "measures": names,
        "snapshots": snapshots,
        "device": device.type,
        "compile": compile,
        "source": source_digest([*_own_code(grid), *measures]),
    }
    temporary = _Temporary() if results is None else None
    store = Store.create(Path(temporary.path if temporary else results), name, identity, arrays)
    jobs = _jobs(grid, device, compile)
    finished = store.finished()
    # by turns of the groups, so that workers compile different shapes at the same time rather than the same one twice
    todo = sorted((job for job in jobs if job.chunk not in finished), key=lambda job: (job.turn, job.chunk))
    if any(job.compile for job in todo):
        load_compiler()

    steps = sum(len(job.stack) * job.stack.setting.steps for job in todo)
    count = min(len(todo), workers or len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1)
    enough = workers or sum(work(job.stack) for job in todo) >= WORTH_FORKING
    forked = enough and count > 1 and device.type == "cpu" and threading.current_thread() is threading.main_thread()
    with tqdm(total=steps, unit="step", unit_scale=True, desc=f"{name}: {len(grid):,} instances",
              disable=None if progress is None else not progress) as bar:  # fmt: skip

        def tell(done: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            bar.update(done)

        rest = (store, list(measures), device, snapshots)
        if forked:
            _run_in_workers(todo, rest, count, tell)
        else:
            for job in todo:
                _perform(job, *rest, tell)
    answer = Results(store, grid, jobs, temporary)
    diverged = int((answer.table["diverged_step"] >= 0).sum())
    if diverged:
        warnings.warn(
            f"{name}: {diverged} of {len(grid)} instances diverged and were frozen (diverged_step)", stacklevel=2
        )
    return answer


class Results:
    """A sweep's answers: `table` (a row per instance), `features` (a row per instance and feature) and the networks."""

    def __init__(self, store: Store, grid: Grid, jobs: list[_Job], temporary: Any = None) -> None:
        self.store, self.grid, self._jobs, self._temporary = store, grid, jobs, temporary

    @property
    def path(self) -> Path:
        """The folder."""
        return self.store.path

    def _gather(self, kind: str) -> pd.DataFrame:
        parts = [part for job in self._jobs if (part := self.store.table(job.chunk, kind)) is not None]
        if 0 < len(parts) < len(self._jobs):
            raise InputError(f"results: {self.path} lacks some of its {kind} files; move it away and rerun")
        if not parts:
            return pd.DataFrame({"row": pd.Series(dtype=int)})
        return self.grid.table.merge(pd.concat(parts, ignore_index=True), on="row", validate="one_to_many")

    @cached_property
    def table(self) -> pd.DataFrame:
        """Axes, measures and their `_error`s, train_loss, diverged_step (-1: never) and engine, in the grid's order."""
        return self._gather("parquet").sort_values("row", ignore_index=True)

    @cached_property
    def features(self) -> pd.DataFrame:
        """Axes and vector measures, one row per instance and feature; empty where no measure gives vectors."""
        return self._gather("features.parquet")

    def _find(self, row: int) -> tuple[_Job, int]:
        for job in self._jobs:
            at = np.flatnonzero(job.rows == row)
            if len(at):
                return job, int(at[0])
        raise InputError(f"results: row must lie in [0, {len(self.grid)}), got {row}")

    def trained(self, chunk: int) -> Trained:
        """One chunk as it was after training, so that new measures need no new training."""
        job = self._jobs[chunk]
        stack = job.stack.take(range(len(job.rows)))
        tensors = self.store.weights(chunk)
        snapshots: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("snapshots."):
                _, step, rest = name.split(".", 2)
                snapshots.setdefault(int(step), {})[rest] = tensor
        parameters = {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith("parameters.")}
        _, buffers = initial_values(stack)  # frozen: the same pure draw as at the start
        return Trained(
            stack,
            parameters,
            buffers,
            task_constants(stack),
            tensors["history"],
            tensors["diverged_step"],
            snapshots,
            "",
        )

    def measure(self, measure: Measure, snapshot: int | None = None) -> pd.DataFrame:
        """A further measure of all instances from the weights on disk, at the end or at a snapshot.

        A table as in `table` or, for a vector, as in `features`.
        """
        parts = []
        for chunk, job in enumerate(self._jobs):
            trained = self.trained(chunk)
            wide, long = _frames(job, trained if snapshot is None else trained.at(snapshot), [measure])
            parts.append(wide.drop(columns=["train_loss", "diverged_step"]) if long is None else long)
        return self.grid.table.merge(pd.concat(parts, ignore_index=True), on="row")

    def model(self, row: int) -> nn.Module:
        """The trained network of one row, as an ordinary module."""
        job, at = self._find(row)
        return self.trained(job.chunk).model(at)

    def history(self, row: int) -> np.ndarray:
        """Training loss of one row, averaged over equal stretches of training."""
        job, at = self._find(row)
        return self.store.weights(job.chunk, ["history"])["history"][at].numpy()


def load(path: Path | str) -> Results:
    """A finished sweep from its folder. InputError where it is unfinished, damaged or needs classes not at hand."""
    store = Store(Path(path))
    identity, arrays = store.identity(), store.arrays()
    grid = Grid(rebuild(identity["setting"], arrays), rebuild(identity["axes"], arrays))
    jobs = _jobs(grid, torch.device(identity["device"]), identity["compile"])
    missing = {job.chunk for job in jobs} - store.finished()
    if missing:
        raise InputError(f"results: {path} lacks {len(missing)} of {len(jobs)} chunks; rerun its sweep to finish it")
    if any(not np.array_equal(store.table(job.chunk, columns=["row"])["row"], job.rows) for job in jobs):
        raise InputError(f"results: {path} was cut into other chunks, by another version; rerun its sweep")
    return Results(store, grid, jobs)
