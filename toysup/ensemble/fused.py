"""The fast path: settings that fit a fused kernel of `toysup.kernels`, handed to it instance by instance."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toysup.ensemble import listed, residual, shallow
from toysup.ensemble.plan import Plan, scratch
from toysup.ensemble.rates import multipliers
from toysup.ensemble.stack import Stack, initial_values, task_constants
from toysup.setting import Adam

__all__ = ["plan_of", "prepare", "run", "unfit"]

PIECES = 64  # calls of a kernel in which a stack is trained, so that progress can be told
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


def run(
    stack: Stack,
    plan: Plan,
    edges: np.ndarray,
    *,
    snapshots: Sequence[int] = (),
    on_progress: Callable[[int, float], None] | None = None,
    threads: int = 1,
) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[int, dict[str, Tensor]]]:
    """(parameters, history, diverged_step, snapshots) of a stack after training, as `Trained` wants them."""
    setting, count = stack.setting, len(stack)
    optimizer, steps = setting.optimizer, setting.steps
    names = ("lr", "weight_decay", "beta1", "beta2", "eps")
    columns = [np.asarray(stack.varying.get(f"optimizer.{name}", getattr(optimizer, name)), float) for name in names]
    rates = np.stack([np.broadcast_to(column, count) for column in columns], axis=1)
    schedule = multipliers(optimizer, steps)
    start, marks = plan.theta.copy(), np.array(sorted(step for step in set(snapshots) if step > 0), dtype=np.int64)
    history = np.zeros((count, len(edges) - 1), np.float32)
    kept = np.zeros((len(marks), *plan.theta.shape), plan.theta.dtype)
    diverged = np.full(count, -1, np.int64)
    seeds = np.ascontiguousarray(stack.data_seed, dtype=np.int64)

    free: SimpleQueue[tuple[np.ndarray, np.ndarray]] = SimpleQueue()
    for _ in range(threads):
        free.put((scratch(plan.floats, plan.theta.dtype), scratch(plan.ints, np.int64)))

    def piece(part: slice) -> int:
        memory = free.get()
        try:
            own = tuple(array[part] for array in plan.own)
            plan.kernel(
                plan.theta[part], own, seeds[part], rates[part], schedule, edges, marks,
                history[part], kept[:, part], diverged[part], plan.sizes, *memory,
            )  # fmt: skip
        finally:
            free.put(memory)
        return part.stop - part.start

    bounds = np.unique(np.linspace(0, count, min(count, max(PIECES, threads)) + 1).astype(int))
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:
        for part, done in zip(parts, pool.map(piece, parts), strict=True):
            if on_progress:
                on_progress(done * steps, float(np.mean(history[part, -1])))

    def tensors(theta: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value) for name, value in plan.unpack(theta).items()}

    taken = {0: tensors(start)} if 0 in snapshots else {}
    taken |= {int(step): tensors(theta) for step, theta in zip(marks, kept, strict=True)}
    return tensors(plan.theta), torch.from_numpy(history), torch.from_numpy(diverged), taken


def frozen_values(stack: Stack) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(buffers, constants) of every instance."""
    return initial_values(stack)[1], task_constants(stack)
