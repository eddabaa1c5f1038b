"""Networks built by hand whose answer is known, as `Trained`: what a measure of layers must find before it is believed.

Universal AND (Vaintrob, Mendel & Hänni 2024, "Toward a mathematical framework for computation in superposition"; Hänni
et al. 2024, "Mathematical models of computation in superposition"): each neuron takes a random few of the inputs and
computes ReLU(sum - 1); the AND of two inputs is read as the mean over the neurons that have both. Where the two are on
and no other, each of those says 1; where one of the pair and another input are on, only those that have the other too.

Inputs take the first coordinates of the stream, and nobody writes there; outputs take the others. So no block sees what
others wrote, the network is a sum of its neurons, and in which block a neuron sits changes nothing that it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from toysup.checks import InputError, check_kind, check_room, check_whole
from toysup.ensemble import Stack, Trained, initial_values, task_constants
from toysup.features import SparseBoolean
from toysup.models import ResidualMLP
from toysup.random import Stream, uniforms
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.tasks import And, Identity

__all__ = [
    "SplitStream",
    "confined_uand",
    "copied_identity",
    "pairs_setting",
    "scattered_uand",
    "single_block_uand",
    "untrained",
]


class SplitStream(ResidualMLP):
    """A residual MLP that reads its inputs, and is read, in subspaces of its stream that have nothing in common.

    Outputs are read in the last `room` coordinates, inputs are embedded in the others; both frozen. Each input (output)
    has a coordinate of its own if there are enough, else a random direction there, of unit length.
    """

    def __init__(self, n_in: int, n_out: int, *, shape: Shape, room: int) -> None:
        super().__init__(n_in, n_out, shape=shape, unembedding="frozen")
        check_whole("SplitStream", "room", room)
        if shape.width <= room:
            raise InputError(f"SplitStream: width must exceed room={room}, got {shape.width}")
        self.room = room

    def initial(self) -> dict[str, Callable[[Tensor], Tensor] | str]:
        inside = self.shape.width - self.room
        return {
            **super().initial(),
            "W_E": lambda u: nn.functional.pad(_rows(u[..., :inside]), (0, self.room)),
            "W_U": lambda u: nn.functional.pad(_rows(u[..., inside:]), (inside, 0)),
        }


def _rows(u: Float[Tensor, "*stack row room"]) -> Float[Tensor, "*stack row room"]:
    """The first unit vectors, or random ones where there are too few."""
    if u.shape[-2] <= u.shape[-1]:
        return torch.eye(*u.shape[-2:]).expand(u.shape).contiguous()
    return nn.functional.normalize(torch.special.ndtri(u), dim=-1)


def pairs_setting(
    n_inputs: int, n_pairs: int, depth: int, hidden: int, *, density: float, room: int | None = None,
    optimizer: Adam | None = None, steps: int = 1, batch: int = 256,
) -> Setting:  # fmt: skip
    """AND of `n_pairs` random pairs of n_inputs booleans by a `SplitStream` with a coordinate for each input: the world
    of all constructions of AND. `room` is n_pairs unless given: a coordinate for each output."""
    where = "pairs_setting"
    _check_sizes(where, n_inputs=n_inputs, n_pairs=n_pairs, depth=depth, hidden=hidden)
    room = n_pairs if room is None else check_whole(where, "room", room)
    optimizer = Adam() if optimizer is None else optimizer
    check_kind(where, "optimizer", optimizer, Adam)
    model = Model(SplitStream, shape=Shape(n_inputs + room, depth, hidden), room=room)
    return Setting(SparseBoolean(n_inputs, density), And(n_pairs=n_pairs), model, optimizer, steps, batch)


def untrained(setting: Setting, seeds: Sequence[int]) -> Trained:
    """A setting's networks as they start, one for each seed."""
    stack = Stack.of(setting, seeds)
    nothing = torch.full((len(stack), 1), torch.nan), torch.full((len(stack),), -1), {}, "by hand"
    return Trained(stack, *initial_values(stack), task_constants(stack), *nothing)


def _blank(setting: Setting, seeds: Sequence[int]) -> Trained:
    """The setting's networks before training, with parameters that are all 0."""
    trained = untrained(setting, seeds)
    for value in trained.parameters.values():
        value.zero_()
    return trained


def _draw(seeds: Sequence[int], rows: int, columns: int, place: int) -> Float[Tensor, "instance rows columns"]:
    """Uniforms of each seed, of its initial values' stream at a place that no parameter has."""
    keys = np.asarray(seeds, dtype=np.int64)
    return uniforms(keys, 2**20 + place, rows * columns, 1, stream=Stream.INIT).reshape(-1, rows, columns)


def _fill(trained: Trained, members: Bool[Tensor, "instance neuron input"], block_of: Tensor) -> Trained:
    """Neurons into their blocks: ReLU(sum of members - 1), written to each pair that a neuron has both inputs of.

    `block_of` is (instance, neuron): each block's neurons fill its places in their order.
    """
    first, second = trained.constants["first"], trained.constants["second"]
    n, depth = members.shape[-1], trained.setting.build().shape.depth
    both = members.gather(2, first.unsqueeze(1).expand(-1, members.shape[1], -1))
    both = both & members.gather(2, second.unsqueeze(1).expand(-1, members.shape[1], -1))  # instance neuron pair
    mean = both.float() / both.sum(1, keepdim=True).clamp(min=1)
    written = mean @ trained.buffers["W_U"]  # instance neuron width
    for block in range(depth):
        W_in, b_in, W_out = (trained.parameters[f"{name}.{block}"] for name in ("W_in", "b_in", "W_out"))
        for instance in range(len(trained)):
            own = (block_of[instance] == block).nonzero()[:, 0]
            W_in[instance, :n, : len(own)] = members[instance, own].float().T
            b_in[instance, : len(own)] = -1.0
            W_out[instance, : len(own)] = written[instance, own]
    return trained


