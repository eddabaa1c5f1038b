"""A grid of settings -> stacks of equal shape -> chunks -> results; unfinished sweeps are resumed."""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from toysup.checks import InputError, check_whole
from toysup.ensemble import (
    Engine,
    check_snapshots,
    chunks,
    engine_for,
    load_compiler,
    prepare,
    resolve_device,
    step_key,
    train_chunk,
    work,
    worth_compiling,
)
from toysup.grid import RESERVED, Grid
from toysup.identity import Once
from toysup.measure import held_out_loss, recovered, unseen
from toysup.results import Cut, Job, Measure, Results, jobs_of, key_of, load, measured, of_rows, tensors_of, trainer_of
from toysup.safely import under_usual_defaults
from toysup.setting import describe
from toysup.store import Store
from toysup.workers import Tell, in_parallel, usable_workers

__all__ = ["Grid", "Results", "load", "sweep"]

WORTH_FORKING = 2e8  # `ensemble.work` below which one process is done before workers have warmed up
MEASURED = 1 << 14  # samples that measures look at, about, for each instance


def _cut(grid: Grid, device: torch.device, engine: Engine, compile: bool | None) -> list[Cut]:
    """How every shape of a grid is cut and trained."""
    sizes, engines, sharing, keys = [], [], {}, []
    for stack, _ in grid.groups:
        used = engine_for(stack, device, engine)
        parts = chunks(stack, device, used)
        sizes.append(len(parts[0]))
        engines.append(used)
        keys.append(step_key(stack.take(parts[0]), device) if used == "general" else "")
        sharing.setdefault(keys[-1], []).append(stack)
    wanted = {key: worth_compiling(*stacks) if compile is None else compile for key, stacks in sharing.items() if key}
    return [(size, used, wanted.get(key, False)) for size, used, key in zip(sizes, engines, keys, strict=True)]


