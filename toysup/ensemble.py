"""Thousands of instances of one shape trained as one: the general path.

A model and a task are written for one instance; torch.func stacks them. Losses are averaged within an instance and
summed across, so each instance's gradient is its own. Data come from `random.uniforms`, keyed by instance and step.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from toysup.checks import InputError
from toysup.random import Stream, uniforms
from toysup.setting import Setting, bind, describe

__all__ = [
    "Stack",
    "Trained",
    "bound",
    "chunks",
    "resolve_device",
    "step_key",
    "train",
    "train_chunk",
    "work",
    "worth_compiling",
]

CACHE_BYTES = 4 << 20  # what one chunk's batch touches going forward; within 20% of the best at every shape measured
HISTORY = 50  # stretches of training over which the loss is averaged and kept
WORTH_COMPILING = 3e8  # `work` from which compiling (6-10 s, 1-2 s from its cache) is repaid


@dataclass(frozen=True)
class Stack:
    """Many instances of one shape: a template setting and what differs from it.

    `varying` maps a dotted path to an array with a leading instance axis; the seeds are (instance,) arrays.
    """

    setting: Setting
    data_seed: Int[np.ndarray, " instance"]
    init_seed: Int[np.ndarray, " instance"]
    varying: Mapping[str, Float[np.ndarray, "instance ..."]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in {"init_seed": self.init_seed, **self.varying}.items():
            if len(values) != len(self):
                raise InputError(f"Stack: {name} has {len(values)} instances, data_seed has {len(self)}")

    def __len__(self) -> int:
        return len(self.data_seed)

    def take(self, instances: Sequence[int]) -> Stack:
        """The stack of some of its instances, in the order given."""
        index = np.asarray(instances)
        varying = {path: values[index] for path, values in self.varying.items()}
        return Stack(self.setting, self.data_seed[index], self.init_seed[index], varying)

    @classmethod
    def of(cls, setting: Setting, seeds: Sequence[int]) -> Stack:
        """One setting, many seeds."""
        seeds = np.asarray(seeds, dtype=np.int64)
        fixed = {
            name: np.full_like(seeds, getattr(setting, name)) if getattr(setting, name) is not None else seeds
            for name in ("data_seed", "init_seed")
        }
        return cls(setting, fixed["data_seed"], fixed["init_seed"])


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant: "auto" is CUDA where there is one, else the CPU. InputError for one that is not here."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved)
    except (RuntimeError, AssertionError):
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise InputError(f"device: expected one of {here} on this machine, got {str(device)!r}") from None
    return resolved


def _units(setting: Setting) -> int:
    """Numbers that one sample makes one instance touch: uniforms, outputs and hidden activations."""
    hidden = sum(p.shape[-1] for name, p in setting.build().named_parameters() if p.ndim == 2)
    return setting.features.n_uniforms + setting.task.n_outputs(setting.features) + hidden


def chunks(stack: Stack, device: torch.device) -> list[np.ndarray]:
    """Instance indices, cut so that a chunk's batch stays in cache (CPU) or in memory (CUDA).

    Depends on the stack and the kind of device only, never on the number of workers. On the CPU there are two chunks at
    least, so that two workers share them, and all sizes are equal, so that one compilation serves.
    """
    room = CACHE_BYTES if device.type == "cpu" else 1 << 30
    size = max(1, room // (4 * stack.setting.batch * _units(stack.setting)))
    count = -(-len(stack) // size)
    if device.type == "cpu" and len(stack) > 1:
        count = min(len(stack), 2 * -(-count // 2))
    size = -(-len(stack) // count)
    index = np.arange(size * -(-len(stack) // size))
    return [np.minimum(part, len(stack) - 1) for part in index.reshape(-1, size)]  # the last is padded with its last


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


def _as_tensors(stack: Stack, device: torch.device) -> dict[str, Tensor]:
    return {p: torch.as_tensor(np.asarray(v), dtype=torch.float32, device=device) for p, v in stack.varying.items()}


def bound(setting: Setting, values: Mapping[str, Tensor]) -> Setting:
    """One instance's setting inside vmap: the features' and task's varying fields replaced by its own."""
    return bind(setting, {p: v for p, v in values.items() if p.split(".")[0] in ("features", "task")})


