"""One step of every instance at once, eager or compiled, kept for the next stack that differs in numbers only."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from toysup.ensemble import graph
from toysup.ensemble.rates import multipliers
from toysup.ensemble.stack import Stack, _as_tensors, bound, initial_values, task_constants
from toysup.ensemble.state import Parts, Reading, parts_of
from toysup.identity import Untold, identity
from toysup.random import uniforms
from toysup.safely import building
from toysup.setting import Setting, describe


@dataclass(frozen=True)
class Step:
    """One step of all instances, compiled or not, and what it knows of the module.

    `function(*state, *frozen, draws, rates)`, all tensors, gives back the new state and the losses; `unpack` tells
    which tensor of the state is which.
    """

    function: Callable[..., Any]
    engine: str
    parts: Parts
    unpack: Callable[[Sequence[Tensor]], dict[str, Any]]


# with the thread in the key, since modules are swapped in place as they run; and with the setting, so that the ids in
# the key stay its own
_STEPS: dict[Any, tuple[Step, Setting]] = {}
_KEPT = 32
TRACED = 1000  # steps from which it pays to note down once what torch does in one and then do no more than that


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed batches rather than return them: page faults are most of a large eager step."""
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 32 << 20), (-1, 512 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError, TypeError):
        pass  # another C library, or Windows: slower, not wrong


