"""Which settings the shallow kernel trains (tied and untied autoencoders, MLPs of one hidden layer), and how."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from toysup.ensemble.known import (
    CORRELATED,
    INDEPENDENT,
    SCORED,
    Known,
    anything,
    is_flag,
    is_whole,
    magnitude_of,
    shape_of,
    unfit_features,
    unfit_model,
    unfit_optimizer,
    unfit_setting,
    unfit_task,
    unfit_varying,
)
from toysup.ensemble.plan import Plan
from toysup.ensemble.stack import Stack, _as_tensors, bound, initial_values
from toysup.features import Correlated, Features
from toysup.kernels import shallow, tiles
from toysup.models import MLP, TiedAutoencoder, UntiedAutoencoder
from toysup.safely import one_thread
from toysup.setting import Model, Setting
from toysup.simd import LANES
from toysup.tasks import AbsoluteValue, Identity, XPlusRelu

TARGETS = {Identity: tiles.SAME, AbsoluteValue: tiles.ABSOLUTE, XPlusRelu: tiles.PLUS_RELU}
WIDE = 24  # neurons from which layouts are wide; at 30 neither is faster where data are dense, wide is where sparse


def unfit(stack: Stack) -> str | None:
    """Why a stack cannot be trained by a fused kernel, in a few words; None where it can."""
    return unfit_model(stack.setting.model, ARGUMENTS) or unfit_data(stack, (INDEPENDENT, CORRELATED))


def unfit_data(stack: Stack, kinds: Sequence[Known]) -> str | None:
    """Why a kernel for regression on distributions of some kinds cannot train a stack, whatever its network is."""
    return unfit_samples(stack, kinds) or unfit_optimizer(stack.setting)


def unfit_scored(stack: Stack) -> str | None:
    """Why no kernel can tell the errors of a stack's networks, however they were trained; None where one can."""
    task = stack.setting.task
    reason = unfit_model(stack.setting.model, ARGUMENTS) or unfit_samples(stack, (INDEPENDENT, CORRELATED))
    if reason:
        return reason
    return unfit_task(task, TARGETS, SCORED)


def unfit_samples(stack: Stack, kinds: Sequence[Known]) -> str | None:
    """Why a kernel for regression on distributions of some kinds cannot draw a stack's samples and take their loss."""
    setting, n = stack.setting, stack.setting.features.n_features
    reason = unfit_task(setting.task, TARGETS) or unfit_features(setting.features, kinds)
    if reason:
        return reason
    if power_of(stack) is None:
        return "the exponent is not 2 or 4 for all"
    shape = shape_of(setting.task.importance)
    if shape not in ((), (1,), (n,)):
        return f"the importance has shape {shape}"
    densities = 1 if isinstance(setting.features, Correlated) else n
    read = {"features.density": densities, "task.importance": n, "task.exponent": n}
    return unfit_setting(setting) or unfit_varying(stack, read)


def power_of(stack: Stack) -> int | None:
    """The exponent of the loss, where it is 2 or 4 for all instances; else None."""
    own = stack.setting.task.exponent
    if "task.exponent" not in stack.varying and not isinstance(own, numbers.Real):
        return None  # an array or a tensor: the general path knows what it does with one
    found = np.unique(stack.varying.get("task.exponent", own))
    return int(found[0]) if len(found) == 1 and found[0] in (2, 4) else None


def grouped_of(features: Features) -> int:
    if not isinstance(features, Correlated):
        return tiles.ALONE
    return tiles.IN_TURN if features.anti else tiles.TOGETHER


def per_feature(stack: Stack, pick: Callable[[Setting], Any]) -> np.ndarray:
    """(instance, feature) float32: one of the setting's fields, each instance's own."""
    n = stack.setting.features.n_features

    def one(values: dict[str, Tensor], _: Tensor) -> Tensor:
        return torch.as_tensor(pick(bound(stack.setting, values)), dtype=torch.float32).expand(n)

    with one_thread():
        found = vmap(one)(_as_tensors(stack, torch.device("cpu")), torch.zeros(len(stack)))
    return found.detach().contiguous().numpy()


