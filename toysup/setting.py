"""A setting: everything that defines one instance, frozen; and dotted paths into it.

Whole numbers, strings, flags and objects decide array sizes and code: they are static, and instances that share them
form one stack. Numbers that are floats (density, importance, exponent, learning rate, ...) and seeds may differ from
instance to instance inside a stack.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from toysup.checks import (
    InputError,
    check_choice,
    check_interval,
    check_kind,
    check_whole,
    concrete,
    in_line,
)
from toysup.features import Features
from toysup.identity import identity, importable_name
from toysup.safely import building
from toysup.tasks import Task
from toysup.trust import Named

__all__ = [
    "Adam",
    "Constant",
    "Cosine",
    "Model",
    "QuarterCosine",
    "Setting",
    "bind",
    "describe",
    "get_path",
    "is_dynamic",
    "rebuild",
    "set_paths",
]

SEEDS = ("seed", "data_seed", "init_seed")
RATES = ("lr", "weight_decay", "beta1", "beta2", "eps")  # of the optimizer, all floats


class Model:
    """How to build one instance: a module class and its own arguments, `build(n_in, n_out, **arguments)`."""

    def __init__(self, build: type[nn.Module], *unnamed: Any, **arguments: Any) -> None:
        if not callable(build) or isinstance(build, nn.Module):
            raise InputError(f"Model: build must be a module's class such as TiedAutoencoder, got {in_line(build)}")
        self.build, self.arguments = build, arguments
        if unnamed:
            raise InputError(f"Model: arguments of {self.name} must be named (width=2), got {in_line(unnamed[0])}")
        try:
            signature = inspect.signature(build)
            signature.bind_partial(1, 1)
        except (TypeError, ValueError) as error:
            raise InputError(f"Model: build must take (n_in, n_out), got {self.name}: {error}") from None
        accepted = signature.parameters
        unknown = [name for name in arguments if name not in accepted]
        if unknown:
            own = ", ".join(list(accepted)[2:]) or "none"
            raise InputError(f"Model: {self.name} has no argument {unknown[0]!r}; it has {own}")

    @property
    def name(self) -> str:
        """What the class or function calls itself."""
        return str(getattr(self.build, "__name__", type(self.build).__name__))

    def __call__(self, n_in: int, n_out: int) -> nn.Module:
        try:
            module = self.build(n_in, n_out, **self.arguments)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"Model: {self.name}({n_in}, {n_out}, ...) raised {in_line(error, 200)}") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"Model: {self.name} must give a torch.nn.Module, got {in_line(module)}")
        return module

    def __repr__(self) -> str:
        return f"Model({self.name}, {', '.join(f'{k}={v}' for k, v in self.arguments.items())})"


@dataclass(frozen=True)
class Constant:
    """Learning rate held constant."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up over the first `warmup` share of steps, then half a cosine down to `final` of the peak.

    multiplier(t) = (t + 1) / w for t < w, then final + (1 - final) (1 + cos(pi s)) / 2, s from 0 to 1 over the rest.
    """

    warmup: float = 0.02
    final: float = 0.02

    def __post_init__(self) -> None:
        check_interval("Cosine", "warmup", self.warmup, 0, 1, one=True)
        check_interval("Cosine", "final", self.final, 0, 1, one=True)

    def __call__(self, step: int, steps: int) -> float:
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / warm
        share = (step - warm) / max(1, steps - 1 - warm)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class QuarterCosine:
    """The first quarter of a cosine, from 1 at the first step to 0 at the last: cos(pi t / (2 (steps - 1))).

    The schedule of the notebook of Elhage et al. 2022 and of Braun et al. 2025 (attribution-based parameter
    decomposition). The last step moves nothing.
    """

    def __call__(self, step: int, steps: int) -> float:
        return math.cos(math.pi / 2 * step / max(1, steps - 1))


@dataclass(frozen=True)
class Adam:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2); Adam where weight_decay is 0.

    All but `schedule` may differ by instance.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Any = field(default_factory=Constant)

    def __post_init__(self) -> None:
        check_interval("Adam", "lr", self.lr, 0, open_low=True, one=True)
        check_interval("Adam", "weight_decay", self.weight_decay, 0, one=True)
        check_interval("Adam", "beta1", self.beta1, 0, 1, open_high=True, one=True)
        check_interval("Adam", "beta2", self.beta2, 0, 1, open_high=True, one=True)
        check_interval("Adam", "eps", self.eps, 0, one=True)
        for name in RATES:
            number = concrete(getattr(self, name))
            if number is not None:  # lr=1 is a float field too, which may vary
                object.__setattr__(self, name, float(number))
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Refuse what cannot be called with (step, steps), and a class, which would make an object of each step."""
        wanted = "Adam: schedule must be a callable (step, steps) -> multiplier"
        if isinstance(self.schedule, type):
            name = self.schedule.__name__
            raise InputError(f"{wanted}, got the class {name}; give an instance, {name}()")
        if not callable(self.schedule):
            raise InputError(f"{wanted}, got {in_line(self.schedule)}")
        try:
            signature = inspect.signature(self.schedule)
        except (TypeError, ValueError):  # compiled code that says nothing
            return
        try:
            signature.bind(0, 1)
        except TypeError as error:
            raise InputError(f"{wanted}, got {in_line(self.schedule)}: {error}") from None