def initial_values(stack: Stack) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of every instance at the start, stacked, on the CPU.

    Each instance's values depend on its own init_seed alone.
    """
    template = stack.setting.build()
    names = [name for name, _ in template.named_parameters()]
    tensors = {**dict(template.named_parameters()), **dict(template.named_buffers())}
    if hasattr(template, "initial"):
        rules = template.initial()
        unknown = set(tensors) - set(rules)
        if unknown:
            raise InputError(f"{type(template).__name__}.initial() says nothing about {sorted(unknown)[0]}")
        values = {}
        for position, (name, tensor) in enumerate(tensors.items()):
            if callable(rules[name]):
                draws = uniforms(stack.init_seed, position, tensor.numel(), 1, stream=Stream.INIT)
                values[name] = rules[name](draws.reshape(len(stack), *tensor.shape))
        for name in [name for name in tensors if name not in values]:
            if rules[name] not in values:
                raise InputError(
                    f"{type(template).__name__}.initial(): {name} is to start as {rules[name]!r}, not drawn"
                )
            values[name] = values[rules[name]].clone()
    else:
        built = []
        with torch.random.fork_rng(devices=[]):
            for seed in stack.init_seed:
                torch.manual_seed(int(seed))
                module = stack.setting.build()
                built.append({**dict(module.named_parameters()), **dict(module.named_buffers())})
        values = {name: torch.stack([one[name].detach() for one in built]) for name in tensors}
    parameters = {name: values[name].detach().contiguous() for name in names}
    return parameters, {name: value for name, value in values.items() if name not in parameters}


def task_constants(stack: Stack) -> dict[str, Tensor]:
    """What each instance's task draws once, stacked, on the CPU; a function of its data_seed alone."""
    task, features = stack.setting.task, stack.setting.features
    wanted = task.constant_uniforms(features)
    if not wanted:
        return {}
    draws = uniforms(stack.data_seed, 0, wanted, 1, stream=Stream.TASK)[..., 0]
    return vmap(lambda u: task.constants(features, u))(draws)


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


