"""A grid of settings -> stacks of equal shape -> chunks -> results; unfinished sweeps are resumed."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
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
    Engine,
    Stack,
    Trained,
    check_snapshots,
    chunks,
    engine_for,
    initial_values,
    load_compiler,
    prepare,
    resolve_device,
    step_key,
    task_constants,
    train_chunk,
    work,
    worth_compiling,
)
from toysup.grid import Grid
from toysup.measure import held_out_loss, recovered
from toysup.setting import describe, rebuild
from toysup.store import Store, source_digest
from toysup.workers import Tell, in_parallel, usable_workers

__all__ = ["Grid", "Results", "load", "sweep"]

Measure = Callable[[Trained], Any]
WORTH_FORKING = 2e8  # `ensemble.work` below which one process is done before workers have warmed up


@dataclass(frozen=True)
class _Job:
    """One chunk of the sweep: which instances of which stack, how many of them are padding, and where they belong."""

    chunk: int
    stack: Stack
    rows: np.ndarray  # rows of the table; shorter than the stack where the last chunk is padded
    key: str  # jobs with the same key are served by one step function
    compile: bool
    engine: str


def _jobs(grid: Grid, device: torch.device, engine: Engine, compile: bool | None) -> list[_Job]:
    cut = []
    for stack, rows in grid.groups:
        used = engine_for(stack, device, engine)
        for number, part in enumerate(chunks(stack, device, used)):
            real = min(len(part), len(rows) - number * len(part))
            cut.append((stack.take(part), rows[part[:real]], used))
    keys = [step_key(stack, device) for stack, *_ in cut]
    sharing: dict[str, list[Stack]] = {}
    for key, (stack, _, used) in zip(keys, cut, strict=True):
        if used == "general":
            sharing.setdefault(key, []).append(stack)
    wanted = {key: worth_compiling(*stacks) if compile is None else compile for key, stacks in sharing.items()}
    return [
        _Job(n, stack, rows, key, wanted.get(key, False), used)
        for n, (key, (stack, rows, used)) in enumerate(zip(keys, cut, strict=True))
    ]


def _queues(jobs: Sequence[_Job], workers: int) -> list[list[_Job]]:
    """Jobs in the order to do them, most work first: those that share a compilation together, if that keeps balance."""
    shared: dict[str, list[_Job]] = {}
    for job in jobs:
        shared.setdefault(job.key, []).append(job)
    fair = sum(work(job.stack, job.engine) for job in jobs) / (2 * workers)
    queues = []
    for together in shared.values():
        small = sum(work(job.stack, job.engine) for job in together) <= fair
        queues += [together] if small else [[job] for job in together]
    return sorted(queues, key=lambda queue: -sum(work(job.stack, job.engine) for job in queue))


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
        job.stack,
        device=device,
        compile=job.compile,
        engine=job.engine,
        snapshots=snapshots,
        on_progress=on_progress,
    ).take(range(len(job.rows)))
    table, features = _frames(job, trained, measures)
    table["engine"] = trained.engine
    tensors = {f"parameters.{name}": tensor for name, tensor in trained.parameters.items()}
    tensors |= {"history": trained.history, "diverged_step": trained.diverged_step}
    for step, kept in trained.snapshots.items():
        tensors |= {f"snapshots.{step}.{name}": tensor for name, tensor in kept.items()}
    store.write(job.chunk, table, features, tensors)
    return trained.engine


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
    grid: Grid | Mapping[str, Grid],
    measures: Sequence[Measure] = (held_out_loss, recovered),
    *,
    results: Path | str | None = None,
    name: str = "sweep",
    device: str | torch.device = "auto",
    engine: Engine = "auto",
    compile: bool | None = None,
    workers: int | None = None,
    snapshots: Sequence[int] = (),
    progress: bool | None = None,
) -> Any:
    """Train and measure every instance of the grid; chunks already finished in `results` are not trained again.

    grid: one Grid, which gives one `Results`; or several by name, done together, which give a dict of them.
    results: parent folder; the sweep's own is `<name>-<hash>` below it. None keeps everything in a temporary folder.
    workers: processes that share the chunks (CPU on Linux; default: one for each core); the numbers don't depend on it.
    engine: "auto" trains each shape by a fused kernel where one fits, else by the general path; either can be forced.
    compile: for the general path; None decides by the amount of work in each shape. snapshots: steps after which
    weights are kept as well.
    progress: True or False for the bar; None shows it on a terminal only.

    Raises InputError before training for an unknown device or measure, and for a results folder that is damaged or was
    made by another config.
    """
    if isinstance(grid, Grid):
        options = {"device": device, "engine": engine, "compile": compile, "workers": workers, "snapshots": snapshots}
        return sweep({name: grid}, measures, results=results, progress=progress, **options)[name]
    device = resolve_device(device)
    if workers is not None:
        check_whole("sweep", "workers", workers)
    snapshots = [int(step) for step in snapshots]
    answers = {
        name: _open(one, measures, results, name, device, engine, compile, snapshots) for name, one in grid.items()
    }

    store_of, todo = {}, []
    for answer in answers.values():
        finished = answer.store.finished()
        left = [job for job in answer.jobs if job.chunk not in finished]
        store_of |= {id(job): answer.store for job in left}
        todo += left
    if any(job.compile for job in todo):
        load_compiler()
    prepare([job.stack for job in todo if job.engine == "fused"])
    enough = workers is not None or sum(work(job.stack, job.engine) for job in todo) >= WORTH_FORKING
    count = usable_workers(workers) if enough and device.type == "cpu" else 1

    def piece(job: _Job) -> Callable[[Tell], None]:
        return lambda tell: _perform(job, store_of[id(job)], measures, device, snapshots, tell)

    steps = sum(len(job.stack) * job.stack.setting.steps for job in todo)
    title = f"{', '.join(grid)}: {sum(map(len, grid.values())):,} instances"
    with tqdm(
        total=steps, unit="step", unit_scale=True, desc=title, disable=None if progress is None else not progress
    ) as bar:

        def tell(done: float, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            bar.update(done)

        started = time.perf_counter()
        in_parallel([[piece(job) for job in queue] for queue in _queues(todo, count)], count, tell)
    elapsed, whole = time.perf_counter() - started, sum(work(job.stack, job.engine) for job in todo)
    for name, answer in answers.items():
        mine = sum(work(job.stack, job.engine) for job in todo if store_of[id(job)] is answer.store)
        answer.store.seconds(elapsed * mine / whole if mine else 0.0)
        diverged = int((answer.table["diverged_step"] >= 0).sum())
        if diverged:
            said = f"{name}: {diverged} of {len(answer.grid)} instances diverged and were frozen (diverged_step)"
            warnings.warn(said, stacklevel=2)
    return answers


def _open(
    grid: Grid,
    measures: Sequence[Measure],
    results: Path | str | None,
    name: str,
    device: torch.device,
    engine: Engine,
    compile: bool | None,
    snapshots: list[int],
) -> Results:
    """Check everything that can be checked, and the folder with whatever it holds already."""
    for measure in measures:
        if not callable(measure) or not hasattr(measure, "__name__"):
            raise InputError(f"sweep: a measure must be a named function of a Trained, got {measure!r}")
    names = [measure.__name__ for measure in measures]
    if len(set(names)) < len(names):
        raise InputError(f"sweep: two measures are called {max(names, key=names.count)}")
    taken = {*grid.table.columns, "feature", "train_loss", "diverged_step", "engine"}
    clash = [name for name in names if taken & {name, f"{name}_error"}]
    if clash:
        raise InputError(f"sweep: a measure is called {clash[0]}, as another column of the table is")
    for stack, _ in grid.groups:
        check_snapshots(stack.setting, snapshots)
    arrays: dict[str, np.ndarray] = {}
    identity = {
        "setting": describe(grid.setting, arrays),
        "axes": describe(grid.axes, arrays),
        "measures": names,
        "snapshots": snapshots,
        "device": device.type,
        "engine": engine,
        "compile": compile,
        "source": source_digest([*_own_code(grid), *measures]),
    }
    temporary = _Temporary() if results is None else None
    store = Store.create(Path(temporary.path if temporary else results), name, identity, arrays)
    return Results(store, grid, _jobs(grid, device, engine, compile), temporary)


class Results:
    """A sweep's answers: `table` (a row per instance), `features` (a row per instance and feature) and the networks."""

    def __init__(self, store: Store, grid: Grid, jobs: list[_Job], temporary: Any = None) -> None:
        self.store, self.grid, self.jobs, self._temporary = store, grid, jobs, temporary

    @property
    def path(self) -> Path:
        """The folder."""
        return self.store.path

    def _gather(self, kind: str) -> pd.DataFrame:
        parts = [part for job in self.jobs if (part := self.store.table(job.chunk, kind)) is not None]
        if 0 < len(parts) < len(self.jobs):
            raise InputError(f"results: {self.path} lacks some of its {kind} files; move it away and rerun")
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
        return self._gather("parquet").sort_values("row", ignore_index=True)

    @cached_property
    def features(self) -> pd.DataFrame:
        """Axes and vector measures, one row per instance and feature; empty where no measure gives vectors."""
        return self._gather("features.parquet")

    def _find(self, row: int) -> tuple[_Job, int]:
        for job in self.jobs:
            at = np.flatnonzero(job.rows == row)
            if len(at):
                return job, int(at[0])
        raise InputError(f"results: row must lie in [0, {len(self.grid)}), got {row}")

    def trained(self, chunk: int) -> Trained:
        """One chunk as it was after training, so that new measures need no new training."""
        job = self.jobs[chunk]
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
        for chunk, job in enumerate(self.jobs):
            trained = self.trained(chunk)
            wide, long = _frames(job, trained if snapshot is None else trained.at(snapshot), [measure])
            parts.append(wide.drop(columns=["train_loss", "diverged_step"]) if long is None else long)
        return self.grid.table.merge(pd.concat(parts, ignore_index=True), on="row")

    def parameters(self, name: str) -> np.ndarray:
        """One parameter of every instance, (row, ...), where all have it in one shape (InputError otherwise)."""
        whole = f"parameters.{name}"
        found = [self.store.weights(job.chunk, [whole]).get(whole) for job in self.jobs]
        arrays = [tensor.numpy() for tensor in found if tensor is not None]
        if len(arrays) < len(found) or len({array.shape[1:] for array in arrays}) > 1:
            raise InputError(f"results: no parameter {name!r} that all instances have in one shape")
        order = np.argsort(np.concatenate([job.rows for job in self.jobs]))
        return np.concatenate(arrays)[order]

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
    jobs = _jobs(grid, torch.device(identity["device"]), identity["engine"], identity["compile"])
    missing = {job.chunk for job in jobs} - store.finished()
    if missing:
        raise InputError(f"results: {path} lacks {len(missing)} of {len(jobs)} chunks; rerun its sweep to finish it")
    if any(not np.array_equal(store.table(job.chunk, columns=["row"])["row"], job.rows) for job in jobs):
        raise InputError(f"results: {path} was cut into other chunks, by another version; rerun its sweep")
    return Results(store, grid, jobs)
