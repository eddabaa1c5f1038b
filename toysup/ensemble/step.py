"""One step of every instance at once, eager or compiled, kept for the next stack that differs in numbers only."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from toysup.ensemble.rates import multipliers
from toysup.ensemble.stack import Stack, _as_tensors, bound, initial_values, task_constants
from toysup.ensemble.state import Parts, Reading, parts_of
from toysup.identity import Untold, identity
from toysup.random import uniforms
from toysup.safely import building
from toysup.setting import Setting, describe


@dataclass(frozen=True)
class Step:
    """One step of all instances, compiled or not, and what it knows of the module."""

    function: Callable[..., Any]
    engine: str
    parts: Parts


# with the thread in the key, since modules are swapped in place as they run; and with the setting, so that the ids in
# the key stay its own
_STEPS: dict[Any, tuple[Step, Setting]] = {}
_KEPT = 32


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed batches rather than return them: page faults are most of a large eager step."""
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 32 << 20), (-1, 512 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError, TypeError):
        pass  # another C library, or Windows: slower, not wrong


def _state(stack: Stack, device: torch.device, parts: Parts) -> tuple[Any, ...]:
    """(parameters, first moments, second moments, alive, frozen) at the start, on the device.

    `parameters` are those that are trained; frozen holds the others with the buffers, the task's constants and the
    fields that differ by instance.
    """
    parameters, buffers = ({k: v.to(device) for k, v in d.items()} for d in initial_values(stack))
    buffers |= {k: v for k, v in parameters.items() if k not in parts.trained}
    parameters = {k: parameters[k] for k in parts.trained}
    constants = {k: v.to(device) for k, v in task_constants(stack).items()}
    first = {k: torch.zeros_like(v) for k, v in parameters.items()}
    second = {k: torch.zeros_like(v) for k, v in parameters.items()}
    alive = torch.ones(len(stack), dtype=torch.bool, device=device)
    return parameters, first, second, alive, (buffers, constants, _as_tensors(stack, device))


def _first_arguments(stack: Stack, device: torch.device, parts: Parts) -> tuple[Any, ...]:
    draws = uniforms(stack.data_seed, 0, stack.setting.batch, stack.setting.features.n_uniforms, device=device)
    return *_state(stack, device, parts), draws, _Rates(stack, np.ones(1)).at(0).to(device)


def _update(setting: Setting, module: nn.Module, parts: Parts) -> Callable[..., Any]:
    """One step of all instances: losses, gradients, the finite check and AdamW, as one function of tensors.

    It gives back (parameters, first, second, alive, losses, the buffers that moved)."""
    reading = Reading(module, parts.moving)

    def loss_of_one(parameters, buffers, constants, values, draws):
        here = bound(setting, values)
        x, target = here.task.batch(here.features, constants, draws)
        if not parts.moving:
            return here.task.loss(functional_call(module, {**parameters, **buffers}, (x,)), target), {}
        state = {**parameters, **buffers} | {name: buffers[name].clone() for name in parts.moving}
        output, moved = functional_call(reading, {f"module.{name}": v for name, v in state.items()}, (x,))
        return here.task.loss(output, target), {name: value.detach() for name, value in moved.items()}

    def total(parameters, *rest):
        losses, moved = vmap(loss_of_one)(parameters, *rest)
        return losses.sum(), (losses, moved)

    def step(parameters, first, second, alive, frozen, draws, rates):
        if parameters:
            gradients, (_, (losses, after)) = grad_and_value(total, has_aux=True)(parameters, *frozen, draws)
        else:  # nothing is trained
            gradients, (losses, after) = {}, total(parameters, *frozen, draws)[1]
        alive = alive & losses.isfinite()
        for gradient in gradients.values():  # squared: an infinite second moment would end training unnoticed
            alive = alive & gradient.square().flatten(1).isfinite().all(1)
        new_parameters, new_first, new_second = {}, {}, {}
        for name, gradient in gradients.items():
            shape = (-1,) + (1,) * (gradient.ndim - 1)
            share1, share2, eps, step_size, root, decay = (rate.view(shape) for rate in rates.unbind())
            lives = alive.view(shape)
            gradient = torch.where(lives, gradient, 0.0)
            m = first[name] + share1 * (gradient - first[name])
            v = second[name] + share2 * (gradient * gradient - second[name])
            moved = decay * parameters[name] - step_size * m / (root * v.sqrt() + eps)
            new_parameters[name] = torch.where(lives, moved, parameters[name])
            new_first[name], new_second[name] = m, v
        kept = {
            name: torch.where(alive.view((-1,) + (1,) * (value.ndim - 1)), value, frozen[0][name])
            for name, value in after.items()
        }
        return new_parameters, new_first, new_second, alive, losses, kept

    return step