def _views(values: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """(instance, number) as named tensors (instance, ...), in the order of `shapes`."""
    parts = values.split([shape.numel() for shape in shapes.values()], 1)
    return {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _state(stack: Stack, device: torch.device, parts: Parts) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """(state, frozen) at the start, on the device.

    The state is what a step changes: `theta`, the parameters that are trained, (instance, number), and their moments;
    which instances are alive; sums of their losses and of the steps they lived; buffers that move. Frozen are the other
    parameters with the buffers, the task's constants and the fields that differ by instance.
    """
    parameters, buffers = ({k: v.to(device) for k, v in d.items()} for d in initial_values(stack))
    buffers |= {k: v for k, v in parameters.items() if k not in parts.trained}
    n = len(stack)
    trained = [parameters[k].reshape(n, -1) for k in parts.trained]
    theta = torch.cat(trained, 1) if trained else torch.zeros(n, 0, device=device)
    state = {
        "theta": theta,
        "first": torch.zeros_like(theta),
        "second": torch.zeros_like(theta),
        "alive": torch.ones(n, dtype=torch.bool, device=device),
        "total": torch.zeros(n, device=device),
        "lived": torch.zeros(n, dtype=torch.int64, device=device),
        "moving": {k: buffers.pop(k) for k in parts.moving},
    }
    constants = {k: v.to(device) for k, v in task_constants(stack).items()}
    return state, (buffers, constants, _as_tensors(stack, device))


def room_for_draws(stack: Stack, device: torch.device) -> Tensor | None:
    """Memory for one step's uniforms, (instance, sample, uniform), samples next to each other as they are drawn, and so
    all that is computed sample by sample."""
    if device.type != "cpu":
        return None
    return torch.empty(len(stack), stack.setting.features.n_uniforms, stack.setting.batch).mT


def _first_arguments(stack: Stack, device: torch.device, parts: Parts) -> tuple[Any, ...]:
    shape = stack.setting.batch, stack.setting.features.n_uniforms
    draws = uniforms(stack.data_seed, 0, *shape, device=device, out=room_for_draws(stack, device))
    return *_state(stack, device, parts), draws, _Rates(stack, np.ones(1)).at(0).to(device)


def _update(setting: Setting, module: nn.Module, parts: Parts) -> Callable[..., Any]:
    """One step of all instances: losses, gradients, the finite check and AdamW, as one function of tensors.

    `step(state, frozen, draws, rates)` gives back the new state, as in `_state`, and the losses."""
    reading = Reading(module, parts.moving)
    own = dict(module.named_parameters())
    shapes = {name: own[name].shape for name in parts.trained}

    def loss_of_one(parameters, moving, buffers, constants, values, draws):
        here = bound(setting, values)
        x, target = here.task.batch(here.features, constants, draws)
        if not parts.moving:
            return here.task.loss(functional_call(module, {**parameters, **buffers}, (x,)), target), {}
        state = {**parameters, **buffers} | {name: value.clone() for name, value in moving.items()}
        output, moved = functional_call(reading, {f"module.{name}": v for name, v in state.items()}, (x,))
        return here.task.loss(output, target), {name: value.detach() for name, value in moved.items()}

    def total(parameters, *rest):
        losses, moved = vmap(loss_of_one)(parameters, *rest)
        return losses.sum(), (losses, moved)

    def step(state, frozen, draws, rates):
        theta, given = state["theta"], (state["moving"], *frozen, draws)
        if shapes:
            gradients, (_, (losses, after)) = grad_and_value(total, has_aux=True)(_views(theta, shapes), *given)
            gradient = torch.cat([gradients[name].flatten(1) for name in shapes], 1)
        else:  # nothing is trained
            gradient, (losses, after) = theta, total({}, *given)[1]
        alive = state["alive"] & losses.isfinite()
        alive = alive & gradient.square().isfinite().all(1)  # an infinite second moment would end training unnoticed
        share1, share2, eps, size, root, decay = rates.unsqueeze(-1).unbind()
        lives = alive.unsqueeze(-1)
        gradient = torch.where(lives, gradient, 0.0)
        m = state["first"] + share1 * (gradient - state["first"])
        v = state["second"] + share2 * (gradient * gradient - state["second"])
        new = {
            "theta": torch.where(lives, decay * theta - size * m / (root * v.sqrt() + eps), theta),
            "first": m,
            "second": v,
            "alive": alive,
            "total": state["total"] + torch.where(alive, losses, torch.nan),
            "lived": state["lived"] + alive,
            "moving": {
                name: torch.where(alive.view((-1,) + (1,) * (value.ndim - 1)), value, state["moving"][name])
                for name, value in after.items()
            },
        }
        return new, losses

    return step


class _Rates:
    """Per-instance coefficients of AdamW at each step, formed in float64 as torch.optim does."""

    lr: np.ndarray
    weight_decay: np.ndarray
    beta1: np.ndarray
    beta2: np.ndarray
    eps: np.ndarray

    def __init__(self, stack: Stack, schedule: np.ndarray | None = None) -> None:
        optimizer = stack.setting.optimizer
        self.schedule = multipliers(optimizer, stack.setting.steps) if schedule is None else schedule
        names = ("lr", "weight_decay", "beta1", "beta2", "eps")
        for name in names:
            value = stack.varying.get(f"optimizer.{name}", getattr(optimizer, name))
            setattr(self, name, np.broadcast_to(np.asarray(value, dtype=np.float64), len(stack)))

        self.begin, self.block = 0, torch.zeros(0)

    def at(self, step: int) -> Tensor:
        """(6, instance): 1 - beta1, 1 - beta2, eps, step size, 1 / sqrt(1 - beta2^t), 1 - lr * decay."""
        if not 0 <= step - self.begin < len(self.block):  # many steps at once: the next ones will be asked for
            count = min(len(self.schedule) - step, max(1, 20_000 // len(self.lr)))
            self.begin, self.block = step, self._of(np.arange(step, step + count))
        return self.block[step - self.begin]

    def _of(self, steps: np.ndarray) -> Tensor:
        t, lr = steps[:, None] + 1.0, self.schedule[steps, None] * self.lr
        size, root = lr / (1 - self.beta1**t), 1 / np.sqrt(1 - self.beta2**t)
        rates = [1 - self.beta1, 1 - self.beta2, self.eps, size, root, 1 - lr * self.weight_decay]
        with np.errstate(over="ignore"):  # an instance whose rate is infinite diverges, and says so
            return torch.from_numpy(np.stack(np.broadcast_arrays(*rates), 1).astype(np.float32))


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
    step, arguments = _update(setting, setting.build().train(), parts), _first_arguments(stack, device, parts)
    tensors, spec = tree_flatten(arguments)
    kinds = tree_flatten(arguments[0])[1]

    def function(*tensors: Tensor) -> list[Tensor]:
        return tree_flatten(step(*tree_unflatten(tensors, spec)))[0]

    def unpack(state: Sequence[Tensor]) -> dict[str, Any]:
        return tree_unflatten(list(state), kinds)

    compile = compile and load_compiler()
    if parts.steady and (compile or stack.setting.steps >= TRACED):
        with building():  # the module is swapped while it is traced, by nobody else
            traced = graph.traced(function, tensors)
            compiled = graph.compiled(traced, tensors, setting.batch) if compile and traced is not None else None
        if compiled is not None:
            return Step(compiled, "general, compiled", parts, unpack)
        function = traced or function
    return Step(function, "general, eager", parts, unpack)


def private(setting: Setting) -> Setting:
    """The same setting, none of whose modules anybody else uses."""
    return replace(setting, task=setting.task.alone())


@lru_cache(maxsize=1)
def load_compiler() -> bool:
    """Load torch's compiler (some seconds) once, before workers are forked that will all need it.

    Returns whether it works here; without a C++ compiler it doesn't, and no larger step need be tried.
    """
    one = [torch.zeros(16)]
    small = graph.traced(lambda x: [x + 1], one)
    return small is not None and graph.compiled(small, one) is not None
