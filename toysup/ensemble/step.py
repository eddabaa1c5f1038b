"""One step of every instance at once, eager or compiled, kept for the next stack that differs in numbers only."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from toysup.ensemble.stack import Stack, _as_tensors, bound, initial_values, task_constants
from toysup.random import uniforms
from toysup.setting import Setting, describe

_STEPS: dict[tuple[str, bool], tuple[Callable[..., Any], str]] = {}


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed batches rather than return them: page faults are most of a large eager step."""
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 32 << 20), (-1, 512 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError):
        pass  # another C library: slower, not wrong


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: small operations lose more by waiting for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _state(stack: Stack, device: torch.device) -> tuple[Any, ...]:
    """(parameters, first moments, second moments, alive, frozen) at the start, on the device."""
    parameters, buffers = ({k: v.to(device) for k, v in d.items()} for d in initial_values(stack))
    constants = {k: v.to(device) for k, v in task_constants(stack).items()}
    first = {k: torch.zeros_like(v) for k, v in parameters.items()}
    second = {k: torch.zeros_like(v) for k, v in parameters.items()}
    alive = torch.ones(len(stack), dtype=torch.bool, device=device)
    return parameters, first, second, alive, (buffers, constants, _as_tensors(stack, device))


def _first_arguments(stack: Stack, device: torch.device) -> tuple[Any, ...]:
    draws = uniforms(stack.data_seed, 0, stack.setting.batch, stack.setting.features.n_uniforms, device=device)
    return *_state(stack, device), draws, _Rates(stack).at(0).to(device)


def _update(setting: Setting, module: nn.Module) -> Callable[..., Any]:
    """One step of all instances: losses, gradients, the finite check and AdamW, as one function of tensors."""

    def loss_of_one(parameters, buffers, constants, values, draws):
        here = bound(setting, values)
        x, target = here.task.batch(here.features, constants, draws)
        return here.task.loss(functional_call(module, {**parameters, **buffers}, (x,)), target)

    def total(parameters, *rest):
        losses = vmap(loss_of_one)(parameters, *rest)
        return losses.sum(), losses

    def step(parameters, first, second, alive, frozen, draws, rates):
        gradients, (_, losses) = grad_and_value(total, has_aux=True)(parameters, *frozen, draws)
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
        return new_parameters, new_first, new_second, alive, losses

    return step


class _Rates:
    """Per-instance coefficients of AdamW at each step, formed in float64 as torch.optim does."""

    def __init__(self, stack: Stack) -> None:
        optimizer = stack.setting.optimizer
        self.schedule, self.steps = optimizer.schedule, stack.setting.steps
        names = ("lr", "weight_decay", "beta1", "beta2", "eps")
        for name in names:
            value = stack.varying.get(f"optimizer.{name}", getattr(optimizer, name))
            setattr(self, name, np.broadcast_to(np.asarray(value, dtype=np.float64), len(stack)))

    def at(self, step: int) -> Tensor:
        """(6, instance): 1 - beta1, 1 - beta2, eps, step size, 1 / sqrt(1 - beta2^t), 1 - lr * decay."""
        t, lr = step + 1, self.lr * self.schedule(step, self.steps)
        size, root = lr / (1 - self.beta1**t), 1 / np.sqrt(1 - self.beta2**t)
        rates = np.stack([1 - self.beta1, 1 - self.beta2, self.eps, size, root, 1 - lr * self.weight_decay])
        return torch.from_numpy(rates.astype(np.float32))


def step_key(stack: Stack, device: torch.device) -> str:
    """What a stack's step function depends on: stacks with the same key are served by one compilation."""
    setting = bound(stack.setting, dict.fromkeys(stack.varying))
    static = [describe(setting.features), describe(setting.task), describe(setting.model), setting.batch]
    own = [id(type(setting.features)), id(type(setting.task)), id(setting.model.build)]  # two classes may share a name
    shapes = sorted((path, values.shape) for path, values in stack.varying.items())
    return json.dumps([static, own, shapes, len(stack), str(device)])


def _step_for(stack: Stack, device: torch.device, compile: bool) -> tuple[Callable[..., Any], str]:
    """(one step of all instances, engine name), kept for the next chunk that differs in numbers only."""
    key = (step_key(stack, device), compile)
    if key not in _STEPS:
        if len(_STEPS) >= 32:
            _STEPS.pop(next(iter(_STEPS)))
        function = _update(stack.setting, stack.setting.build())
        usable = compile and load_compiler()
        compiled = _compiled(function, _first_arguments(stack, device)) if usable else None
        _STEPS[key] = (compiled, "general, compiled") if compiled else (function, "general, eager")
    return _STEPS[key]


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
