"""Which settings the listed kernel trains (tied autoencoders of few neurons on normalised sparse features), and how."""

from __future__ import annotations

import numpy as np

from toysup.ensemble.plan import Plan
from toysup.ensemble.shallow import _per_feature
from toysup.ensemble.stack import Stack, initial_values
from toysup.features import UnitLength
from toysup.kernels import listed as kernels
from toysup.kernels.listed import Kind
from toysup.models import TiedAutoencoder
from toysup.setting import Adam
from toysup.simd import LANES
from toysup.tasks import Identity

WIDEST = 8  # neurons: sums for each feature and neuron are to stay in registers


def unfit(stack: Stack) -> str | None:
    """Why a stack cannot be trained by the listed kernel, in a few words; None where it can."""
    setting, model = stack.setting, stack.setting.model
    if type(setting.features) is not UnitLength:
        return f"features are {type(setting.features).__name__}"
    if type(setting.task) is not Identity:
        return f"the task is {type(setting.task).__name__}"
    if np.any(stack.varying.get("task.exponent", np.asarray(setting.task.exponent)) != 2):
        return "the exponent is not 2 for all"
    if type(setting.optimizer) is not Adam:
        return f"the optimizer is {type(setting.optimizer).__name__}"
    if model.build is not TiedAutoencoder or not model.arguments.get("relu", True):
        return f"the model is {model!r}"
    if model.arguments["width"] > WIDEST:
        return f"features are UnitLength and the model is wider than {WIDEST}"
    return None


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

    own = (_per_feature(stack, lambda s: s.features.activity), _per_feature(stack, lambda s: s.task.importance))
    sizes = np.array([n, batch, setting.cycle or 0])
    floats, ints = kernels.floats_needed(n, m, batch, count), kernels.ints_needed(n, batch)
    return Plan(kernels.kernel(kind_of(stack)), theta, own, sizes, floats, ints, unpack)