@dataclass(frozen=True)
class Setting:
    """One instance, whole: what the world is, what is asked, what is trained and how.

    `seed` sets the data and the initial values; `data_seed` and `init_seed` override it, so that networks of different
    shape can see the same data (paired comparisons) or one start can meet other data.

    `examples` is the size of the training set: a multiple of `batch`, gone through batch by batch, over and over
    (`examples=batch` is full-batch training). None stands for endless data. Sets of one seed are nested where their
    batches are equal, and held-out data are fresh either way.
    """

    features: Features
    task: Task
    model: Model
    optimizer: Adam = field(default_factory=Adam)
    steps: int = 10_000
    batch: int = 1024
    seed: int = 0
    data_seed: int | None = None
    init_seed: int | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        for name, kind in (("features", Features), ("task", Task), ("model", Model), ("optimizer", Adam)):
            check_kind("Setting", name, getattr(self, name), kind)
        # draws are numbered: steps by 63 bits, samples and seeds by 32
        limits = {"steps": (1, 63), "batch": (1, 32), "examples": (1, 63)} | dict.fromkeys(SEEDS, (0, 32))
        for name, (least, bits) in limits.items():
            value = getattr(self, name)
            if value is not None or name in ("steps", "batch", "seed"):
                value = check_whole("Setting", name, value, least, 2**bits - 1)
                object.__setattr__(self, name, value)  # as int: numpy's overflow
        if self.examples is not None and self.examples % self.batch:
            raise InputError(f"Setting: examples must be a multiple of batch={self.batch}, got {self.examples}")
        self.task.check(self.features)

    def resolved_seed(self, name: str) -> int:
        """`data_seed` or `init_seed`, or `seed` where that is None."""
        check_choice("Setting", "name", name, SEEDS)
        value = getattr(self, name)
        return self.seed if value is None else value

    @property
    def cycle(self) -> int | None:
        """Batches of the training set, after which they come again; None where they never do."""
        return None if self.examples is None else self.examples // self.batch

    def draw_of(self, step: int) -> int:
        """The number of the batch that training step `step` sees."""
        check_whole("Setting", "step", step, 0)
        return step if self.cycle is None else step % self.cycle

    def build(self) -> nn.Module:
        """A fresh one-instance module of the right sizes (its values are not the initial draw)."""
        with building():
            return self.model(*self.sizes)

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes of the model's input and output."""
        return self.task.n_inputs(self.features), self.task.n_outputs(self.features)


def _child(owner: Any, name: str, path: str) -> Any:
    if isinstance(owner, Model):
        names = list(inspect.signature(owner.build).parameters)[2:]
        if name in names:
            return owner.arguments.get(name, inspect.signature(owner.build).parameters[name].default)
    elif dataclasses.is_dataclass(owner):
        names = [f.name for f in dataclasses.fields(owner)]
        if name in names:
            return getattr(owner, name)
    else:
        names = []
    has = ", ".join(names) or "no fields"
    raise InputError(f"unknown axis {path!r}: {type(owner).__name__} has {has}, not {name!r}")


def get_path(setting: Any, path: str) -> Any:
    """The value at a dotted path such as "features.density" or "model.width"; InputError where there is none."""
    if not isinstance(path, str):
        raise InputError(f"an axis must be a dotted path such as 'features.density', got {in_line(path)}")
    for name in path.split("."):
        setting = _child(setting, name, path)
    return setting


