"""Which settings the listed kernel trains (tied autoencoders of few neurons on normalised sparse features), and how."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toysup.ensemble.known import (
    UNIT_LENGTH,
    is_whole,
    shape_of,
    unfit_features,
    unfit_model,
    unfit_rest,
    unfit_task,
    unfit_varying,
)
from toysup.ensemble.plan import Plan, resumed, scratch
from toysup.ensemble.shallow import per_feature, power_of
from toysup.ensemble.stack import Stack, initial_values
from toysup.kernels import listed as kernels
from toysup.kernels.listed import Kind
from toysup.models import TiedAutoencoder
from toysup.random import Stream
from toysup.simd import LANES
from toysup.tasks import Identity

WIDEST = 8  # neurons: sums for each feature and neuron are to stay in registers


ARGUMENTS = {
    TiedAutoencoder: {"width": is_whole, "relu": lambda relu: relu is True, "hidden_relu": lambda bent: bent is False}
}


def unfit(stack: Stack) -> str | None:
    """Why a stack cannot be trained by the listed kernel, in a few words; None where it can."""
    setting, model = stack.setting, stack.setting.model
    reason = unfit_features(setting.features, (UNIT_LENGTH,)) or unfit_task(setting.task, (Identity,))
    reason = reason or unfit_model(model, ARGUMENTS)
    if reason:
        return reason
    if model.arguments["width"] > WIDEST:
        return f"features are UnitLength and the model is wider than {WIDEST}"
    if power_of(stack) != 2:
        return "the exponent is not 2 for all"
    n, importance = setting.features.n_features, shape_of(setting.task.importance)
    if importance not in ((), (1,), (n,)):
        return f"the importance has shape {importance}"
    density = np.asarray(stack.varying.get("features.density", setting.features.density), float)
    if not np.all((density >= 0) & (density <= 1)):  # lists are as long as these say
        return "densities lie outside [0, 1]"
    read = {"features.density": 1, "task.importance": n, "task.exponent": n}
    return unfit_rest(setting) or unfit_varying(stack, read)


def kind_of(stack: Stack) -> Kind:
    """Which kernel trains a stack."""
    importance = np.asarray(stack.varying.get("task.importance", stack.setting.task.importance))
    return Kind(stack.setting.model.arguments["width"], bool(np.any(importance != 1)))


def plan_of(stack: Stack, dtype: type = np.float32) -> Plan:
    """The plan for a stack that is not `unfit`; dtype is that of the kernel's arithmetic."""
    setting = stack.setting
    n, m, batch = setting.features.n_features, setting.model.arguments["width"], setting.batch
    start = {name: value.numpy() for name, value in initial_values(stack)[0].items()}
    count = -(-n * (m + 1) // LANES) * LANES
    theta = np.zeros((len(stack), count), dtype)
    theta[:, : n * m], theta[:, n * m : n * m + n] = start["W"].reshape(len(stack), -1), start["b"]

    def unpack(theta: np.ndarray) -> dict[str, np.ndarray]:
        W, b = theta[:, : n * m].reshape(-1, n, m), theta[:, n * m : n * m + n]
        return {"W": np.ascontiguousarray(W), "b": np.ascontiguousarray(b)}

    own = (per_feature(stack, lambda s: s.features.activity), per_feature(stack, lambda s: s.task.importance))
    sizes = np.array([n, batch, setting.cycle or 0, Stream.TRAIN])
    floats, ints = kernels.floats_needed(n, m, batch, count), kernels.ints_needed(n, batch)
    return Plan(kernels.kernel(kind_of(stack)), theta, own, sizes, floats, ints, unpack)


def losses(
    stack: Stack, parameters: dict[str, Tensor], stream: Stream, batch: int, batches: int
) -> Float[Tensor, "instance batch"]:
    """Loss of trained networks on each of the first batches of a stream: training at a learning rate of 0.

    With ten thousand features that is some thirty times as fast as going through dense samples.
    """
    setting = dataclasses.replace(stack.setting, batch=batch, examples=None, steps=batches)
    plan = plan_of(dataclasses.replace(stack, setting=setting))
    count, n, m = len(stack), *parameters["W"].shape[1:]
    theta, sizes = plan.theta.copy(), np.array([n, batch, 0, stream])
    theta[:, : n * m] = parameters["W"].reshape(count, -1).numpy()
    theta[:, n * m : n * m + n] = parameters["b"].numpy()
    rates = np.tile([0.0, 0.0, 0.9, 0.999, 1e-8], (count, 1))
    found = np.zeros((count, batches), np.float32)
    nothing: Any = np.zeros(0, np.int64), found, np.zeros((0, *theta.shape), theta.dtype), np.zeros(count, np.int64)
    seeds = np.ascontiguousarray(stack.data_seed, dtype=np.int64)
    memory = scratch(plan.floats, theta.dtype), scratch(plan.ints, np.int64)
    edges, whole = np.arange(batches + 1), (0, batches, *resumed(theta[:0]))
    plan.kernel(theta, plan.own, seeds, rates, np.zeros(batches), edges, *nothing, *whole, sizes, *memory)
    return torch.from_numpy(found)
