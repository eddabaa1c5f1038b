"""Which settings the residual kernel trains (facts, and regression on independent features), and how."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from toysup.ensemble.known import (
    INDEPENDENT,
    ONE_PER_GROUP,
    anything,
    is_flag,
    is_text,
    is_whole,
    magnitude_of,
    shape_of,
    unfit_features,
    unfit_model,
    unfit_rest,
    unfit_task,
    unfit_varying,
)
from toysup.ensemble.plan import Plan
from toysup.ensemble.shallow import TARGETS, per_feature, power_of, unfit_data
from toysup.ensemble.stack import Stack, initial_values, task_constants
from toysup.features.base import as_tensor
from toysup.kernels import residual as kernels
from toysup.kernels.residual import Kind, Layout
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.random import BLOCK, KEYS, TABLE
from toysup.shapes import Shape
from toysup.simd import LANES
from toysup.tasks import Memory

WIDEST = 512  # stream or hidden layer; 2 to 3 times the compiled general path there, and nothing wider was measured
FOLDED = 256  # stream, where the general path folds the embedding and soon has much less to do
KINDS = (INDEPENDENT,)
ARGUMENTS = {  # what a network's arguments may be; where they are settings of a built module, `unfit` looks at that
    UntiedAutoencoder: {"width": is_whole, "depth": lambda depth: is_whole(depth, 0),
                        "hidden": lambda hidden: hidden is None or is_whole(hidden)},
    ResidualMLP: {"shape": lambda shape: type(shape) is Shape, "embedding": is_text, "unembedding": is_text,
                  "blocks": is_text, "hidden_bias": is_flag, "row_norm": anything, "relu": is_flag},
}  # fmt: skip


def unfit(stack: Stack) -> str | None:
    """Why a stack cannot be trained by the residual kernel, in a few words; None where it can."""
    setting = stack.setting
    memory = type(setting.task) is Memory
    reason = unfit_model(setting.model, ARGUMENTS) or (_unfit_facts(stack) if memory else unfit_data(stack, KINDS))
    if reason:
        return reason
    module = setting.build()
    shape, trained = module.shape, dict(module.named_parameters())
    if not trained:
        return "nothing is trained"
    if isinstance(module.b_in, list):
        return "neurons have no biases"
    if max(shape.width, shape.hidden) > WIDEST:
        return f"the shape is {shape}, wider than {WIDEST}"
    if not memory and shape.width > FOLDED and module.folds(setting.batch):
        return f"the shape is {shape}, which the general path folds"
    if not memory and module.unembedding == "coordinates":
        return "the outputs of a regression are coordinates"
    if memory and ("W_E" in trained or module.unembedding == "tied" or module.b_out is not None):
        return "keys are trained, tied or answered by a ReLU"
    return None


def _unfit_facts(stack: Stack) -> str | None:
    """Why a kernel for facts cannot train a stack, whatever its network is."""
    setting = stack.setting
    reason = unfit_task(setting.task, (Memory,)) or unfit_features(setting.features, (ONE_PER_GROUP,))
    if reason:
        return reason
    shape = shape_of(setting.features.offered)
    if shape not in ((), (1,)):
        return f"what is offered has shape {shape}"
    return unfit_rest(setting) or unfit_varying(stack, {"features.offered": 1})


def _round(number: int, to: int) -> int:
    return -(-number // to) * to


def _layout(stack: Stack, places: dict[str, int], count: int, frozen: int) -> tuple[Layout, int]:
    """(layout, scratch needed), for parameters and frozen matrices at the places given."""
    setting = stack.setting
    module, features, task, batch = setting.build(), setting.features, setting.task, setting.batch
    memory = type(task) is Memory
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
    if type(task) is Memory:
        return Kind(True)
    relu = setting.build().b_out is not None
    return Kind(False, relu, power_of(stack), TARGETS[type(task)], magnitude_of(setting.features))


def plan_of(stack: Stack, dtype: type = np.float32) -> Plan:
    """The plan for a stack that is not `unfit`; dtype is that of the kernel's arithmetic."""
    setting, many = stack.setting, len(stack)
    task, module = setting.task, setting.build()
    memory = type(task) is Memory
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
        used = per_feature(stack, lambda s: s.features._used(as_tensor(s.features.offered)))[:, :1].copy()
        unaligned = -module.shape.width % LANES
        keys = np.pad(buffers["W_E"], ((0, 0), (0, 0), (0, unaligned))) if unaligned else buffers["W_E"]
        own = (frozen, used, task_constants(stack)["labels"].numpy(), keys)
    else:
        own = (frozen, per_feature(stack, lambda s: s.features.activity),
               per_feature(stack, lambda s: s.task.importance), np.zeros((many, 1, 1), np.float32))  # fmt: skip

    def unpack(theta: np.ndarray) -> dict[str, np.ndarray]:
        shapes = {name: value.shape[1:] for name, value in parameters.items()}
        return {name: np.ascontiguousarray(theta[:, places[name] : ends[name]]).reshape(len(theta), *shape)
                for name, shape in shapes.items()}  # fmt: skip

    blocks = -(-setting.batch // BLOCK)
    ints = _round(KEYS + 3 * layout.n, 8) + TABLE * blocks + max(blocks, layout.n * layout.tile)
    return Plan(kernels.kernel(kind_of(stack)), theta, own, layout, floats, ints, unpack)
