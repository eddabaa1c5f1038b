"""How benchmark_engines.py times engines: each in a fresh process, asked in turn."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
import pandas as pd
import torch
from _engines import ENGINES, OCCHIO, Residual, Tied, ours
from llvmlite import binding as llvm

from toysup.ensemble import load_compiler
from toysup.random import uniforms

# train() starts and ends in up to 20 ms (2,500 instances), which no real training notices; nor should these
LONGER = {"fused": 4, "fused_twice": 4, "auto": 4, "general": 4, "eager": 4}
FEWEST = {"general": 20, "eager": 20}  # steps: each chunk is begun and ended


def clocked(steps: Iterable[int], tell: Callable[[float], object]) -> Iterator[int]:
    """The numbers of steps to train; `tell` hears of the seconds that each took."""
    for number in steps:
        start = time.perf_counter()
        yield number
        tell(time.perf_counter() - start)


def serve(pipe: Connection, parent: int, name: str, work: Tied | Residual | None) -> None:
    """A process's whole life: steps in, seconds out, 0 ends it. A failure is told as text."""

    def hear() -> int:
        while not pipe.poll(5):
            if os.getppid() != parent:  # killed: it can send no 0 any more
                return 0
        return pipe.recv()

    torch.set_num_threads(1)
    try:
        ENGINES[name](work, clocked(iter(hear, 0), pipe.send))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")


class Refused(Exception):
    """An engine cannot do a workload."""


class Child:
    """One engine on one workload in a fresh process: called with a number of steps, it returns their seconds.

    It is a fork of this process, which trains nothing before the last was timed, so no engine meets another's traces.
    """

    def __init__(self, name: str, work: Tied | Residual | None) -> None:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, os.getpid(), name, work), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle library threads
            self.process.start()
        theirs.close()

    def __call__(self, steps: int) -> float:
        try:
            self.pipe.send(steps)
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            answer = "its process ended (out of memory?)"
        if isinstance(answer, str):
            raise Refused(answer)
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(0)
        self.process.join(10)
        self.process.kill()


def steps_for(child: Child, aim: float, fewest: int = 1) -> int:
    """Steps that take about `aim` seconds, once the first has compiled what there is to compile."""
    child(1)
    steps = 1
    while (seconds := child(steps)) < aim / 4:
        steps *= 4
    return max(fewest, round(steps * aim / seconds))


def race(names: Iterable[str], work: Tied | Residual | None, aim: float, repetitions: int) -> pd.DataFrame:
    """Ask the engines in turn, each for steps of about `aim` seconds (our fastest for more). A row for each engine and
    repetition: who, instance-steps per second (rate), steps at once; or why an engine took no part (refused)."""
    seconds, refused, children = {}, {}, {}
    with contextlib.ExitStack() as stack:
        for name in names:
            child = stack.enter_context(contextlib.closing(Child(name, work)))
            try:
                children[name] = child, steps_for(child, aim * LONGER.get(name, 1), FEWEST.get(name, 1))
            except Refused as reason:
                refused[name] = str(reason)
        for _ in range(repetitions):
            for name in [name for name in children if name not in refused]:
                child, steps = children[name]
                try:
                    seconds.setdefault(name, []).append(child(steps))
                except Refused as reason:
                    refused[name] = str(reason)
    steps = {name: children[name][1] for name in seconds if name not in refused}
    return _table(work, {name: (steps[name], seconds[name]) for name in steps}, refused)


TARGETS = {  # what a process reads as it starts, to take this processor for one without wider registers
    "avx2": {"NUMBA_CPU_NAME": "znver3", "NUMBA_CPU_FEATURES": "+avx2,+fma,+popcnt,+bmi,+bmi2,+lzcnt",
             "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}  # fmt: skip


def instructions() -> str:
    """The widest vector instructions of this processor that kernels are written for."""
    here = llvm.get_host_cpu_features()
    return next((name for name in ("avx512f", "avx2") if here.get(name)), platform.machine()).removesuffix("f")


@contextlib.contextmanager
def elsewhere(target: str) -> Iterator[Callable[..., pd.DataFrame]]:
    """`race`, in a process that takes this processor for another: numba, torch and MKL choose as they are loaded."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    before = dict(os.environ)
    os.environ.update(TARGETS[target])
    try:
        process = context.Process(target=_races, args=(theirs, os.getpid()))
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()

    def race_there(*given: object) -> pd.DataFrame:
        pipe.send(given)
        return pipe.recv()

    try:
        yield race_there
    finally:
        with contextlib.suppress(OSError):
            pipe.send(())
        process.join(10)
        process.kill()


def _races(pipe: Connection, parent: int) -> None:
    load_compiler()
    uniforms(0, 0, 1, 1)
    while True:
        while not pipe.poll(5):
            if os.getppid() != parent:
                return
        given = pipe.recv()
        if not given:
            return
        pipe.send(race(*given))


def race_here(names: Iterable[str], work: Tied, *_: float) -> pd.DataFrame:
    """`race` for the form alone: in this process, uncompiled, one engine after the other."""
    engines, seconds = {**ENGINES, "general": partial(ours, engine="general", compile=False)}, {}
    for name in names:
        engines[name](work, clocked([2, 2], seconds.setdefault(name, []).append))
    return _table(work, {name: (2, own) for name, own in seconds.items()}, {})


def _table(work: Tied | Residual | None, timed: dict[str, tuple[int, list[float]]], refused: dict) -> pd.DataFrame:
    done = [(name, getattr(work, "instances", 1) * steps / taken, steps, None)
            for name, (steps, seconds) in timed.items() for taken in seconds]  # fmt: skip
    failed = [(name, np.nan, 0, why) for name, why in refused.items()]
    table = pd.DataFrame(done + failed, columns=["who", "rate", "steps", "refused"])
    return table.assign(engine=table["who"].where(table["who"].isin(["fused", "general", "auto"])))


def rates_of(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each engine's rates, in the order of the repetitions."""
    return {who: own.to_numpy() for who, own in rows.dropna(subset="rate").groupby("who", sort=False)["rate"]}


def compared(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """`rates_of`, the fastest of occhio's modes for all of them."""
    rates = rates_of(rows)
    modes = [rates.pop(name) for name in OCCHIO if name in rates]
    return rates | ({"occhio": max(modes, key=np.median)} if modes else {})
