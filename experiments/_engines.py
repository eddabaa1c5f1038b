"""What benchmark_engines.py times. An engine trains one workload for as many steps as it is asked, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import oracles
import torch
from torch import Tensor, nn

from toysup.ensemble import Stack, initial_values, step, train
from toysup.features import SparseUniform
from toysup.jit import njit
from toysup.models import MLP, ResidualMLP, SquaredProjection, TiedAutoencoder
from toysup.models.base import Initial, normal, zeros
from toysup.random import uniforms
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.tasks import Identity, SumOfSquares, XPlusRelu

LR, DECAY = 1e-3, 0.01


@dataclass(frozen=True)
class Tied:
    """Tied ReLU autoencoders of n features and width m."""

    n: int
    m: int
    instances: int
    density: float = 0.1
    batch: int = 1024

    def stack(self, steps: int) -> Stack:
        model = Model(TiedAutoencoder, width=self.m)
        return _stack(self, SparseUniform(self.n, self.density), Identity(), model, steps)

    def start(self) -> tuple[Tensor, Tensor]:
        values, _ = initial_values(self.stack(1))
        return values["W"], values["b"]

    def loop(self, steps: int, **given: object) -> tuple[Tensor, Tensor, Tensor]:
        """(W, b, losses) by the oracle."""
        return oracles.einsum_loop(self.instances, self.n, self.m, self.batch, steps, self.density, **given)

    @property
    def loop_bytes(self) -> int:
        """What the loop keeps alive: eight tensors of the batch's size."""
        return 8 * 4 * self.instances * self.batch * self.n

    def seconds_at_least(self, flops: float, draws: float) -> float:
        """One instance-step at the limit: five products of 2 B n m, two forward and three back; one draw an entry."""
        return self.batch * self.n * (10 * self.m / flops + 1 / draws)

    def __str__(self) -> str:
        return f"n={self.n}, m={self.m}, I={self.instances:,}" + f", B={self.batch}" * (self.batch != 1024)


class GeluAutoencoder(nn.Module):
    """A model of a user's own, which no kernel knows: GELU(W W^T x + b)."""

    def __init__(self, n_in: int, n_out: int, *, width: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.empty(n_in, width)), nn.Parameter(torch.zeros(n_out))

    def initial(self) -> Initial:
        return {"W": normal((2 / sum(self.W.shape)) ** 0.5), "b": zeros}

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x @ self.W @ self.W.T + self.b)


OWN = {  # model, whether features have both signs, what it is to give, the same by hand with an instance axis
    "gelu": (partial(Model, GeluAutoencoder), False, Identity(), oracles.gelu_autoencoder, lambda x: x),
    "two layers": (partial(Model, MLP, depth=2), False, Identity(), oracles.two_layers, lambda x: x),
    "squares": (partial(Model, SquaredProjection), True, SumOfSquares(), oracles.squares,
                lambda x: x.square().sum(-1, keepdim=True)),
}  # fmt: skip


@dataclass(frozen=True)
class Own(Tied):
    """Models that no kernel knows, of the sizes of autoencoders."""

    model: str = "gelu"

    def stack(self, steps: int) -> Stack:
        build, signed, task, *_ = OWN[self.model]
        return _stack(self, SparseUniform(self.n, self.density, signed=signed), task, build(width=self.m), steps)

    def start(self) -> tuple[Tensor, ...]:
        values, _ = initial_values(self.stack(1))
        return tuple(values.values())

    def loop(self, steps: int, *, start: tuple[Tensor, ...], **given: object) -> tuple[list[Tensor], Tensor]:
        _, signed, _, forward, wanted = OWN[self.model]
        shape = (self.instances, self.batch, self.n)
        scale = (3 / self.density) ** 0.5 if signed else 1.0  # `SumOfSquares` has features of unit second moment
        return oracles.own_loop(forward, wanted, start, shape, steps, self.density, signed, scale, **given)

    def __str__(self) -> str:
        return f"{self.model}, {super().__str__()}"