def _check_sizes(where: str, **sizes: int) -> None:
    for name, size in sizes.items():
        check_whole(where, name, size)


def _members(seeds: Sequence[int], neurons: int, n_inputs: int, takes: int) -> Bool[Tensor, "instance neuron input"]:
    """Which inputs each neuron takes: a random `takes` of them."""
    check_whole("constructions", "neurons", neurons)
    check_whole("constructions", "takes", takes, 2, n_inputs)
    return _draw(seeds, neurons, n_inputs, 0).argsort(-1).argsort(-1) < takes


def single_block_uand(
    n_inputs: int, n_pairs: int, *, neurons: int, depth: int, room: int | None = None, takes: int = 5,
    density: float = 0.1, seeds: Sequence[int] = range(8),
) -> Trained:  # fmt: skip
    """Universal AND by `neurons` neurons in block depth // 2; all blocks are that wide and the others do nothing.

    Args:
        room: coordinates for the outputs, one for each unless given.
        takes: how many inputs a neuron takes. density: of the inputs. seeds: one for each instance.
    """
    _check_sizes("single_block_uand", neurons=neurons, depth=depth)
    trained = _blank(pairs_setting(n_inputs, n_pairs, depth, neurons, density=density, room=room), seeds)
    block_of = torch.full((len(trained), neurons), depth // 2)
    return _fill(trained, _members(seeds, neurons, n_inputs, takes), block_of)


def scattered_uand(
    n_inputs: int, n_pairs: int, *, neurons: int, depth: int, room: int | None = None, takes: int = 5,
    density: float = 0.1, seeds: Sequence[int] = range(8),
) -> Trained:  # fmt: skip
    """`single_block_uand` with the same neurons dealt at random to all blocks, neurons / depth to each: the same
    outputs, and every AND in superposition over several layers. InputError unless depth divides neurons."""
    _check_sizes("scattered_uand", neurons=neurons, depth=depth)
    if neurons % depth:
        raise InputError(f"scattered_uand: depth must divide the neurons, got {depth} and {neurons}")
    setting = pairs_setting(n_inputs, n_pairs, depth, neurons // depth, density=density, room=room)
    trained = _blank(setting, seeds)
    block_of = _draw(seeds, neurons, 1, 1)[..., 0].argsort(-1) % depth
    return _fill(trained, _members(seeds, neurons, n_inputs, takes), block_of)


def confined_uand(
    n_inputs: int, n_pairs: int, *, neurons: int, depth: int, room: int | None = None, takes: int = 3,
    density: float = 0.1, seeds: Sequence[int] = range(8),
) -> Trained:  # fmt: skip
    """Each feature in one block: block l does universal AND on its own n_inputs / depth inputs, of which each of its
    neurons takes a random few, and knows no other. The pairs are drawn among those that lie within one block's inputs:
    superposition within each layer, and none across.

    InputError unless depth divides neurons and inputs, and there are n_pairs such pairs.
    """
    _check_sizes("confined_uand", n_inputs=n_inputs, n_pairs=n_pairs, neurons=neurons, depth=depth)
    check_room("confined_uand", f"n_inputs = {n_inputs}", 16 * n_inputs**2)
    if neurons % depth or n_inputs % depth:
        raise InputError(f"confined_uand: depth must divide neurons and inputs, got {depth}, {neurons} and {n_inputs}")
    group = n_inputs // depth
    first, second = torch.triu_indices(n_inputs, n_inputs, 1)
    inside = (first // group == second // group).nonzero()[:, 0]
    if n_pairs > len(inside):
        raise InputError(f"confined_uand: {n_inputs} inputs in {depth} groups have {len(inside)} pairs, not {n_pairs}")
    setting = pairs_setting(n_inputs, n_pairs, depth, neurons // depth, density=density, room=room)
    trained = _blank(setting, seeds)
    chosen = inside[_draw(seeds, len(inside), 1, 2)[..., 0].argsort(-1)[:, :n_pairs]]
    trained.constants.update(first=first[chosen], second=second[chosen])
    block_of = torch.arange(neurons) % depth
    members = torch.zeros(len(trained), neurons, n_inputs, dtype=torch.bool)
    within = _members(seeds, neurons, group, takes)
    members.scatter_(2, (block_of.unsqueeze(1) * group + torch.arange(group)).expand_as(within), within)
    return _fill(trained, members, block_of.expand(len(trained), -1))


def copied_identity(n_inputs: int, *, depth: int, density: float = 0.1, seeds: Sequence[int] = range(8)) -> Trained:
    """Identity, copied through all layers: neuron i of each block is input i, and writes 1 / depth of it to output i.

    Every feature lives in every layer (lifetime exponent 1), and no two layers tell more than one.
    """
    _check_sizes("copied_identity", n_inputs=n_inputs, depth=depth)
    model = Model(SplitStream, shape=Shape(2 * n_inputs, depth, n_inputs), room=n_inputs)
    trained = _blank(Setting(SparseBoolean(n_inputs, density), Identity(), model, steps=1, batch=256), seeds)
    for block in range(depth):
        trained.parameters[f"W_in.{block}"][:, :n_inputs] = torch.eye(n_inputs)
        trained.parameters[f"W_out.{block}"][:, :, n_inputs:] = torch.eye(n_inputs) / depth
    return trained