@dataclass(frozen=True)
class Trained:
    """A stack after training. All tensors lead with the instance axis and lie on the CPU.

    `history` is the training loss averaged over `HISTORY` (or fewer) equal stretches of training; `diverged_step` is
    the step at which an instance's loss or squared gradient stopped being finite and it was frozen, -1 where it never
    did.
    """

    stack: Stack
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    constants: dict[str, Tensor]
    history: Float[Tensor, "instance stretch"]
    diverged_step: Int[Tensor, " instance"]
    snapshots: dict[int, dict[str, Tensor]]
    engine: str
    kept: dict[str, Any] = field(default_factory=dict, repr=False)  # what measures found out and others can use

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def setting(self) -> Setting:
        return self.stack.setting

    def model(self, instance: int) -> nn.Module:
        """One instance as an ordinary module."""
        module = self.setting.build()
        module.load_state_dict({k: v[instance] for k, v in {**self.parameters, **self.buffers}.items()})
        return module

    def at(self, step: int) -> Trained:
        """The stack as it was at a snapshot, to be measured like the end. InputError where none was taken."""
        if step not in self.snapshots:
            raise InputError(f"Trained: snapshots were taken at {sorted(self.snapshots)}, not at {step}")
        return dataclasses.replace(self, parameters=self.snapshots[step], kept={})

    def take(self, instances: Sequence[int]) -> Trained:
        """Some of the instances, in the order given."""
        index = torch.as_tensor(np.asarray(instances))

        def pick(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[index] for name, tensor in tensors.items()}

        snapshots = {step: pick(tensors) for step, tensors in self.snapshots.items()}
        kept = (pick(self.parameters), pick(self.buffers), pick(self.constants), self.history[index])
        return Trained(self.stack.take(instances), *kept, self.diverged_step[index], snapshots, self.engine)

    @cached_property
    def _module(self) -> nn.Module:
        """The code of one instance, whose own values are never used."""
        return self.setting.build()

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The fields that differ by instance, as tensors."""
        return _as_tensors(self.stack, torch.device("cpu"))

    def per_instance(self, function: Callable[[Setting, dict[str, Tensor]], Any]) -> Any:
        """`function(setting, constants)` for each instance, its fields bound, stacked over instances."""

        def one(values, constants, _):
            return function(bound(self.setting, values), constants)

        with one_thread():
            return vmap(one)(self.values, self.constants, torch.zeros(len(self)))

    def forward(self, x: Tensor, record: bool = False) -> Any:
        """Every instance's output on its own inputs x (instance, batch, ...)."""
        module = self._module
        extra = {"record": True} if record else {}

        def one(parameters, buffers, x):
            return functional_call(module, {**parameters, **buffers}, (x,), extra)

        with torch.no_grad(), one_thread():
            return vmap(one)(self.parameters, self.buffers, x)

    def batch(self, number: int, size: int = 1024, stream: Stream = Stream.HELD_OUT) -> tuple[Tensor, Tensor]:
        """Every instance's (input, target) for batch `number` of a stream, by default of data it was not trained on."""
        draws = uniforms(self.stack.data_seed, number, size, self.setting.features.n_uniforms, stream=stream)

        def one(values, constants, draws):
            here = bound(self.setting, values)
            return here.task.batch(here.features, constants, draws)

        with torch.no_grad(), one_thread():
            return vmap(one)(self.values, self.constants, draws)


_STEPS: dict[tuple[str, bool], tuple[Callable[..., Any], str]] = {}


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
        if compile:
            load_compiler()
        compiled = _compiled(function, _first_arguments(stack, device)) if compile else None
        _STEPS[key] = (compiled, "general, compiled") if compiled else (function, "general, eager")
    return _STEPS[key]


@lru_cache(maxsize=1)
def load_compiler() -> None:
    """Load torch.compile's machinery (some seconds) once, before workers are forked that will all need it."""
    for name in ("torch._dynamo", "torch._inductor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for limit in ("recompile_limit", "cache_size_limit"):  # each stack is a compilation of its own: a sweep has many
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 10_000)
    with contextlib.suppress(Exception):  # without it compiling is refused or falls back, where it is tried
        importlib.import_module("torch._inductor.config").compile_threads = 1  # sweeps compile in workers already
    _compiled(lambda x: x + 1, (torch.zeros(1),))


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


def work(stack: Stack) -> int:
    """Numbers touched in training a stack: steps x samples x units. Eager, a core does about 1e8 a second."""
    setting = stack.setting
    return len(stack) * setting.steps * setting.batch * _units(setting)


def worth_compiling(*stacks: Stack) -> bool:
    """Whether stacks that share one step are so much work that compiling it is repaid; a property of them alone."""
    return sum(map(work, stacks)) >= WORTH_COMPILING and sys.platform != "win32"