@dataclass(frozen=True)
class Residual:
    """Residual MLPs with 50 neurons in all that learn x + relu(x) of 100 features through a frozen embedding."""

    width: int
    blocks: int
    instances: int
    density: float = 0.01
    batch: int = 1024
    n: int = 100

    @property
    def shape(self) -> Shape:
        return Shape(self.width, self.blocks, 50 // self.blocks)

    def stack(self, steps: int) -> Stack:
        model = Model(ResidualMLP, shape=self.shape, embedding="frozen", unembedding="tied")
        return _stack(self, SparseUniform(self.n, self.density, signed=True), XPlusRelu(), model, steps)

    def start(self) -> tuple:
        values, buffers = initial_values(self.stack(1))
        parts = ([values[f"{name}.{i}"] for i in range(self.blocks)] for name in ("W_in", "b_in", "W_out"))
        return buffers["W_E"], *parts

    def loop(self, steps: int, **given: object) -> tuple[list[list[Tensor]], Tensor]:
        """(parameters, losses) by the oracle."""
        shape = (self.width, self.blocks, self.shape.hidden)
        return oracles.residual_loop(self.instances, self.n, shape, self.batch, steps, self.density, **given)

    def __str__(self) -> str:
        return f"residual, d={self.width}, L={self.blocks}, I={self.instances}"


def _stack(work: Tied | Residual, features: object, task: object, model: Model, steps: int) -> Stack:
    return Stack.of(Setting(features, task, model, Adam(LR, DECAY), steps, work.batch), range(work.instances))


# ----------------------------------------------------------------------------------------------------------- engines


def loop(work: Tied | Residual, asked: Iterable[int]) -> tuple:
    start = work.start()
    for steps in asked:
        trained = work.loop(steps, start=start, lr=LR, weight_decay=DECAY)
    return tuple(trained[:2])


def ours(
    work: Tied | Residual, asked: Iterable[int], *, engine: str, compile: bool = True, threads: int = 1
) -> list[Tensor]:
    with mock.patch.object(step, "TRACED", 0):  # as in trainings of usual length, also where few steps are timed
        for steps in asked:
            trained = train(work.stack(steps), device="cpu", engine=engine, compile=compile, threads=threads)
    return [trained.parameters[name] for name in ("W", "b") if name in trained.parameters]


def occhio(work: Tied, asked: Iterable[int], *, shared: bool, compile: bool) -> tuple[Tensor, Tensor]:
    """ModelGrid.fit. `shared` is its cache of samples: instances of equal density all see one batch, drawn once.

    Its progress bar is the only place from which one fit can be asked for more and more steps; so none pays for a
    compilation or for stacking the models but the first.
    """
    from occhio import ModelGrid, ToyModel, model_grid
    from occhio.autoencoder import TiedLinearRelu
    from occhio.distributions import SparseUniform as Sparse

    def create(params: dict) -> ToyModel:
        generator = torch.Generator().manual_seed(0 if shared else int(params["instance"]))
        return ToyModel(Sparse(work.n, work.density, generator=generator), TiedLinearRelu(work.n, work.m))

    grid = ModelGrid(create, [model_grid.Axis("instance", range(work.instances))], cache_samples=shared)
    for model, W, b in zip(grid.models, *work.start(), strict=True):
        model.ae.load_state_dict({"W": W.T, "b": b})
    model_grid.tqdm = lambda _: (None for steps in asked for _ in range(steps))
    grid.fit(1, work.batch, LR, DECAY, compile=compile)
    values = [model.ae.state_dict() for model in grid.models]
    return torch.stack([one["W"].T for one in values]), torch.stack([one["b"] for one in values])


def tms_kit(work: Tied, asked: Iterable[int]) -> tuple[Tensor, Tensor]:
    """optimize. It knows no weight decay (the cost of an update is the same) and averages the loss over features."""
    from tms_kit.data import IIDFeatureGenerator
    from tms_kit.loss import ImportanceWeightedLoss
    from tms_kit.model import Model as Toy
    from tms_kit.optimize import optimize
    from tms_kit.utils.device import set_device

    set_device("cpu")
    probability = torch.full((work.instances, work.n), work.density)
    model = Toy(work.n, work.instances, work.m)
    W, b = work.start()
    model.load_state_dict({"W": W.mT, "b_final": b})
    loss = ImportanceWeightedLoss(work.n, torch.ones(work.instances, work.n))
    data = IIDFeatureGenerator(work.n, work.instances, probability)
    for steps in asked:
        bundle = SimpleNamespace(model=model, data_gen=data, loss_calc=loss)
        optimize(bundle, disable_tqdm=True, batch_size=work.batch, steps=steps, lr=LR)
    return model.W.mT.detach(), model.b_final.detach()


# -------------------------------------------------------------------------------------- what a core and a draw can do

ROUNDS, LANES, CHAIN = 1000, 1024, 8  # a chain in registers hides loads and stores; the core overlaps chains if short
DRAWS = ROUNDS * LANES
SIZES = {"flops": 2 * CHAIN * DRAWS, "xoshiro": CHAIN * DRAWS, "own_draws": DRAWS, "torch_rand": DRAWS}  # of one step


@njit(fastmath={"contract"})
def _multiply_add(values, rounds):
    factor, term = np.float32(0.999), np.float32(1e-3)
    for _ in range(rounds):
        for lane in range(values.size):
            x = values[lane]
            for _ in range(CHAIN):
                x = x * factor + term
            values[lane] = x


@njit(fastmath=True)
def _xoshiro(rounds):
    """Sums of sparse uniforms from xoshiro128+ (Blackman and Vigna 2021), one generator a lane."""
    state, sums = np.empty((4, LANES), np.uint32), np.zeros(LANES, np.float32)
    for word in range(4):
        for lane in range(LANES):
            state[word, lane] = np.uint32(lane * 2654435761 + 40503 * word + 1)
    s0, s1, s2, s3 = state
    threshold, scale, zero = np.uint32(429496729), np.float32(2.0**-24), np.float32(0)
    for _ in range(rounds):
        for lane in range(LANES):
            a, b, c, d, total = s0[lane], s1[lane], s2[lane], s3[lane], sums[lane]
            for _ in range(CHAIN):  # numba widens words to 64 bits wherever it is not told otherwise
                word, shifted = np.uint32(a + d), np.uint32(b << np.uint32(9))
                c, d = np.uint32(c ^ a), np.uint32(d ^ b)
                b, a = np.uint32(b ^ c), np.uint32(a ^ d)
                c = np.uint32(c ^ shifted)
                d = np.uint32(np.uint32(d << np.uint32(11)) | np.uint32(d >> np.uint32(21)))
                x = np.float32(np.int32(word >> np.uint32(8))) * scale if word <= threshold else zero
                total = np.float32(total + x)
            s0[lane], s1[lane], s2[lane], s3[lane], sums[lane] = a, b, c, d, total
    return sums.sum()


def flops(_: None, asked: Iterable[int]) -> None:
    values = np.ones(LANES, np.float32)
    for steps in asked:
        _multiply_add(values, steps * ROUNDS)


def xoshiro(_: None, asked: Iterable[int]) -> None:
    for steps in asked:
        _xoshiro(steps * ROUNDS)


def own_draws(_: None, asked: Iterable[int]) -> None:
    seed, out = np.arange(1), torch.empty(1, LANES, 20)
    for steps in asked:
        for at in range(steps * ROUNDS // 20):
            uniforms(seed, at, LANES, 20, out=out)


def torch_rand(_: None, asked: Iterable[int]) -> None:
    out = torch.empty(LANES, 20)
    for steps in asked:
        for _ in range(steps * ROUNDS // 20):
            torch.rand(LANES, 20, out=out)


# ------------------------------------------------------------------------------------------------------------ by name

OCCHIO = {"occhio": (False, False), "occhio_shared": (True, False), "occhio_shared_compiled": (True, True)}
ENGINES: dict[str, Callable] = {
    "loop": loop,
    **{name: partial(ours, engine=name) for name in ("fused", "general", "auto")},
    "eager": partial(ours, engine="general", compile=False),
    "fused_twice": partial(ours, engine="fused", threads=2),
    **{name: partial(occhio, shared=shared, compile=compile) for name, (shared, compile) in OCCHIO.items()},
    **{f.__name__: f for f in (tms_kit, flops, xoshiro, own_draws, torch_rand)},
}
