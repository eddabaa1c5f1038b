"""What a module's state is made of: what is trained, what training moves besides, and what nobody could give back.

A network is handed back as it was measured only if all that it depends on is kept. So a module is tried once before it
is trained in thousands of copies: parameters without gradients stay as they are, buffers that a forward pass in
training changes (running means) are kept by instance; state of any other kind, and randomness of its own, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toysup.checks import InputError
from toysup.ensemble.stack import Stack, _as_tensors, bound, initial_values, task_constants
from toysup.random import uniforms
from toysup.safely import building, one_thread

__all__ = ["Parts", "Reading", "parts_of"]


@dataclass(frozen=True)
class Parts:
    """Names of a module's tensors by their role; what is in neither is frozen."""

    trained: tuple[str, ...]  # parameters that take gradients
    moving: tuple[str, ...]  # buffers that a forward pass in training changes
    steady: bool = True  # a call changes nothing else: no counter, say, that a later call might look at


class Reading(nn.Module):
    """A module that also hands back what some of its buffers are after the call."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, x: Any) -> tuple[Any, dict[str, Tensor]]:
        output = self.module(x)
        return output, {name: self.module.get_buffer(name) for name in self.names}


class _Draws(TorchDispatchMode):
    """Notes operations that draw from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch asks; keeping dynamo away from what is never compiled would load it, which takes seconds."""
        return False

    def __torch_dispatch__(self, function: Any, kinds: Any, arguments: Any = (), options: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            self.found.append(str(function.name()).partition("::")[2])
        return function(*arguments, **(options or {}))


def _loose(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a module holds as plain attributes, alone or in lists and dicts."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules") or name.endswith("_hooks"):
                continue
            for leaf in tree_leaves(value) if isinstance(value, list | tuple | dict) else [value]:
                if isinstance(leaf, Tensor):
                    yield f"{path}.{name}" if path else name, leaf


def _plain(module: nn.Module) -> dict[str, str]:
    """What a module holds beside tensors and modules, as text; objects by which they are and what they hold."""
    seen: set[int] = set()

    def told(value: Any) -> str:
        if isinstance(value, list | tuple | set):
            return f"{type(value)}{[told(one) for one in value]}"
        if isinstance(value, dict):
            return f"{[(told(key), told(one)) for key, one in value.items()]}"
        if isinstance(value, np.ndarray):
            return f"{value.dtype}{value.shape}{hash(value.tobytes()) if value.dtype != object else id(value)}"
        if isinstance(value, int | float | complex | str | bytes | None):
            return repr(value)
        if isinstance(value, type | Tensor | nn.Module) or callable(value) or id(value) in seen:
            return f"at {id(value)}"
        seen.add(id(value))
        return f"at {id(value)}{told(getattr(value, '__dict__', None))}"

    return {
        f"{path}.{name}": told(value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in ("_parameters", "_buffers", "_modules")
    }


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs hold the same tensors."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]
    return all(a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
               for a, b in tensors)  # fmt: skip


def parts_of(stack: Stack) -> Parts:
    """The roles of the tensors of a stack's modules, found by trying the first instance.

    Raises InputError for a module that draws random numbers in training (dropout), keeps state that is neither
    parameter nor buffer, holds tensors drawn at random outside both, or has parameters that are lazy or complex.
    """
    setting = stack.setting
    name = getattr(setting.model.build, "__name__", "the model")
    with building(0):
        module = setting.build()
    with building(1):
        again = setting.build()
    for key, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise InputError(f"{name}: parameter {key} has no size before its first input; give sizes instead of Lazy")
        if parameter.is_complex() and parameter.requires_grad:
            raise InputError(f"{name}: parameter {key} is complex; train its real and imaginary parts")
    for (key, one), (_, other) in zip(_loose(module), _loose(again), strict=False):
        if one.shape != other.shape or not _same(one, other):
            raise InputError(f"{name}: tensor {key} is drawn as the module is built, but is no parameter or buffer; "
                             "register it, so that each instance has its own")  # fmt: skip
    with one_thread(), torch.no_grad():
        return _tried(stack.take([0]), module, name)


def _tried(one: Stack, module: nn.Module, name: str) -> Parts:
    setting = one.setting
    parameters, buffers = ({k: v[0] for k, v in values.items()} for values in initial_values(one))
    constants = {k: v[0] for k, v in task_constants(one).items()}
    here = bound(setting, {k: v[0] for k, v in _as_tensors(one, torch.device("cpu")).items()})
    draws = uniforms(one.data_seed, 0, setting.batch, setting.features.n_uniforms)[0]
    names = tuple(buffers)
    reading = Reading(module, names)

    def called(training: bool) -> tuple[Any, dict[str, Tensor]]:
        module.train(training)
        x, target = here.task.batch(here.features, constants, draws)
        state = {**parameters, **{k: v.clone() for k, v in buffers.items()}}
        output, after = functional_call(reading, {f"module.{k}": v for k, v in state.items()}, (x,))
        return (output, here.task.loss(output, target)), after

    watch, before = _Draws(), _plain(module.train())
    with np.errstate(all="ignore"):
        still = called(False)[0]
        with watch:
            first, after = called(True)
        if watch.found:
            raise InputError(
                f"{name} on {type(setting.task).__name__}: training draws random numbers ({watch.found[0]}), which no "
                "seed of an instance fixes; leave dropout and noise out, features draw by (seed, step)"
            )
        second, _ = called(True)
        if not _same(first, second) or not _same(still, called(False)[0]):
            raise InputError(f"{name}: its output depends on what it was called with before, or on chance; keep such "
                             "state in registered buffers")  # fmt: skip
    moving = tuple(k for k in names if not _same(after[k], buffers[k]))
    trained = tuple(k for k, parameter in module.named_parameters() if parameter.requires_grad)
    return Parts(trained, moving, before == _plain(module.train()))