def train(
    stack: Stack,
    *,
    device: str | torch.device = "auto",
    compile: bool | None = None,
    snapshots: Sequence[int] = (),
    on_progress: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train every instance of a stack for `setting.steps` steps; each evolves as if it were alone.

    `compile` None decides by the amount of work; True falls back quietly where torch.compile cannot serve. `snapshots`
    names steps after which the parameters are kept as well (0 keeps the start). `on_progress(instance_steps, loss)` is
    called now and then with the work done since the last call and the mean loss.

    Raises InputError for a device that is not here or a snapshot outside [0, steps].
    """
    device = resolve_device(device)
    if compile is None:
        compile = worth_compiling(stack)
    parts = [
        train_chunk(stack.take(part), device=device, compile=compile, snapshots=snapshots, on_progress=on_progress)
        for part in chunks(stack, device)
    ]
    return _concatenate(stack, parts)


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


def train_chunk(
    stack: Stack,
    *,
    device: torch.device,
    compile: bool,
    snapshots: Sequence[int] = (),
    on_progress: Callable[[int, float], None] | None = None,
) -> Trained:
    """`train` for a stack that is one chunk already."""
    check_snapshots(stack.setting, snapshots)
    _keep_freed_memory()
    with one_thread():
        step_function, engine = _step_for(stack, device, compile)
        return _run(stack, step_function, engine, device, set(snapshots), on_progress)


def check_snapshots(setting: Setting, snapshots: Sequence[int]) -> None:
    """Refuse snapshots outside [0, steps]."""
    outside = [step for step in snapshots if not 0 <= step <= setting.steps]
    if outside:
        raise InputError(f"train: snapshots must lie in [0, steps={setting.steps}], got {outside[0]}")


def _run(
    stack: Stack,
    step_function: Callable[..., Any],
    engine: str,
    device: torch.device,
    snapshots: set[int],
    on_progress: Callable[[int, float], None] | None,
) -> Trained:
    setting, n = stack.setting, len(stack)
    width, batch, steps = setting.features.n_uniforms, setting.batch, setting.steps
    parameters, first, second, alive, frozen = _state(stack, device)
    rates = _Rates(stack)
    memory = torch.empty(n, batch, width) if device.type == "cpu" else None
    edges = np.unique(np.linspace(0, steps, min(HISTORY, steps) + 1).astype(int))
    history, total = [], torch.zeros(n, device=device)
    lived = torch.zeros(n, dtype=torch.int64, device=device)
    kept = {0: {k: v.cpu().clone() for k, v in parameters.items()}} if 0 in snapshots else {}
    reported = 0
    for step in range(steps):
        draws = uniforms(stack.data_seed, step, batch, width, device=device, out=memory)
        parameters, first, second, alive, losses = step_function(
            parameters, first, second, alive, frozen, draws, rates.at(step).to(device)
        )
        total = total + losses
        lived = lived + alive
        if step + 1 == edges[len(history) + 1]:
            history.append(total / (edges[len(history) + 1] - edges[len(history)]))
            total = torch.zeros_like(total)
            if on_progress:
                on_progress((step + 1 - reported) * n, float(history[-1].nanmean()))
                reported = step + 1
        if step + 1 in snapshots:
            kept[step + 1] = {k: v.cpu().clone() for k, v in parameters.items()}
    buffers, constants, _ = ({k: v.cpu() for k, v in d.items()} for d in frozen)
    diverged = torch.where(lived < steps, lived, -1).cpu()
    parameters = {k: v.detach().cpu() for k, v in parameters.items()}
    return Trained(stack, parameters, buffers, constants, torch.stack(history, 1).cpu(), diverged, kept, engine)


def _concatenate(stack: Stack, parts: list[Trained]) -> Trained:
    """Chunks joined again, the padding of the last one dropped."""
    n = len(stack)

    def join(pick: Callable[[Trained], dict[str, Tensor]]) -> dict[str, Tensor]:
        return {k: torch.cat([pick(part)[k] for part in parts])[:n] for k in pick(parts[0])}

    return Trained(
        stack,
        join(lambda t: t.parameters),
        join(lambda t: t.buffers),
        join(lambda t: t.constants),
        torch.cat([part.history for part in parts])[:n],
        torch.cat([part.diverged_step for part in parts])[:n],
        {step: join(lambda t, step=step: t.snapshots[step]) for step in parts[0].snapshots},
        parts[0].engine,
    )
