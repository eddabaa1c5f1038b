"""What is trained together: instances of one shape as arrays, cut into chunks, with their values at the start."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from toysup.checks import (
    InputError,
    check_flag,
    check_kind,
    check_room,
    check_whole,
    in_line,
    listed,
    numbers_in,
    whole_numbers,
)
from toysup.ensemble.rates import check_schedules
from toysup.random import Stream, uniforms
from toysup.safely import building, usual_defaults
from toysup.setting import RATES, Setting, bind

CACHE_BYTES = 4 << 20  # what one chunk's batch touches going forward; within 20% of the best at every shape measured
EAGER = 1e8  # `work` that a core does in a second on the eager general path, about
FUSED_GAIN = 30  # over the eager general path, about
FUSED_BYTES = 32 << 20  # a fused chunk's batch as measures see it: training itself needs next to nothing
FUSED_SECONDS = 5.0  # about, of a fused chunk on one core: workers, here and elsewhere, share a sweep by chunks
MEASURE_BYTES = 4 << 20  # what a batch of the instances measured together touches
WORTH_COMPILING = (
    3e8  # `work`, 3 to 8 s of it eager, from which a cached compilation (1-2 s) is repaid; a new one is 6-10 s
)


@dataclass(frozen=True)
class Stack:
    """Many instances of one shape: a template setting and what differs from it.

    `varying` maps a dotted path to an array with a leading instance axis; the seeds are (instance,) arrays.

    Raises InputError for seeds that are not whole numbers in [0, 2^32), and for arrays of different lengths.
    """

    setting: Setting
    data_seed: Int[np.ndarray, " instance"]
    init_seed: Int[np.ndarray, " instance"]
    varying: Mapping[str, Float[np.ndarray, "instance ..."]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("Stack", "setting", self.setting, Setting)
        check_kind("Stack", "varying", self.varying, Mapping)
        for name in ("data_seed", "init_seed"):
            object.__setattr__(self, name, whole_seeds(f"Stack: {name}", getattr(self, name)))
        varying = {}
        for name, values in self.varying.items():
            head, _, rest = name.partition(".")
            if head not in ("features", "task") and not (head == "optimizer" and rest in RATES):
                raise InputError(f"Stack: {name} cannot differ by instance inside a stack; it needs a stack of its own")
            part = getattr(self.setting, head)
            for own in filter(None, rest.split(".")):
                if not hasattr(part, own):
                    raise InputError(f"Stack: unknown path {name!r}: {type(part).__name__} has no {own!r}")
                part = getattr(part, own)
            varying[name] = values if isinstance(values, np.ndarray) else numbers_in("Stack", name, values)
        for name, values in {"init_seed": self.init_seed, **varying}.items():
            if not values.ndim or len(values) != len(self):
                got = len(values) if values.ndim else "no"
                raise InputError(f"Stack: {name} has {got} instances, data_seed has {len(self)}")
        object.__setattr__(self, "varying", varying)

    def __len__(self) -> int:
        return len(self.data_seed)

    def take(self, instances: Sequence[int]) -> Stack:
        """The stack of some of its instances, in the order given."""
        index = np.asarray(instances)
        varying = {path: values[index] for path, values in self.varying.items()}
        return Stack(self.setting, self.data_seed[index], self.init_seed[index], varying)

    @classmethod
    def joined(cls, stacks: Sequence[Stack]) -> Stack:
        """Stacks of one setting, one behind the other."""
        first = stacks[0]
        varying = {path: np.concatenate([stack.varying[path] for stack in stacks]) for path in first.varying}
        seeds = [np.concatenate([getattr(stack, name) for stack in stacks]) for name in ("data_seed", "init_seed")]
        return cls(first.setting, *seeds, varying)

    @classmethod
    def of(cls, setting: Setting, seeds: Sequence[int]) -> Stack:
        """One setting, many seeds. InputError for seeds that are not whole numbers in [0, 2^32), given twice, or
        none."""
        check_kind("Stack", "setting", setting, Setting)
        seeds = whole_seeds("Stack: seeds", seeds)
        if not len(seeds):
            raise InputError("Stack: seeds must be one or more, got none")
        values, counts = np.unique(seeds, return_counts=True)
        if len(seeds) > len(values):
            raise InputError(
                f"Stack: seed {values[counts.argmax()]} is given twice, which would look like two networks"
            )
        fixed = {
            name: np.full_like(seeds, getattr(setting, name)) if getattr(setting, name) is not None else seeds
            for name in ("data_seed", "init_seed")
        }
        return cls(setting, fixed["data_seed"], fixed["init_seed"])


def whole_seeds(where: str, values: Sequence[int] | np.ndarray) -> Int[np.ndarray, " instance"]:
    """Seeds as int64, (instance,). InputError for what is not whole, or lies outside [0, 2^32)."""
    if not isinstance(values, np.ndarray):
        values = listed(*where.rpartition(": ")[::2], values, "whole numbers in [0, 2^32)")
    try:
        array = np.asarray(values, dtype=None if len(values) else int)
    except (TypeError, ValueError):  # lists among numbers, tensors without any
        array = np.empty(len(values), dtype=object)
        for place, value in enumerate(values):
            array[place] = value
    if array.dtype.kind not in "iu" or array.ndim != 1:
        whole = (one for one in array.reshape(-1).tolist() if isinstance(one, bool) or not isinstance(one, int))
        wrong = next(whole, array.reshape(-1).tolist() if array.ndim == 1 else array.shape)
        raise InputError(f"{where} must be whole numbers in [0, 2^32), got {in_line(wrong)}")
    outside = array[(array < 0) | (array >= 2**32)]
    if len(outside):
        raise InputError(f"{where} must lie in [0, 2^32), got {outside[0]}")
    return array.astype(np.int64)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant: "auto" is CUDA where there is one, else the CPU. InputError for one that is not here, or has no
    numbers (meta)."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contextlib.suppress(Exception):  # whatever a backend that is not here says
        if isinstance(device, str | torch.device):
            resolved = torch.device(device)
            torch.zeros(1, device=resolved).item()
            if resolved.type != "cpu" or not resolved.index:  # torch takes cpu:9 for cpu
                return resolved
    here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
    given = str(device) if isinstance(device, torch.device) else device
    raise InputError(f"device: expected one of {here} on this machine, got {in_line(given)}")


def check_training(stack: Stack, *, compile: bool | None, threads: int | None, snapshots: Any) -> list[int]:
    """The snapshots in ascending order, as a list. InputError for options of `train` that are none."""
    check_kind("train", "stack", stack, Stack)
    if not len(stack):
        raise InputError("train: stack must hold at least one instance, got none")
    if compile is not None:
        check_flag("train", "compile", compile)
    if threads is not None:
        check_whole("train", "threads", threads)
    check_schedules([stack.setting])
    return sorted(set(whole_numbers("train", "snapshots", snapshots)))


def _units(setting: Setting) -> int:
    """Numbers that one sample makes one instance touch: uniforms, outputs and hidden activations."""
    hidden = sum(p.shape[-1] for name, p in setting.build().named_parameters() if p.ndim == 2)
    return setting.features.n_uniforms + setting.task.n_outputs(setting.features) + hidden


def chunks(stack: Stack, device: torch.device, engine: str = "general", shared: bool = True) -> list[np.ndarray]:
    """Instance indices, cut so that a chunk's batch stays in cache (CPU) or in memory (CUDA, and for measures).

    Depends on the stack, the kind of device and the engine only, never on the number of workers. On the CPU there are
    two chunks at least where they are `shared` among workers, and all sizes are equal, so that one compilation serves.

    Raises InputError for a stack of which one instance alone does not fit into memory.
    """
    units = _units(stack.setting)
    _check_room(stack.setting, units, device, engine)
    room = FUSED_BYTES if engine == "fused" else CACHE_BYTES if device.type == "cpu" else 1 << 30
    size = max(1, room // (4 * stack.setting.batch * units))
    if engine == "fused":
        size = max(1, min(size, int(FUSED_SECONDS * EAGER * len(stack) / work(stack, engine))))
    count = -(-len(stack) // size)
    if device.type == "cpu" and len(stack) > 1 and (shared or count > 1):
        count = min(len(stack), 2 * -(-count // 2))
    return split(len(stack), -(-len(stack) // count))


def measured_at_once(setting: Setting) -> int:
    """Instances whose held-out batch of 1,024 samples fits into MEASURE_BYTES; measures look at so many together."""
    return max(1, MEASURE_BYTES // (4 * 1024 * _units(setting)))


def _check_room(setting: Setting, units: int, device: torch.device, engine: str) -> None:
    """Refuse a setting whose parts are too large to train one instance: before anything is trained."""
    check_room("Setting", f"steps = {setting.steps}", 8 * setting.steps)  # the schedule
    constants = setting.task.constant_uniforms(setting.features)
    check_room("Setting", f"what one {type(setting.task).__name__} draws, {constants} numbers,", 24 * constants)
    if engine != "fused":  # which draws as it goes
        cuda = device.type == "cuda"
        room = torch.cuda.get_device_properties(device).total_memory if cuda else None
        check_room("Setting", f"batch = {setting.batch}", 4 * setting.batch * units, room)


def split(count: int, size: int) -> list[np.ndarray]:
    """Numbers below `count` in parts of one size; the last is padded with its last."""
    index = np.arange(size * -(-count // size))
    return [np.minimum(part, count - 1) for part in index.reshape(-1, size)]


def work(stack: Stack, engine: str = "general") -> float:
    """Numbers touched in training a stack: steps x samples x units. Eager, a core does about 1e8 a second; what a fused
    kernel does counts for less by its gain over that."""
    setting = stack.setting
    return len(stack) * setting.steps * setting.batch * _units(setting) / (FUSED_GAIN if engine == "fused" else 1)


def worth_compiling(*stacks: Stack) -> bool:
    """Whether stacks that share one step are so much work that compiling it is repaid; a property of them alone."""
    return sum(map(work, stacks)) >= WORTH_COMPILING and sys.platform != "win32"


def _as_tensors(stack: Stack, device: torch.device) -> dict[str, Tensor]:
    return {p: torch.as_tensor(np.asarray(v), dtype=torch.float32, device=device) for p, v in stack.varying.items()}


def bound(setting: Setting, values: Mapping[str, Tensor]) -> Setting:
    """One instance's setting inside vmap: the features' and task's varying fields replaced by its own."""
    return bind(setting, {p: v for p, v in values.items() if p.split(".")[0] in ("features", "task")})


def initial_values(stack: Stack) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of every instance at the start, stacked, on the CPU.

    Each instance's values depend on its own init_seed alone.
    """
    with usual_defaults():
        return _initial_values(stack)


def _initial_values(stack: Stack) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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
        for seed in stack.init_seed:
            with building(int(seed)):
                module = stack.setting.model(*stack.setting.sizes)
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
    with usual_defaults():
        return vmap(lambda u: task.constants(features, u))(draws)