def set_paths(owner: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A validated copy with dotted paths replaced, all at once, so that fields that must agree are checked together."""
    check_kind("set_paths", "values", values, Mapping)
    heads: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        heads.setdefault(head, {})[rest] = value
    new = {}
    for head, below in heads.items():
        current = below.pop("", _child(owner, head, prefix + head))
        new[head] = set_paths(current, below, prefix + head + ".") if below else current
    if isinstance(owner, Model):
        return Model(owner.build, **{**owner.arguments, **new})
    return dataclasses.replace(owner, **new)


def is_dynamic(path: str, value: Any) -> bool:
    """Whether a field may differ by instance within one stack: seeds, rates of the optimizer, and floats and float
    arrays of the features and the task."""
    head, _, rest = path.partition(".")
    if path in SEEDS:
        return True
    if head not in ("features", "task") and not (head == "optimizer" and rest in RATES):
        return False
    if isinstance(value, float | np.floating):
        return True
    if isinstance(value, torch.Tensor | np.ndarray):
        return bool(torch.as_tensor(value).is_floating_point())
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, float) for v in value)


def bind(owner: Any, values: Mapping[str, Any]) -> Any:
    """A copy with dotted fields replaced and *not* validated: for tensors that stand for many instances under vmap."""
    new = copy.copy(owner)
    for path, value in values.items():
        head, _, rest = path.partition(".")
        object.__setattr__(new, head, bind(getattr(new, head), {rest: value}) if rest else value)
    return new


def describe(value: Any, arrays: dict[str, np.ndarray] | None = None, code: Callable[[Any], Any] = identity) -> Any:
    """A JSON-ready account of a setting or any part of it, complete enough to identify it and to `rebuild` it.

    Classes and functions are named, so that they can be imported again, and told apart by `code` of them: by what they
    do (`identity`), or, in memory, by which object they are (`id`). Arrays are named by their hash and put into
    `arrays`, where given.

    Raises InputError for what has no account: sets, bytes, other objects, and code that `identity` cannot tell.
    """
    known: dict[int, Any] = {}  # one class of many values is looked at once

    def code_of(thing: Any) -> Any:
        if id(thing) not in known:
            known[id(thing)] = code(thing)
        return known[id(thing)]

    def told(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Model):
            own = {name: told(v) for name, v in sorted(value.arguments.items())}
            return {"model": importable_name(value.build), "code": code_of(value.build), "arguments": own}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own = {f.name: told(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"type": importable_name(type(value)), "code": code_of(type(value)), "fields": own}
        if isinstance(value, torch.Tensor) and value.is_meta:
            raise InputError(f"a setting may hold arrays that have numbers, got {in_line(value)}")
        if isinstance(value, torch.Tensor | np.ndarray):
            array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, order="C")
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
            if arrays is not None:
                arrays[digest] = array
            return {"tensor" if isinstance(value, torch.Tensor) else "array": digest}
        if isinstance(value, list | tuple):
            return [told(v) for v in value]
        if isinstance(value, Mapping):
            return {"mapping": [[told(k), told(v)] for k, v in value.items()]}
        if isinstance(value, np.generic):
            return value.item()
        if inspect.ismethod(value) and not isinstance(value.__self__, type):
            return {"method": value.__func__.__name__, "of": told(value.__self__)}
        if callable(value) and hasattr(value, "__qualname__"):
            return {"object": importable_name(value), "code": code_of(value)}
        raise InputError(f"a setting may hold numbers, arrays, dataclasses, models and functions, got {in_line(value)}")

    return told(value)


def rebuild(account: Any, arrays: Mapping[str, np.ndarray], found: Named, changed: set[str] | None = None) -> Any:
    """What `describe` gave an account of, of the classes and functions that `found` gives for their names now.

    Those that do something else by now are named in `changed`. InputError where one may not be used or imported, or
    where the account is of nothing that can be made.
    """

    def made(account: Any) -> Any:
        if isinstance(account, list):
            return [made(v) for v in account]
        if not isinstance(account, dict):
            return account
        if "array" in account:
            return arrays[account["array"]]
        if "tensor" in account:
            return torch.from_numpy(np.array(arrays[account["tensor"]]))
        if "mapping" in account:
            return {_hashable(made(k)): made(v) for k, v in account["mapping"]}
        if "method" in account:
            return _method(made(account["of"]), account["method"])
        place = next(name for name in ("object", "model", "type") if name in account)
        thing = found(account[place], place)
        if changed is not None and identity(thing) != account.get("code"):
            changed.add(account[place].rpartition(":")[2])
        if place == "object":
            return thing
        own = {k: made(v) for k, v in account["arguments" if place == "model" else "fields"].items()}
        return Model(thing, **own) if place == "model" else thing(**own)

    try:
        return made(account)
    except InputError:
        raise
    except (KeyError, StopIteration, TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"load: config.json is of nothing that can be made: {type(error).__name__} {said}") from None


def _method(owner: Any, name: str) -> Any:
    """A method of a dataclass, by name. InputError for anything else."""
    if (
        not dataclasses.is_dataclass(owner)
        or name.startswith("_")
        or not inspect.isfunction(getattr(type(owner), name, None))
    ):
        raise InputError(
            f"load: config.json names {name!r} of {type(owner).__name__}, which is no method of a dataclass"
        )
    return getattr(owner, name)


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key
