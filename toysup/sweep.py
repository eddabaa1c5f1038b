"""A grid of settings -> stacks of equal shape -> chunks -> results; unfinished sweeps are resumed."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from toysup.checks import (
    InputError,
    check_flag,
    check_folder,
    check_kind,
    check_measures,
    check_name,
    check_whole,
    in_line,
    whole_numbers,
)
from toysup.ensemble import (
    Engine,
    check_snapshots,
    chunks,
    engine_for,
    held_out,
    load_compiler,
    prepare,
    resolve_device,
    step_key,
    train_chunk,
    work,
    worth_compiling,
)
from toysup.grid import RESERVED, Axis, Grid
from toysup.identity import Once
from toysup.measure import held_out_loss, recovered, unseen
from toysup.results import (
    Cut,
    Job,
    Measure,
    Results,
    all_measured,
    jobs_of,
    key_of,
    load,
    of_rows,
    tensors_of,
    trainer_of,
)
from toysup.safely import under_usual_defaults
from toysup.setting import describe
from toysup.store import Store
from toysup.workers import Tell, in_parallel, interruptible, usable_workers

__all__ = ["Axis", "Grid", "Results", "load", "sweep"]

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


class _Keeper:
    """Keeps how far the training of a chunk has come, now and then: as much is lost where it is stopped."""

    EVERY, SHARE = 5.0, 0.01  # seconds between two times; at most this share of the time goes into it

    def __init__(self, store: Store, job: Job) -> None:
        self.store, self.job, self.last, self.pause = store, job, time.monotonic(), self.EVERY

    def __call__(self, state: Callable[[], dict[str, torch.Tensor]]) -> None:
        started = time.monotonic()
        if started - self.last < self.pause:
            return
        self.store.write_part(self.job.chunk, self.job.rows, state())
        self.last = time.monotonic()
        self.pause = max(self.EVERY, (self.last - started) / self.SHARE)


def _perform(
    job: Job,
    results: Results,
    measures: Sequence[Measure],
    device: torch.device,
    snapshots: Sequence[int],
    tell: Callable[[float, float], None],
) -> bool:
    """Train one chunk, unless it is trained by now, and keep it; then measure what is not measured yet.

    False where another process is at it.
    """
    if results.temporary:
        _train_and_measure(job, results, measures, device, snapshots, tell)
        return True
    claim = results.store.claim(job.chunk)
    if not claim.taken():
        return False
    try:
        _train_and_measure(job, results, measures, device, snapshots, tell)
    finally:
        claim.given_back()
    return True


def _train_and_measure(
    job: Job,
    results: Results,
    measures: Sequence[Measure],
    device: torch.device,
    snapshots: Sequence[int],
    tell: Callable[[float, float], None],
) -> None:
    import pandas as pd  # slow to import

    store, steps, told = results.store, len(job.stack) * job.stack.setting.steps, 0.0

    def on_progress(done: float, loss: float) -> None:
        nonlocal told
        told += done
        tell(done, loss)

    trained = None
    if not store.is_trained(job.chunk):
        temporary = results.temporary is not None
        trained = train_chunk(
            job.stack,
            device=device,
            compile=job.compile,
            engine=job.engine,
            snapshots=snapshots,
            on_progress=on_progress,
            keep=None if temporary else _Keeper(store, job),
            resume=None if temporary else store.part(job.chunk, job.rows),
        )
        trained = of_rows(trained.take(range(len(job.rows))), job.rows)
        table = {"row": job.rows, "train_loss": trained.history[:, -1].numpy()}
        table |= {"diverged_step": trained.diverged_step.numpy(), "engine": trained.engine}
        store.write(job.chunk, pd.DataFrame(table), tensors_of(trained))
    tell(steps - told, np.nan)  # what another process did, or an earlier run
    wanted = [measure for measure in measures if not store.is_measured(job.chunk, results.keys[measure.__name__])]
    if wanted:
        kept = "" if results.temporary else f"; the trained networks are kept in {store.path}"
        trained = trained or results.part(job)
        taken = results.taken(job.chunk, [measure.__name__ for measure in measures if measure not in wanted])
        for measure, table in all_measured(trained, wanted, taken, kept):
            store.write_measure(job.chunk, results.keys[measure.__name__], table)


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
    durable: bool = True,
) -> Any:
    """Train and measure every instance of the grid; networks already trained in `results` are not trained again, and
    measures that are new or changed are computed from their weights.

    grid: one Grid, which gives one `Results`; or several by name, done together, which give a dict of them.
    measures: functions of a `Trained` that give (instance,) or (instance, feature), an `Estimate` of one, or a mapping
    of several: a column named after the function, or one for each key.
    results: parent folder; the sweep's own is `<name>-<hash>` below it, the hash that of the setting, the axes and the
    code that trains. None keeps everything in a temporary folder.
    workers: processes that share the chunks (CPU on Linux; default: one for each core); the numbers don't depend on it.
    engine: "auto" trains each shape by a fused kernel where one fits, else by the general path; either can be forced.
    compile: for the general path; None decides by the amount of work in each shape. snapshots: steps after which
    weights are kept as well.
    progress: True or False for the bar; None shows it on a terminal only. durable: whether finished chunks are brought
    to the disk at once, so that they outlive a power failure.

    What is done is kept as it is done, training also while it goes on: a sweep that is stopped (Ctrl-C, SIGTERM, a
    crash) and started again loses some seconds. Several processes, on one machine or on several that share the folder,
    share the work.

    Raises InputError before training for an unknown device or measure, for code that cannot be told apart from other
    code (so that its results could not be recognised), and for a results folder that is damaged or was made by another
    config; and after training where a measure fails, with its name and the row, the networks being kept.
    """
    measures = check_measures("sweep", measures)
    if isinstance(grid, Grid):
        check_name("sweep", "name", name)
        options = {"device": device, "engine": engine, "compile": compile, "workers": workers, "snapshots": snapshots}
        return sweep({name: grid}, measures, results=results, progress=progress, durable=durable, **options)[name]
    if not isinstance(grid, Mapping) or not grid:
        raise InputError(f"sweep: expected a Grid, or Grids by name, got {in_line(grid)}")
    for given, one in grid.items():
        check_name("sweep", "name", given)
        check_kind("sweep", f"grid {given!r}", one, Grid)
    device = resolve_device(device)
    if workers is not None:
        check_whole("sweep", "workers", workers)
    for name, flag in {"compile": compile, "progress": progress}.items():
        if flag is not None and not isinstance(flag, bool):
            raise InputError(f"sweep: {name} must be True, False or None, got {in_line(flag)}")
    check_flag("sweep", "durable", durable)
    if results is not None:
        check_folder("sweep", "results", results)
    snapshots = sorted(set(whole_numbers("sweep", "snapshots", snapshots)))
    code = Once(None if results is not None else "untold")  # nobody will look for what is kept nowhere
    answers: dict[str, Results] = {}
    with interruptible(partial(_said, answers, results is not None)):
        for name, one in grid.items():
            options = (measures, results, name, device, engine, compile, snapshots, code, durable)
            answers[name] = _open(one, *options)
        _work_off(answers, measures, device, workers, snapshots, progress)
    afterwards = Once()
    for name, answer in answers.items():
        if results is not None and not answer.still_told(measures, afterwards):
            said = f"{name}: its code changed as it ran (a counter, or a cache among its globals?), so "
            warnings.warn(said + "that its results will not be found again", stacklevel=2)
        diverged = int((answer.table["diverged_step"] >= 0).sum())
        if diverged:
            said = f"{name}: {diverged} of {len(answer.grid)} instances diverged and were frozen (diverged_step)"
            warnings.warn(said, stacklevel=2)
    return answers


def _said(answers: Mapping[str, Results], kept: bool) -> str:
    """What to say where a sweep is stopped."""
    if not kept:
        return "toysup: stopped; nothing is kept, since no results folder was given"
    if not answers:
        return "toysup: stopped before anything was trained"
    done = [len(job.rows) for answer in answers.values() for job in answer.jobs if answer.store.is_trained(job.chunk)]
    total = sum(len(answer.grid) for answer in answers.values())
    place = next(iter(answers.values())).path.parent
    return (
        f"toysup: stopped; {sum(done):,} of {total:,} instances are trained and kept in {place}, those in work as "
        "far as they were; run the same again to go on"
    )


def _work_off(
    answers: Mapping[str, Results],
    measures: Sequence[Measure],
    device: torch.device,
    workers: int | None,
    snapshots: Sequence[int],
    progress: bool | None,
) -> None:
    """Train and measure what is not yet, and count the seconds that takes, also where it is stopped."""
    todo: list[tuple[Job, Results]] = []
    new: set[int] = set()  # ids of the jobs that are to be trained
    for answer in answers.values():
        answer.verify(whole=False)
        done = answer.store.trained()
        there = [answer.store.measured(key) for key in answer.keys.values()]
        for job in answer.jobs:
            if job.chunk not in done:
                new.add(id(job))
            if job.chunk not in done or not all(job.chunk in chunks for chunks in there):
                todo.append((job, answer))
    of = {id(job): answer for job, answer in todo}
    jobs = [job for job, _ in todo]
    training = [job for job in jobs if id(job) in new]
    importlib.import_module("pandas")  # slow to import: once, before workers are forked that all need it
    if any(job.compile for job in training):
        load_compiler()
    fused = [job.stack for job in training if job.engine == "fused"]
    prepare(fused)
    if measures:
        held_out.prepare(fused)
    amount = sum(job.work() for job in training)
    amount += sum(work(job.stack) * MEASURED / (job.stack.setting.steps * job.stack.setting.batch)
                  for job in jobs if id(job) not in new)  # fmt: skip
    enough = workers is not None or amount >= WORTH_FORKING
    count = usable_workers(workers) if enough and device.type == "cpu" else 1

    def piece(job: Job) -> Callable[[Tell], bool]:
        return partial(_perform, job, of[id(job)], measures, device, snapshots)

    steps = sum(len(job.stack) * job.stack.setting.steps for job in jobs)
    title = f"{', '.join(answers)}: {sum(len(answer.grid) for answer in answers.values()):,} instances"
    silent = sys.stderr is None or (None if progress is None else not progress)
    with tqdm(total=steps, unit="step", unit_scale=True, desc=title, disable=silent) as bar:

        def tell(done: float, loss: float) -> None:
            if np.isfinite(loss):
                bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            bar.update(done)

        started, whole = time.perf_counter(), sum(job.work() for job in jobs)
        try:
            in_parallel([[piece(job) for job in queue] for queue in _queues(jobs, count)], count, tell)
        finally:
            elapsed = time.perf_counter() - started
            for answer in answers.values():
                mine = sum(job.work() for job in jobs if of[id(job)] is answer)
                with contextlib.suppress(InputError):  # whatever ends it is what to say
                    answer.store.seconds(elapsed * mine / whole if mine else 0.0)


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
    durable: bool,
) -> Results:
    """Check everything that can be checked, and the folder with whatever it holds already."""
    names = [measure.__name__ for measure in measures]
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
        "axes": describe(grid.account, arrays, code),
        "snapshots": snapshots,
        "device": device.type,
        "cut": cut,
        "code": trainer_of(grid, cut, code),
    }
    temporary = _Temporary() if results is None else None
    durable = durable and temporary is None
    store = Store.create(Path(temporary.path if temporary else results), name, account, arrays, durable)
    keys = {measure.__name__: key_of(measure, code) for measure in measures}
    store.ask(keys)
    return Results(store, grid, jobs_of(grid, device, cut), keys, account, temporary)
