"""Training a stack from its start to its end, and what is handed back."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten

from toysup.checks import InputError, check_whole
from toysup.ensemble import fused
from toysup.ensemble.plan import Keep
from toysup.ensemble.stack import (
    Stack,
    _as_tensors,
    bound,
    check_training,
    chunks,
    initial_values,
    resolve_device,
    task_constants,
    worth_compiling,
)
from toysup.ensemble.step import (
    Step,
    _keep_freed_memory,
    _Rates,
    _state,
    _step_for,
    _update,
    _views,
    private,
    room_for_draws,
)
from toysup.random import Stream, fill, uniforms
from toysup.safely import one_thread, under_usual_defaults
from toysup.setting import Setting

Engine = Literal["auto", "general", "fused"]
HISTORY = 50  # stretches of training over which the loss is averaged and kept


@dataclass(frozen=True)
class Trained:
    """A stack after training. All tensors lead with the instance axis and lie on the CPU.

    `parameters` are the modules' own, frozen ones included; `buffers` are as training left them, and `moving` names
    those that it changed. `rows` are the instances' rows in the table of the sweep they come from, or their numbers.
    `history` is the training loss averaged over `HISTORY` (or fewer) equal stretches of training, NaN once it diverged;
    `diverged_step` is the step at which an instance's loss or squared gradient stopped being finite and it was frozen,
    -1 where it never did.
    """

    stack: Stack
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    constants: dict[str, Tensor]
    history: Float[Tensor, "instance stretch"]
    diverged_step: Int[Tensor, " instance"]
    snapshots: dict[int, dict[str, Tensor]]
    engine: str
    kept: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)  # what `once` was asked for
    moving: tuple[str, ...] = ()
    rows: Int[np.ndarray, " instance"] | None = None

    def __post_init__(self) -> None:
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(len(self.stack)))

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def setting(self) -> Setting:
        return self.stack.setting

    def once(self, function: Callable[[Trained], Any]) -> Any:
        """What a function finds in these networks, found at the first call and kept for the measures that ask next."""
        if function not in self.kept:
            self.kept[function] = function(self)
        return self.kept[function]

    @under_usual_defaults
    def model(self, instance: int) -> nn.Module:
        """One instance as an ordinary module, in evaluation mode: a copy, with shared tensors shared."""
        check_whole("Trained", "instance", instance, 0, len(self) - 1)
        module = self.setting.build()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.parameters[name][instance])
            for name, buffer in module.named_buffers():
                value = self.buffers[name][instance]
                if buffer.shape == value.shape and buffer.dtype == value.dtype:
                    buffer.copy_(value)
                else:  # training gave it another size or kind
                    path, _, last = name.rpartition(".")
                    module.get_submodule(path)._buffers[last] = value.clone()
        return module.eval()

    def at(self, step: int) -> Trained:
        """The stack as it was at a snapshot, to be measured like the end. InputError where none was taken."""
        check_whole("Trained", "step", step, 0)
        if step not in self.snapshots:
            raise InputError(f"Trained: snapshots were taken at {sorted(self.snapshots)}, not at {step}")
        kept = self.snapshots[step]
        parameters = {name: kept[name] for name in self.parameters}
        buffers = self.buffers | {name: kept[name] for name in self.moving}
        return dataclasses.replace(self, parameters=parameters, buffers=buffers, kept={})

    @under_usual_defaults
    def take(self, instances: Sequence[int]) -> Trained:
        """Some of the instances, in the order given."""
        index = torch.as_tensor(np.asarray(instances))

        def pick(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[index] for name, tensor in tensors.items()}

        snapshots = {step: pick(tensors) for step, tensors in self.snapshots.items()}
        kept = (pick(self.parameters), pick(self.buffers), pick(self.constants), self.history[index])
        stack, rows = self.stack.take(instances), self.rows[np.asarray(instances)]
        return Trained(stack, *kept, self.diverged_step[index], snapshots, self.engine, {}, self.moving, rows)

    @cached_property
    def _by_thread(self) -> dict[int, tuple[nn.Module, Setting]]:
        return {}

    def _here(self) -> tuple[nn.Module, Setting]:
        """(the code of one instance, whose own values are never used, in evaluation mode; the setting), for the thread
        that asks: modules are swapped in place as they run."""
        mine = threading.get_ident()
        if mine not in self._by_thread:
            setting = private(self.setting)
            self._by_thread[mine] = setting.build().eval(), setting
        return self._by_thread[mine]

    @cached_property
    @under_usual_defaults
    def values(self) -> dict[str, Tensor]:
        """The fields that differ by instance, as tensors."""
        return _as_tensors(self.stack, torch.device("cpu"))

    @under_usual_defaults
    def per_instance(self, function: Callable[[Setting, dict[str, Tensor]], Any]) -> Any:
        """`function(setting, constants)` for each instance, its fields bound, stacked over instances."""
        setting = self._here()[1]

        def one(values, constants, _):
            return function(bound(setting, values), constants)

        with one_thread():
            return vmap(one)(self.values, self.constants, torch.zeros(len(self)))

    @under_usual_defaults
    def forward(self, x: Tensor, record: bool = False) -> Any:
        """Every instance's output on its own inputs x (instance, batch, ...), in evaluation mode."""
        module = self._here()[0]
        extra = {"record": True} if record else {}
        if x.dtype == torch.float64:  # made under another default dtype
            x = x.to(next((v.dtype for v in self.parameters.values() if v.is_floating_point()), torch.float32))

        def one(parameters, buffers, x):
            return functional_call(module, {**parameters, **buffers}, (x,), extra)

        with torch.no_grad(), one_thread():
            return vmap(one)(self.parameters, self.buffers, x)

    @under_usual_defaults
    def batch(self, number: int, size: int = 1024, stream: Stream = Stream.HELD_OUT) -> tuple[Tensor, Tensor]:
        """Every instance's (input, target) for batch `number` of a stream, by default of data it was not trained on."""
        setting = self._here()[1]
        draws = uniforms(self.stack.data_seed, number, size, setting.features.n_uniforms, stream=stream)

        def one(values, constants, draws):
            here = bound(setting, values)
            return here.task.batch(here.features, constants, draws)

        with torch.no_grad(), one_thread():
            return vmap(one)(self.values, self.constants, draws)


