"""Which settings the shallow kernel trains (tied and untied autoencoders, MLPs of one hidden layer), and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from toysup.ensemble.plan import Plan
from toysup.ensemble.stack import Stack, _as_tensors, bound, initial_values
from toysup.ensemble.step import one_thread
from toysup.features import Correlated
from toysup.features.base import MAGNITUDES, Features, Independent, Sparse
from toysup.kernels import shallow, tiles
from toysup.models import MLP, TiedAutoencoder, UntiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.simd import LANES
from toysup.tasks import AbsoluteValue, Identity, XPlusRelu

TARGETS = {Identity: tiles.SAME, AbsoluteValue: tiles.ABSOLUTE, XPlusRelu: tiles.PLUS_RELU}
WIDE = 24  # neurons from which layouts are wide; at 30 neither is faster where data are dense, wide is where sparse


def unfit(stack: Stack) -> str | None:
    """Why a stack cannot be trained by a fused kernel, in a few words; None where it can."""
    setting = stack.setting
    features, task, model = setting.features, setting.task, setting.model
    if type(task) not in TARGETS:
        return f"the task is {type(task).__name__}"
    if not _plain(features) or features.magnitude == "normal":
        return f"features are {type(features).__name__}"
    exponents = np.unique(stack.varying.get("task.exponent", task.exponent))
    if len(exponents) > 1 or exponents[0] not in (2, 4):
        return "the exponent is not 2 or 4 for all"
    if type(setting.optimizer) is not Adam:
        return f"the optimizer is {type(setting.optimizer).__name__}"
    shallow = model.build in (TiedAutoencoder, MLP, UntiedAutoencoder)
    if not shallow or model.arguments.get("depth", model.build is MLP) != (model.build is MLP):
        return f"the model is {model!r}"
    return None


def _plain(features: Features) -> bool:
    """Whether features are drawn as `Independent` or `Correlated` says, whatever their activity."""
    own = type(features)
    return any(
        isinstance(features, kind)
        and all(getattr(own, name) is getattr(kind, name) for name in ("transform", "n_uniforms", "given_active"))
        for kind in (Independent, Correlated)
    )


def _grouped(features: Sparse) -> int:
    if not isinstance(features, Correlated):
        return tiles.ALONE
    return tiles.IN_TURN if features.anti else tiles.TOGETHER


def _magnitude(features: Sparse) -> int:
    uniform = features.given_active is MAGNITUDES["uniform"][features.signed]
    return (tiles.UNIFORM, tiles.SIGNED, tiles.BOOLEAN, tiles.SIGN)[2 * (not uniform) + features.signed]


def _per_feature(stack: Stack, pick: Callable[[Setting], Any]) -> np.ndarray:
    """(instance, feature) float32: one of the setting's fields, each instance's own."""
    n = stack.setting.features.n_features

    def one(values: dict[str, Tensor], _: Tensor) -> Tensor:
        return torch.as_tensor(pick(bound(stack.setting, values)), dtype=torch.float32).expand(n)

    with one_thread():
        found = vmap(one)(_as_tensors(stack, torch.device("cpu")), torch.zeros(len(stack)))
    return found.contiguous().numpy()


NAMES = {  # the kernel's matrices and biases -> the model's; a hidden bias may be missing there
    TiedAutoencoder: {"E": "W", "b": "b"},
    MLP: {"E": "weights.0", "c": "biases.0", "D": "W_out", "b": "b_out"},
    UntiedAutoencoder: {"E": "W_E", "D": "W_U", "b": "b_out"},
}


def _hidden(model: Model) -> tuple[bool, bool]:
    """Whether the hidden layer has a ReLU, and whether it has a bias."""
    mlp = model.build is MLP
    return mlp or model.arguments.get("hidden_relu", False), mlp and model.arguments.get("hidden_bias", True)


def kind_of(stack: Stack) -> shallow.Kind:
    """Which kernel trains a stack."""
    setting, arguments = stack.setting, stack.setting.model.arguments
    names, n, m = NAMES[setting.model.build], setting.features.n_features, arguments["width"]
    hidden, bias = _hidden(setting.model)
    few = "D" not in names and not hidden and n * (m + 1) <= shallow.FEW
    return shallow.Kind(
        tied="D" not in names,
        hidden=hidden,
        bias=bias,
        relu=arguments.get("relu", True),
        power=int(np.unique(stack.varying.get("task.exponent", setting.task.exponent))[0]),
        target=TARGETS[type(setting.task)],
        magnitude=_magnitude(setting.features),
        grouped=_grouped(setting.features),
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
    own = (_per_feature(stack, lambda s: s.features.activity), _per_feature(stack, lambda s: s.task.importance))
    floats = shallow.floats_needed(kind, n, m, tile, count)
    ints = shallow.ints_needed(kind, n, groups, tile, setting.batch)
    return Plan(shallow.kernel(kind), theta, own, sizes, floats, ints, unpack)
