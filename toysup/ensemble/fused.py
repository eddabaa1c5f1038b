"""The fast path: settings that fit a fused kernel of `toysup.kernels`, handed to it instance by instance."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toysup.ensemble import listed, residual, shallow
from toysup.ensemble.plan import Keep, Plan, resumed, scratch
from toysup.ensemble.rates import multipliers
from toysup.ensemble.stack import EAGER, Stack, initial_values, task_constants, work
from toysup.setting import Adam

__all__ = ["plan_of", "prepare", "run", "unfit"]

PIECES = 64  # calls of a kernel in which a stack is trained, at least, so that progress can be told
FAMILIES = (shallow, residual, listed)
_PREPARED: set[Any] = set()  # kinds of kernels


def _family(stack: Stack) -> tuple[Any, str]:
    """(the first family of kernels that is proved to know a stack, or None; why the others don't)."""
    reasons: dict[str, None] = {}
    for family in FAMILIES:
        reason = family.unfit(stack)
        if reason is None:
            return family, ""
        reasons[reason] = None
    return None, "; ".join(reasons)


def unfit(stack: Stack) -> str | None:
    """Why no fused kernel can train a stack, in a few words; None where one can."""
    family, reason = _family(stack)
    return reason if family is None else None


def plan_of(stack: Stack, dtype: type = np.float32) -> Plan:
    """The plan for a stack that is not `unfit`; dtype is that of the kernel's arithmetic."""
    return _family(stack)[0].plan_of(stack, dtype)


def prepare(stacks: Sequence[Stack]) -> None:
    """Compile the kernels that stacks need, or load them from disk: once, before workers are forked."""
    for stack in stacks:
        kind = _family(stack)[0].kind_of(stack)
        if kind in _PREPARED:
            continue
        _PREPARED.add(kind)
        one = stack.take([0])
        setting = dataclasses.replace(stack.setting, steps=1, batch=1, examples=None, optimizer=Adam())  # any schedule
        one = dataclasses.replace(one, setting=setting)
        run(one, plan_of(one), np.array([0, 1]))


class _Pace:
    """How much to do in one call of a kernel: about a second's work, since nothing can stop one on its way.

    Numbers don't depend on it: a kernel goes on where it stopped, to the bit.
    """

    CALL, FIRST = 1.0, 0.1  # seconds; the first call goes by an estimate that can be wrong by several times

    def __init__(self, stack: Stack) -> None:
        self.steps = stack.setting.steps
        self.rate = EAGER * len(stack) * self.steps / work(stack, "fused")  # instances x steps in a second
        self.limit = -(-len(stack) // PIECES)  # instances of a call, so that progress can be told
        self.wanted = self.FIRST

    def learned(self, done: int, seconds: float) -> None:
        """So many instance-steps took so long."""
        self.rate, self.wanted = done / max(seconds, 1e-6), self.CALL

    def instances(self) -> int:
        return max(1, min(self.limit, int(self.rate * self.wanted / self.steps)))

    def until(self, origin: int, instances: int) -> int:
        """The step to stop before."""
        left, more = self.steps - origin, max(1, int(self.rate * self.wanted / instances))
        return self.steps if left < 1.5 * more else origin + more


def run(
    stack: Stack,
    plan: Plan,
    edges: np.ndarray,
    *,
    snapshots: Sequence[int] = (),
    on_progress: Callable[[int, float], None] | None = None,
    threads: int = 1,
    keep: Keep | None = None,
    resume: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[int, dict[str, Tensor]]]:
    """(parameters, history, diverged_step, snapshots) of a stack after training, as `Trained` wants them.

    `keep` (one thread only) is called between calls of the kernel with a function that gives what `resume` goes on
    from.
    """
    setting, count = stack.setting, len(stack)
    optimizer, steps = setting.optimizer, setting.steps
    names = ("lr", "weight_decay", "beta1", "beta2", "eps")
    columns = [np.asarray(stack.varying.get(f"optimizer.{name}", getattr(optimizer, name)), float) for name in names]
    rates = np.stack([np.broadcast_to(column, count) for column in columns], axis=1)
    schedule = multipliers(optimizer, steps)
    start, marks = plan.theta.copy(), np.array(sorted(step for step in set(snapshots) if step > 0), dtype=np.int64)
    state = {
        "theta": plan.theta,
        "history": np.zeros((count, len(edges) - 1), np.float32),
        "kept": np.zeros((len(marks), *plan.theta.shape), plan.theta.dtype),
        "diverged": np.full(count, -1, np.int64),
    }
    seeds = np.ascontiguousarray(stack.data_seed, dtype=np.int64)
    pace, lock, stopped, before = _Pace(stack), threading.Lock(), threading.Event(), None
    position = 0  # of the first instance that nobody has taken
    if resume is not None:
        for name, array in state.items():
            array[...] = resume[name].numpy()
        position, *before = (resume[name].numpy() for name in ("position", "origin", "moments", "carry"))
        position, before = int(position), before if len(before[1]) else None

    def taken() -> tuple[slice, int, np.ndarray, np.ndarray] | None:
        """(instances, the step to go on from, their moments, what else is carried)."""
        nonlocal position, before
        with lock:
            if stopped.is_set() or position >= count:
                return None
            origin, *carried = before or (0, None, None)
            part = slice(position, min(count, position + (len(carried[0]) if before else pace.instances())))
            position, before = part.stop, None
        return part, int(origin), *(carried if origin else resumed(plan.theta[part]))

    def state_at(part: slice, origin: int, moments: np.ndarray, carry: np.ndarray) -> dict[str, Tensor]:
        now = dict(state)
        if origin == steps:
            now |= {"position": part.stop, "origin": 0, "moments": moments[:0], "carry": carry[:0]}
        else:
            now |= {"position": part.start, "origin": origin, "moments": moments, "carry": carry}
        return {name: torch.from_numpy(np.array(value)) for name, value in now.items()}

    def train_some() -> None:
        memory = scratch(plan.floats, plan.theta.dtype), scratch(plan.ints, np.int64)
        while (mine := taken()) is not None:
            part, origin, moments, carry = mine
            own, size = tuple(array[part] for array in plan.own), part.stop - part.start
            history, kept, diverged = state["history"][part], state["kept"][:, part], state["diverged"][part]
            while origin < steps and not stopped.is_set():
                until, started = pace.until(origin, size), time.perf_counter()
                plan.kernel(
                    plan.theta[part], own, seeds[part], rates[part], schedule, edges, marks, history, kept, diverged,
                    origin, until, moments, carry, plan.sizes, *memory,
                )  # fmt: skip
                with lock:
                    pace.learned(size * (until - origin), time.perf_counter() - started)
                    if on_progress:
                        full = np.searchsorted(edges, until, "right") - 2  # the last stretch that is
                        on_progress(size * (until - origin), float(np.mean(history[:, full])) if full >= 0 else np.nan)
                origin = until
                if keep:
                    keep(partial(state_at, part, origin, moments, carry))

    if threads == 1:
        train_some()
    else:
        with ThreadPoolExecutor(threads) as pool:
            try:
                for done in [pool.submit(train_some) for _ in range(threads)]:
                    done.result()
            finally:
                stopped.set()  # after what is being done now

    def tensors(theta: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value) for name, value in plan.unpack(theta).items()}

    taken_at = {0: tensors(start)} if 0 in snapshots else {}
    taken_at |= {int(step): tensors(theta) for step, theta in zip(marks, state["kept"], strict=True)}
    history, diverged = torch.from_numpy(state["history"]), torch.from_numpy(state["diverged"])
    return tensors(plan.theta), history, diverged, taken_at


def frozen_values(stack: Stack) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(buffers, constants) of every instance."""
    return initial_values(stack)[1], task_constants(stack)