class _Rates:
    """Per-instance coefficients of AdamW at each step, formed in float64 as torch.optim does."""

    def __init__(self, stack: Stack, schedule: np.ndarray | None = None) -> None:
        optimizer = stack.setting.optimizer
        self.schedule = multipliers(optimizer, stack.setting.steps) if schedule is None else schedule
        names = ("lr", "weight_decay", "beta1", "beta2", "eps")
        for name in names:
            value = stack.varying.get(f"optimizer.{name}", getattr(optimizer, name))
            setattr(self, name, np.broadcast_to(np.asarray(value, dtype=np.float64), len(stack)))

    def at(self, step: int) -> Tensor:
        """(6, instance): 1 - beta1, 1 - beta2, eps, step size, 1 / sqrt(1 - beta2^t), 1 - lr * decay."""
        t, lr = step + 1, self.lr * self.schedule[step]
        size, root = lr / (1 - self.beta1**t), 1 / np.sqrt(1 - self.beta2**t)
        rates = np.stack([1 - self.beta1, 1 - self.beta2, self.eps, size, root, 1 - lr * self.weight_decay])
        with np.errstate(over="ignore"):  # an instance whose rate is infinite diverges, and says so
            return torch.from_numpy(rates.astype(np.float32))


def step_key(stack: Stack, device: torch.device, code: Callable[[Any], Any] = id) -> str:
    """What a stack's step function depends on: stacks with the same key are served by one compilation.

    `code` tells functions and classes apart: by which they are, in memory."""
    setting = bound(stack.setting, dict.fromkeys(stack.varying))
    static = [describe(part, code=code) for part in (setting.features, setting.task, setting.model)]
    shapes = sorted((path, values.shape) for path, values in stack.varying.items())
    return json.dumps([static, setting.batch, shapes, len(stack), str(device)])


def _step_for(stack: Stack, device: torch.device, compile: bool) -> Step:
    """One step of all instances, kept for the next chunk that differs in numbers only.

    Kept steps are told apart by the objects they were made of and by what those do, since a module that was built
    before a constant of its code changed is another than one that is built now.
    """
    try:
        does = step_key(stack, device, identity)
    except Untold:
        return _made(stack, device, compile)
    key = (threading.get_ident(), step_key(stack, device), does, compile)
    found = _STEPS.get(key)
    if found is None:
        for oldest in list(_STEPS)[: max(0, len(_STEPS) - _KEPT + 1)]:
            _STEPS.pop(oldest, None)
        found = _STEPS[key] = _made(stack, device, compile), stack.setting
    return found[0]


def _made(stack: Stack, device: torch.device, compile: bool) -> Step:
    parts = parts_of(stack)
    setting = private(stack.setting)
    function = _update(setting, setting.build().train(), parts)
    if compile and load_compiler():
        with building():  # the module is swapped while it is traced, by nobody else
            compiled = _compiled(function, _first_arguments(stack, device, parts))
        if compiled:
            return Step(compiled, "general, compiled", parts)
    return Step(function, "general, eager", parts)


def private(setting: Setting) -> Setting:
    """The same setting, none of whose modules anybody else uses."""
    return replace(setting, task=setting.task.alone())


_LOADED: list[bool] = []  # holds True once torch.compile has worked here


def load_compiler() -> bool:
    """Load torch.compile's machinery (some seconds) once, before workers are forked that will all need it.

    Returns whether it works here; without a C++ compiler it doesn't, and no larger step need be tried.
    """
    if _LOADED:
        return True
    for name in ("torch._dynamo", "torch._inductor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for limit in ("recompile_limit", "cache_size_limit"):  # each stack is a compilation of its own: a sweep has many
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 10_000)
    with contextlib.suppress(Exception):  # without it compiling is refused or falls back, where it is tried
        importlib.import_module("torch._inductor.config").compile_threads = 1  # sweeps compile in workers already
    works = _compiled(lambda x: x + 1, (torch.zeros(1),)) is not None
    _LOADED.extend([True] * works)
    return works


def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The function compiled and tried once, or None where this machine cannot (no compiler, an unsupported model)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = torch.compile(function, fullgraph=True, dynamic=False)
            compiled(*arguments)
        return compiled
    except Exception:  # whatever it was, the eager path either works or raises the user's own error
        return None