def _queues(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Jobs in the order to do them, most work first: those that share a compilation together, if that keeps balance."""
    shared: dict[str, list[Job]] = {}
    for job in jobs:
        shared.setdefault(job.key, []).append(job)
    fair = sum(job.work() for job in jobs) / (2 * workers)
    queues = []
    for together in shared.values():
        small = sum(job.work() for job in together) <= fair
        queues += [together] if small else [[job] for job in together]
    return sorted(queues, key=lambda queue: -sum(job.work() for job in queue))


def _perform(
    job: Job,
    results: Results,
    measures: Sequence[Measure],
    device: torch.device,
    snapshots: Sequence[int],
    trained_already: bool,
    on_progress: Callable[[int, float], None],
) -> None:
    """Train one chunk, unless it is trained already, and keep it; then measure what is not measured yet."""
    store = results.store
    if trained_already:
        trained = results.part(job)
    else:
        trained = train_chunk(
            job.stack,
            device=device,
            compile=job.compile,
            engine=job.engine,
            snapshots=snapshots,
            on_progress=on_progress,
        ).take(range(len(job.rows)))
        trained = of_rows(trained, job.rows)
        table = {"row": job.rows, "train_loss": trained.history[:, -1].numpy()}
        table |= {"diverged_step": trained.diverged_step.numpy(), "engine": trained.engine}
        store.write(job.chunk, pd.DataFrame(table), tensors_of(trained))
    kept = "" if results.temporary else f"; the trained networks are kept in {store.path}"
    for measure in measures:
        store.write_measure(job.chunk, results.keys[measure.__name__], measured(job.rows, trained, measure, kept))


class _Temporary:
    """A folder that goes when this does."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="toysup-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@under_usual_defaults
def sweep(
    grid: Grid | Mapping[str, Grid],
    measures: Sequence[Measure] = (held_out_loss, recovered, unseen),
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
    """Train and measure every instance of the grid; networks already trained in `results` are not trained again, and
    measures that are new or changed are computed from their weights.

    grid: one Grid, which gives one `Results`; or several by name, done together, which give a dict of them.
    results: parent folder; the sweep's own is `<name>-<hash>` below it, the hash that of the setting, the axes and the
    code that trains. None keeps everything in a temporary folder.
    workers: processes that share the chunks (CPU on Linux; default: one for each core); the numbers don't depend on it.
    engine: "auto" trains each shape by a fused kernel where one fits, else by the general path; either can be forced.
    compile: for the general path; None decides by the amount of work in each shape. snapshots: steps after which
    weights are kept as well.
    progress: True or False for the bar; None shows it on a terminal only.

    Raises InputError before training for an unknown device or measure, for code that cannot be told apart from other
    code (so that its results could not be recognised), and for a results folder that is damaged or was made by another
    config; and after training where a measure fails, with its name and the row, the networks being kept.
    """
    if isinstance(grid, Grid):
        options = {"device": device, "engine": engine, "compile": compile, "workers": workers, "snapshots": snapshots}
        return sweep({name: grid}, measures, results=results, progress=progress, **options)[name]
    device = resolve_device(device)
    if workers is not None:
        check_whole("sweep", "workers", workers)
    if compile is not None and not isinstance(compile, bool):
        raise InputError(f"sweep: compile must be True, False or None, got {compile!r}")
    for step in snapshots:
        check_whole("sweep", "snapshots", step, 0)
    snapshots = sorted({int(step) for step in snapshots})
    code = Once(None if results is not None else "untold")  # nobody will look for what is kept nowhere
    answers = {
        name: _open(one, measures, results, name, device, engine, compile, snapshots, code)
        for name, one in grid.items()
    }

    todo: list[tuple[Job, Results]] = []
    new: set[int] = set()  # ids of the jobs that are to be trained
    lacking: dict[int, list[Measure]] = {}  # what is to be measured of each job
    for answer in answers.values():
        done = answer.store.trained()
        there = {measure: answer.store.measured(answer.keys[measure.__name__]) & done for measure in measures}
        for job in answer.jobs:
            lacking[id(job)] = [measure for measure in measures if job.chunk not in there[measure]]
            if job.chunk not in done:
                new.add(id(job))
            if job.chunk not in done or lacking[id(job)]:
                todo.append((job, answer))
    of = {id(job): answer for job, answer in todo}
    jobs = [job for job, _ in todo]
    training = [job for job in jobs if id(job) in new]
    if any(job.compile for job in training):
        load_compiler()
    prepare([job.stack for job in training if job.engine == "fused"])
    amount = sum(job.work() for job in training)
    amount += sum(work(job.stack) * MEASURED / (job.stack.setting.steps * job.stack.setting.batch)
                  for job in jobs if id(job) not in new)  # fmt: skip
    enough = workers is not None or amount >= WORTH_FORKING
    count = usable_workers(workers) if enough and device.type == "cpu" else 1

    def piece(job: Job) -> Callable[[Tell], None]:
        answer = of[id(job)]
        return lambda tell: _perform(job, answer, lacking[id(job)], device, snapshots, id(job) not in new, tell)

    steps = sum(len(job.stack) * job.stack.setting.steps for job in training)
    title = f"{', '.join(grid)}: {sum(map(len, grid.values())):,} instances"
    with tqdm(
        total=steps, unit="step", unit_scale=True, desc=title, disable=None if progress is None else not progress
    ) as bar:

        def tell(done: float, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            bar.update(done)

        started = time.perf_counter()
        in_parallel([[piece(job) for job in queue] for queue in _queues(jobs, count)], count, tell)
    afterwards = Once()
    elapsed, whole = time.perf_counter() - started, sum(job.work() for job in jobs)
    for name, answer in answers.items():
        mine = sum(job.work() for job in jobs if of[id(job)] is answer)
        answer.store.seconds(elapsed * mine / whole if mine else 0.0)
        if mine and results is not None and not answer.still_told(measures, afterwards):
            said = f"{name}: its code changed as it ran (a counter, or a cache among its globals?), so "
            warnings.warn(said + "that its results will not be found again", stacklevel=2)
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
    code: Once,
) -> Results:
    """Check everything that can be checked, and the folder with whatever it holds already."""
    for measure in measures:
        if not callable(measure) or not isinstance(getattr(measure, "__name__", None), str):
            raise InputError(f"sweep: a measure must be a named function of a Trained, got {measure!r}")
    names = [measure.__name__ for measure in measures]
    if len(set(names)) < len(names):
        raise InputError(f"sweep: two measures are called {max(names, key=names.count)}")
    taken = {*grid.table.columns, *RESERVED}
    clash = [name for name in names if taken & {name, f"{name}_error"} or f"{name}_error" in names]
    if clash:
        raise InputError(f"sweep: a measure is called {clash[0]}, as another column of the table is")
    for stack, _ in grid.groups:
        check_snapshots(stack.setting, snapshots)
    cut = _cut(grid, device, engine, compile)
    arrays: dict[str, np.ndarray] = {}
    account = {
        "setting": describe(grid.setting, arrays, code),
        "axes": describe(grid.axes, arrays, code),
        "snapshots": snapshots,
        "device": device.type,
        "cut": cut,
        "code": trainer_of(grid, cut, code),
    }
    temporary = _Temporary() if results is None else None
    store = Store.create(Path(temporary.path if temporary else results), name, account, arrays)
    keys = {measure.__name__: key_of(measure, code) for measure in measures}
    store.ask(keys)
    return Results(store, grid, jobs_of(grid, device, cut), keys, temporary)