@under_usual_defaults
def train(
    stack: Stack,
    *,
    device: str | torch.device = "auto",
    engine: Engine = "auto",
    compile: bool | None = None,
    threads: int | None = None,
    snapshots: Sequence[int] = (),
    on_progress: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train every instance of a stack for `setting.steps` steps; each evolves as if it were alone.

    `engine` "auto" takes the fused kernel where the setting fits one, else the general path; either can be forced.
    `threads` share a fused kernel's instances (None: one for each core; the numbers don't depend on it); the general
    path has one. `compile` is for the general path: None decides by the amount of work; True falls back quietly where
    torch.compile cannot serve. `snapshots` names steps after which the parameters are kept as well (0 keeps the start).
    `on_progress(instance_steps, loss)` is called now and then with the work done since the last call and the mean loss.

    Raises InputError for a device that is not here, a snapshot outside [0, steps], and a stack that does not fit the
    engine asked for, with the reason.
    """
    snapshots = check_training(stack, compile=compile, threads=threads, snapshots=snapshots)
    device = resolve_device(device)
    if engine_for(stack, device, engine) == "fused":
        threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or 1
        options = {"compile": False, "snapshots": snapshots, "on_progress": on_progress, "threads": threads}
        return train_chunk(stack, device=device, engine="fused", **options)
    if compile is None:
        compile = worth_compiling(stack)
    parts = [stack.take(part) for part in chunks(stack, device, shared=False)]
    with one_thread():
        step = _step_for(parts[0], device, compile)
    options = {"device": device, "compile": compile, "snapshots": snapshots, "on_progress": on_progress}
    return concatenated(stack, [train_chunk(part, step=step, **options) for part in parts])


@under_usual_defaults
def train_chunk(
    stack: Stack,
    *,
    device: torch.device,
    compile: bool,
    engine: Engine = "general",
    threads: int = 1,
    snapshots: Sequence[int] = (),
    on_progress: Callable[[int, float], None] | None = None,
    keep: Keep | None = None,
    resume: Mapping[str, Tensor] | None = None,
    step: Step | None = None,
) -> Trained:
    """`train` for a stack that is one chunk already; `step` is its step on the general path, where it is known.

    `keep(state)` is called again and again; what `state()` gives then, later given as `resume` to the same call, lets
    training go on from there, to the same bits.
    """
    check_snapshots(stack.setting, snapshots)
    if engine_for(stack, device, engine) == "fused":
        plan = fused.plan_of(stack)
        buffers, constants = fused.frozen_values(stack)
        parameters, *rest = fused.run(
            stack, plan, _edges(stack.setting), snapshots=snapshots, on_progress=on_progress, threads=threads,
            keep=keep, resume=resume,
        )  # fmt: skip
        return Trained(stack, parameters, buffers, constants, *rest, "fused")
    _keep_freed_memory()
    with one_thread():
        step = step or _step_for(stack, device, compile)
        return _run(stack, step, device, set(snapshots), on_progress, keep, resume)


def code_of(stack: Stack, engine: str) -> tuple[Any, ...]:
    """The functions that train a stack, for `identity`: whoever changes what they do makes other networks."""
    own = (initial_values, task_constants)
    if engine != "fused":
        return (*own, _run, _update)
    family = next(family for family in fused.FAMILIES if family.unfit(stack) is None)
    return (*own, fused.run, family.plan_of)


def engine_for(stack: Stack, device: torch.device, engine: Engine = "auto") -> str:
    """ "fused" or "general": what a stack is trained by. InputError where it does not fit the engine asked for."""
    if engine not in ("auto", "general", "fused"):
        raise InputError(f"engine: expected auto, general or fused, got {engine!r}")
    if engine == "general":
        return engine
    reason = "fused kernels are for the CPU" if device.type != "cpu" else fused.unfit(stack)
    if reason and engine == "fused":
        raise InputError(f"engine: no fused kernel fits, because {reason}")
    return "general" if reason else "fused"


def _edges(setting: Setting) -> np.ndarray:
    """Steps between which the loss is averaged."""
    return np.unique(np.linspace(0, setting.steps, min(HISTORY, setting.steps) + 1).astype(int))


def check_snapshots(setting: Setting, snapshots: Sequence[int]) -> None:
    """Refuse snapshots outside [0, steps]."""
    outside = [step for step in snapshots if not 0 <= step <= setting.steps]
    if outside:
        raise InputError(f"train: snapshots must lie in [0, steps={setting.steps}], got {outside[0]}")


def _run(
    stack: Stack,
    step_function: Step,
    device: torch.device,
    snapshots: set[int],
    on_progress: Callable[[int, float], None] | None,
    keep: Keep | None,
    resume: Mapping[str, Tensor] | None,
) -> Trained:
    setting, n = stack.setting, len(stack)
    batch, steps, width = setting.batch, setting.steps, setting.features.n_uniforms
    parts, call = step_function.parts, step_function.function
    state, frozen = _state(stack, device, parts)
    shapes = {name: value.shape for name, value in setting.build().named_parameters()}
    trained = {name: shapes[name] for name in parts.trained}
    versions = {name: value._version for name, value in frozen[0].items()}
    rates, memory, edges = _Rates(stack), room_for_draws(stack, device), _edges(setting)
    seeds = np.ascontiguousarray(stack.data_seed)
    history: list[Tensor] = []

    def named(state: Mapping[str, Any]) -> dict[str, Tensor]:
        return {**frozen[0], **state["moving"], **_views(state["theta"], trained)}

    def now(state: Mapping[str, Any]) -> dict[str, Tensor]:
        """All parameters, and the buffers that move."""
        whole = named(state)
        return {name: whole[name].detach().cpu().clone() for name in (*shapes, *parts.moving)}

    def state_at(tensors: Sequence[Tensor], step: int) -> dict[str, Tensor]:
        whole = dict(step_function.unpack(tensors))
        groups = {"moving": whole.pop("moving")} | {f"kept.{number}": own for number, own in kept.items()}
        whole |= {f"{group}.{name}": value for group, own in groups.items() for name, value in own.items()}
        whole |= {"step": torch.tensor(step), "history": torch.stack(history, 1) if history else torch.zeros(n, 0)}
        return laid_out(whole)

    kept = {0: now(state)} if 0 in snapshots else {}
    begin = 0
    if resume is not None:
        whole = {name: value.to(device) for name, value in restored(resume).items()}

        def group(name: str) -> dict[str, Tensor]:
            return {key[len(name) + 1 :]: value for key, value in whole.items() if key.startswith(f"{name}.")}

        state = {name: whole[name] for name in state if name != "moving"} | {"moving": group("moving")}
        history, begin = list(whole["history"].unbind(1)), int(whole["step"])
        numbers = {int(key.split(".")[1]) for key in whole if key.startswith("kept.")}
        kept = {step: {k: v.cpu() for k, v in group(f"kept.{step}").items()} for step in sorted(numbers)}
    tensors, fixed, reported = tree_flatten(state)[0], tree_flatten(frozen)[0], begin
    for step in range(begin, steps):
        if memory is None:
            draws = uniforms(stack.data_seed, setting.draw_of(step), batch, width, device=device)
        else:
            fill(draws := memory, seeds, Stream.TRAIN, setting.draw_of(step))
        *tensors, _ = call(*tensors, *fixed, draws, rates.at(step).to(device))
        if step + 1 == edges[len(history) + 1]:
            state = step_function.unpack(tensors)
            history.append(state["total"] / (edges[len(history) + 1] - edges[len(history)]))
            tensors = tree_flatten(state | {"total": torch.zeros(n, device=device)})[0]
            if on_progress:
                on_progress((step + 1 - reported) * n, float(history[-1].nanmean()))
                reported = step + 1
        if step + 1 in snapshots:
            kept[step + 1] = now(step_function.unpack(tensors))
        if keep:
            keep(partial(state_at, tensors, step + 1))
    state = step_function.unpack(tensors)
    late = [name for name, version in versions.items() if frozen[0][name]._version != version]
    if late:
        name = getattr(setting.model.build, "__name__", "the model")
        raise InputError(f"{name}: buffer {late[0]} changed in the course of training, but not in its first step; "
                         "buffers must move from the first step on, or never")  # fmt: skip
    diverged = torch.where(state["lived"] < steps, state["lived"], -1).cpu()
    ended = {name: value.detach().cpu() for name, value in named(state).items()}
    parameters = {name: ended[name].contiguous() for name in shapes}
    buffers = {name: value for name, value in ended.items() if name not in shapes}
    constants, losses = {k: v.cpu() for k, v in frozen[1].items()}, torch.stack(history, 1).cpu()
    engine = step_function.engine
    return Trained(stack, parameters, buffers, constants, losses, diverged, kept, engine, moving=parts.moving)


def laid_out(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that lie in memory in the order of their axes, with the order in which the originals lay: what
    a product's bits may depend on."""
    kept = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        order = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
        if order != list(range(tensor.ndim)) and not tensor.is_contiguous():
            kept[f"order.{name}"], tensor = torch.tensor(order), tensor.permute(order)
        kept[name] = tensor.clone(memory_format=torch.contiguous_format)
    return kept


def restored(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `laid_out` was given."""
    orders = {name[6:]: order for name, order in kept.items() if name.startswith("order.")}
    plain = {name: value for name, value in kept.items() if not name.startswith("order.")}
    return {
        name: value.permute(*orders[name].argsort().tolist()) if name in orders else value
        for name, value in plain.items()
    }


def concatenated(stack: Stack, parts: list[Trained]) -> Trained:
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
        moving=parts[0].moving,
    )
