"""What trained networks get wrong on data they were not trained on, summed by a kernel where one knows the setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from toysup.ensemble.known import magnitude_of
from toysup.ensemble.plan import scratch
from toysup.ensemble.shallow import NAMES, TARGETS, grouped_of, hidden_of, per_feature, power_of, unfit_scored
from toysup.ensemble.stack import Stack
from toysup.ensemble.train import Trained, train_chunk
from toysup.kernels import held_out as kernels
from toysup.kernels.held_out import Sizes
from toysup.models import MLP
from toysup.random import BLOCK, Stream
from toysup.setting import Adam
from toysup.simd import LANES

__all__ = ["Sums", "prepare", "sums", "unfit"]

WAYS = {name: getattr(Trained, name) for name in ("batch", "forward")}  # as they are elsewhere, replaced here
PIECE = 64  # instances of a call: nothing can stop one on its way
_PREPARED: set[bool] = set()


class Sums(NamedTuple):
    """Means of errors and loss over the samples of each group of batches; in how many samples a target was away from
    its usual value, and in how many any was."""

    errors: Float[Tensor, "group instance feature"]
    loss: Float[Tensor, "group instance"]
    evidence: Int[Tensor, "instance feature"]
    shown: Int[Tensor, " instance"]


def unfit(trained: Trained) -> str | None:
    """Why no kernel can tell the errors of these networks, in a few words; None where one can."""
    stack = trained.stack
    reason = unfit_scored(stack)
    if reason:
        return reason
    for name, way in WAYS.items():
        if name in vars(trained) or getattr(type(trained), name) is not way:
            return f"the networks are {type(trained).__name__}, whose {name} no kernel knows"
    shapes = _shapes(trained)
    if trained.buffers or trained.constants or set(shapes) != set(trained.parameters):
        return "the networks have other parameters than their model's"
    for name, shape in shapes.items():
        value = trained.parameters[name]
        if type(value) is not Tensor or value.dtype != torch.float32 or value.device.type != "cpu":
            return f"{name} is not a float32 tensor on the CPU"
        if tuple(value.shape) != (len(trained), *shape):
            return f"{name} has shape {tuple(value.shape)}"
    return None


def prepare(stacks: Sequence[Stack]) -> None:
    """Compile the kernel, or load it from disk, where the fused stacks need it: once, before workers are forked."""
    for stack in stacks:
        if not _PREPARED and unfit_scored(stack) is None:
            setting = dataclasses.replace(stack.setting, steps=1, batch=1, examples=None, optimizer=Adam())
            one = dataclasses.replace(stack.take([0]), setting=setting)
            trained = train_chunk(one, device=torch.device("cpu"), compile=False, engine="fused")
            sums(trained, torch.ones(1, dtype=torch.long), BLOCK, 1, 1)
            _PREPARED.add(True)


def _shapes(trained: Trained) -> dict[str, tuple[int, ...]]:
    """The model's parameters and their shapes."""
    model, n = trained.setting.model, trained.setting.features.n_features
    m, (_, bias) = model.arguments["width"], hidden_of(model)
    decode = (m, n) if model.build is MLP else (n, m)
    shapes = {"E": (n, m), "D": decode, "c": (m,), "b": (n,)}
    return {name: shapes[short] for short, name in NAMES[model.build].items() if short != "c" or bias}


def sums(trained: Trained, batches: Int[Tensor, " instance"], size: int, groups: int, enough: int) -> Sums:
    """The sums over so many batches of each network, a multiple of `groups`, that is not `unfit`.

    Batch k of `size` samples, a multiple of 64, belongs to group k mod `groups`. Counting ends with the batch after
    which all of a network's counts are `enough`.
    """
    setting, count = trained.setting, len(trained)
    names, n, m = NAMES[setting.model.build], setting.features.n_features, setting.model.arguments["width"]
    hidden, bias = hidden_of(setting.model)
    sizes = Sizes(
        n=n,
        m=m,
        groups=setting.features.n_uniforms - n,
        batch=size,
        tile=kernels.tile_of(n, m, size),
        stream=int(Stream.HELD_OUT),
        hidden=int(hidden),
        relu=int(setting.model.arguments.get("relu", True)),
        power=power_of(trained.stack),
        target=TARGETS[type(setting.task)],
        magnitude=magnitude_of(setting.features),
        grouped=grouped_of(setting.features),
        enough=enough,
    )
    values = {short: trained.parameters[name].detach().numpy() for short, name in names.items() if short != "c" or bias}
    decode = values.get("D", values["E"])
    decode = decode.swapaxes(1, 2) if setting.model.build is MLP else decode
    biases = np.concatenate([values.get("c", np.zeros((count, m), np.float32)), values["b"]], axis=1)
    given = (
        np.ascontiguousarray(values["E"].swapaxes(1, 2)),
        np.ascontiguousarray(decode),
        biases,
        per_feature(trained.stack, lambda s: s.features.activity),
        per_feature(trained.stack, lambda s: s.task.importance),
        np.ascontiguousarray(trained.stack.data_seed, dtype=np.int64),
        batches.numpy(),
    )
    errors, loss = np.zeros((count, groups, n), np.float32), np.zeros((count, groups), np.float32)
    counts = np.zeros((count, n), np.int64), np.zeros(count, np.int64)
    kernel, memory = kernels.kernel(), _memory(sizes, groups)
    for first in range(0, count, PIECE):
        part = slice(first, first + PIECE)
        found = errors[part], loss[part], *(array[part] for array in counts)
        kernel(*(array[part] for array in given), sizes, *found, *memory)
    errors, loss = (torch.from_numpy(np.ascontiguousarray(a.swapaxes(0, 1))) for a in (errors, loss))
    return Sums(errors, loss, *map(torch.from_numpy, counts))


def _memory(sizes: Sizes, groups: int) -> tuple[np.ndarray, ...]:
    """Scratch of the kernel, in its order."""
    n, batch, tile = sizes.n, sizes.batch, sizes.tile
    tiles = batch // tile
    s = scratch((n + 1) * batch + 3 * n + LANES, np.float32)
    spare = s[n * batch : (n + 1) * batch]
    return (
        *(s, s[: n * batch].reshape(tiles, n, tile)),
        *(np.zeros((sizes.m, tile), np.float32), np.zeros(tile, np.float32)),
        *(spare.reshape(tiles, tile), spare.view(np.int32), np.zeros((tiles, tile), np.bool_)),
        scratch(kernels.ints_needed(sizes), np.int64),
        *(np.zeros((n, 2, 64)), np.zeros((groups, 1 + n))),
    )
