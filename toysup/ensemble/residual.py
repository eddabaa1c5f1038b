"""Which settings the residual kernel trains (facts, and regression on independent features), and how."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from toysup.ensemble import shallow
from toysup.ensemble.plan import Plan
from toysup.ensemble.shallow import TARGETS, _magnitude, _per_feature
from toysup.ensemble.stack import Stack, initial_values, task_constants
from toysup.features import Correlated, OnePerGroup
from toysup.features.base import as_tensor
from toysup.kernels import residual as kernels
from toysup.kernels.residual import Kind, Layout
from toysup.models import ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.random import BLOCK, KEYS, TABLE
from toysup.setting import Adam, Model
from toysup.simd import LANES
from toysup.tasks import Memory

WIDEST = 512  # stream or hidden layer; 2 to 3 times the compiled general path there, and nothing wider was measured
FOLDED = 256  # stream, where the general path folds the embedding and soon has much less to do


def unfit(stack: Stack) -> str | None:
    """Why a stack cannot be trained by the residual kernel, in a few words; None where it can."""
    setting = stack.setting
    if setting.model.build not in (ResidualMLP, UntiedAutoencoder):
        return f"the model is {setting.model!r}"
    module = setting.build()
    if not list(module.parameters()):
        return "nothing is trained"
    if isinstance(module.b_in, list):
        return "neurons have no biases"
    memory, shape = isinstance(setting.task, Memory), module.shape
    if max(shape.width, shape.hidden) > WIDEST:
        return f"the shape is {shape}, wider than {WIDEST}"
    if not memory and shape.width > FOLDED and module.folds(setting.batch):
        return f"the shape is {shape}, which the general path folds"
    if not memory:
        if module.unembedding == "coordinates":
            return "the outputs of a regression are coordinates"
        if isinstance(setting.features, Correlated):
            return f"features are {type(setting.features).__name__}"
        own = replace(setting, model=Model(TiedAutoencoder, width=1))
        return shallow.unfit(replace(stack, setting=own))  # what it says of features, task and optimizer
    if type(setting.task) is not Memory:
        return f"the task is {type(setting.task).__name__}"
    if type(setting.features) is not OnePerGroup:
        return f"features are {type(setting.features).__name__}"
    if type(setting.optimizer) is not Adam:
        return f"the optimizer is {type(setting.optimizer).__name__}"
    if "W_E" in dict(module.named_parameters()) or module.unembedding == "tied" or module.b_out is not None:
        return "keys are trained, tied or answered by a ReLU"
    return None


def _round(number: int, to: int) -> int:
    return -(-number // to) * to


def _layout(stack: Stack, places: dict[str, int], count: int, frozen: int) -> tuple[Layout, int]:
    """(layout, scratch needed), for parameters and frozen matrices at the places given."""
    setting = stack.setting
    module, features, task, batch = setting.build(), setting.features, setting.task, setting.batch
    memory = isinstance(task, Memory)
    d, h, depth = module.shape.width, module.shape.hidden, module.shape.depth
    n, n_out = (features.n_active if memory else features.n_features), task.n_outputs(features)
    rows = {
        "weights": 1,
        "x": n,
        "stream": depth * d + _round(d, LANES),
        "neurons": depth * h,
        "y": n_out,
        "back": d,
        "bent": h,
    }
    fits = kernels.CACHE // (4 * sum(rows.values())) // BLOCK * BLOCK
    tile = min(max(BLOCK, fits), kernels.TILE)
    tile = _round(-(-batch // -(-batch // tile)), BLOCK)  # tiles of about equal size
    ld = tile + LANES
    at = 4 * count + _round(frozen, LANES)
    own = {"limit": n, "inverse": n, "importance": n, "lost": LANES}
    for name, size in {**own, **{name: ld * number for name, number in rows.items()}}.items():
        own[name] = at
        at += _round(size, LANES)
    sizes: dict[str, Any] = {
        "n": n,
        "n_out": n_out,
        "labels": getattr(task, "n_labels", 0),
        "group": features.n_features // n,
        "width": d,
        "hidden": h,
        "depth": depth,
        "read": module.read,
        "batch": batch,
        "cycle": setting.cycle or setting.steps,
        "tile": tile,
        "ld": ld,
        "count": count,
        "trains_E": int(0 <= places.get("W_E", -1) < count),
        "trains_U": int(0 <= places.get("W_U", -1) < count),
        "trains_blocks": int(0 <= places.get("W_in.0", -1) < count),
    }
    names = ("W_E", "W_U", "gain", "b_out")
    starts = {"W_in": places.get("W_in.0", 0), "b_in": places.get("b_in.0", 0), "W_out": places.get("W_out.0", 0)}
    starts |= {name: places.get(name, -1) for name in names}
    return Layout(**sizes, **starts, **own), at


def kind_of(stack: Stack) -> Kind:
    """Which kernel trains a stack."""
    setting, task = stack.setting, stack.setting.task
    if isinstance(task, Memory):
        return Kind(True)
    exponent = int(np.unique(stack.varying.get("task.exponent", task.exponent))[0])
    relu = setting.build().b_out is not None
    return Kind(False, relu, exponent, TARGETS[type(task)], _magnitude(setting.features))


def plan_of(stack: Stack, dtype: type = np.float32) -> Plan:
    """The plan for a stack that is not `unfit`; dtype is that of the kernel's arithmetic."""
    setting, many = stack.setting, len(stack)
    task, module = setting.task, setting.build()
    memory = isinstance(task, Memory)
    parameters, buffers = ({k: v.numpy() for k, v in values.items()} for values in initial_values(stack))
    start = {name: value.reshape(many, -1) for name, value in parameters.items()}
    ends = dict(zip(start, itertools.accumulate(value.shape[1] for value in start.values()), strict=True))
    places = {name: end - start[name].shape[1] for name, end in ends.items()}
    count = _round(max(ends.values()), LANES)
    theta = np.zeros((many, count), dtype)
    theta[:, : sum(value.shape[1] for value in start.values())] = np.concatenate(list(start.values()), 1)

    kept = {name: value for name, value in buffers.items() if not memory or name != "W_E"}
    frozen = np.concatenate([np.zeros((many, 0), np.float32), *(v.reshape(many, -1) for v in kept.values())], 1)
    at = 4 * count
    for name, value in kept.items():
        places[name] = at
        at += value[0].size
    if module.unembedding == "tied":
        places["W_U"] = places["W_E"]
    layout, floats = _layout(stack, places, count, frozen.shape[1])

    if memory:
        used = _per_feature(stack, lambda s: s.features._used(as_tensor(s.features.offered)))[:, :1].copy()
        unaligned = -module.shape.width % LANES
        keys = np.pad(buffers["W_E"], ((0, 0), (0, 0), (0, unaligned))) if unaligned else buffers["W_E"]
        own = (frozen, used, task_constants(stack)["labels"].numpy(), keys)
    else:
        own = (frozen, _per_feature(stack, lambda s: s.features.activity),
               _per_feature(stack, lambda s: s.task.importance), np.zeros((many, 1, 1), np.float32))  # fmt: skip

    def unpack(theta: np.ndarray) -> dict[str, np.ndarray]:
        shapes = {name: value.shape[1:] for name, value in parameters.items()}
        return {name: np.ascontiguousarray(theta[:, places[name] : ends[name]]).reshape(len(theta), *shape)
                for name, shape in shapes.items()}  # fmt: skip

    blocks = -(-setting.batch // BLOCK)
    ints = _round(KEYS + 3 * layout.n, 8) + TABLE * blocks + max(blocks, layout.n * layout.tile)
    return Plan(kernels.kernel(kind_of(stack)), theta, own, layout, floats, ints, unpack)