NAMES = {  # the kernel's matrices and biases -> the model's; a hidden bias may be missing there
    TiedAutoencoder: {"E": "W", "b": "b"},
    MLP: {"E": "weights.0", "c": "biases.0", "D": "W_out", "b": "b_out"},
    UntiedAutoencoder: {"E": "W_E", "D": "W_U", "b": "b_out"},
}


ARGUMENTS = {  # what a network's arguments may be; an `open_start` counts at the start only, which is the network's
    TiedAutoencoder: {"width": is_whole, "relu": is_flag, "hidden_relu": is_flag},
    MLP: {"width": is_whole, "depth": lambda depth: is_whole(depth) and depth == 1, "relu": is_flag,
          "hidden_bias": is_flag, "open_start": anything},
    UntiedAutoencoder: {"width": is_whole, "depth": lambda depth: is_whole(depth, 0) and depth == 0,
                        "hidden": anything},
}  # fmt: skip


def hidden_of(model: Model) -> tuple[bool, bool]:
    """Whether the hidden layer has a ReLU, and whether it has a bias."""
    return {
        TiedAutoencoder: (model.arguments.get("hidden_relu", False), False),
        MLP: (True, model.arguments.get("hidden_bias", True)),
        UntiedAutoencoder: (False, False),
    }[model.build]


def kind_of(stack: Stack) -> shallow.Kind:
    """Which kernel trains a stack."""
    setting, arguments = stack.setting, stack.setting.model.arguments
    names, n, m = NAMES[setting.model.build], setting.features.n_features, arguments["width"]
    hidden, bias = hidden_of(setting.model)
    few = "D" not in names and not hidden and n * (m + 1) <= shallow.FEW
    return shallow.Kind(
        tied="D" not in names,
        hidden=hidden,
        bias=bias,
        relu=arguments.get("relu", True),
        power=power_of(stack),
        target=TARGETS[type(setting.task)],
        magnitude=magnitude_of(setting.features),
        grouped=grouped_of(setting.features),
        wide=m >= WIDE,
        n=n * few,
        m=m * few,
    )


def plan_of(stack: Stack, dtype: type = np.float32) -> Plan:
    """The plan for a stack that is not `unfit`; dtype is that of the kernel's arithmetic."""
    setting, kind = stack.setting, kind_of(stack)
    names, n, m = NAMES[setting.model.build], setting.features.n_features, setting.model.arguments["width"]
    start = {name: value.numpy() for name, value in initial_values(stack)[0].items()}
    stride = -(-m // LANES) * LANES if kind.wide else m

    # name -> (where it starts, its shape as kept, whether it is kept transposed)
    places: dict[str, tuple[int, tuple[int, ...], bool]] = {}
    at = 0
    for short, shape in (("E", (n, stride)), ("D", (n, stride)), ("c", (stride,)), ("b", (n,))):
        if short in names and names[short] in start:
            places[names[short]] = at, shape, short == "D" and setting.model.build is MLP
        if short in names or (short == "c" and kind.hidden):
            at += int(np.prod(shape))

    def unpack(theta: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for name, (first, shape, turned) in places.items():
            value = theta[:, first : first + int(np.prod(shape))].reshape(len(theta), *shape)
            value = value if name == names["b"] else value[..., :m]
            found[name] = np.ascontiguousarray(value.swapaxes(1, 2) if turned else value)
        return {name: found[name] for name in start}

    count = -(-at // LANES) * LANES
    theta = np.zeros((len(stack), count), dtype)
    for name, (first, shape, turned) in places.items():
        value = start[name].swapaxes(1, 2) if turned else start[name]
        padded = np.zeros((len(stack), *shape), dtype)
        padded[..., : value.shape[-1]] = value
        theta[:, first : first + padded[0].size] = padded.reshape(len(stack), -1)

    tile = shallow.tile_of(n, m, setting.batch, kind.wide)
    groups = setting.features.n_uniforms - n
    sizes = np.array([n, m, setting.batch, tile, groups, setting.cycle or setting.steps])
    own = (per_feature(stack, lambda s: s.features.activity), per_feature(stack, lambda s: s.task.importance))
    floats = shallow.floats_needed(kind, n, m, tile, count)
    ints = shallow.ints_needed(kind, n, groups, tile, setting.batch)
    return Plan(shallow.kernel(kind), theta, own, sizes, floats, ints, unpack)
