"""Held-out sums by the kernel are those of the general path: the same draws and counts, and the same numbers up to
rounding, of whatever fits; what doesn't goes the general way."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import toysup.measure as m
from toysup.ensemble import Stack, fused, initial_values, one_thread, train
from toysup.ensemble import held_out as ours
from toysup.evidence import BATCH, GROUPS, SEEN
from toysup.features import (
    MAGNITUDES,
    BitGroups,
    Correlated,
    Magnitude,
    PowerLaw,
    SparseBoolean,
    SparseNormal,
    SparseUniform,
)
from toysup.identity import identity
from toysup.kernels import held_out as kernels
from toysup.measure.held_out import _evaluated, held_out, samples_wanted
from toysup.models import MLP, TiedAutoencoder, UntiedAutoencoder
from toysup.results import key_of
from toysup.setting import Adam, Model, Setting
from toysup.tasks import AbsoluteValue, Identity, SumOfSquares, XPlusRelu

N = 6
TIED = Model(TiedAutoencoder, width=2)
MODELS = [
    TIED,
    Model(TiedAutoencoder, width=1, relu=False),
    Model(TiedAutoencoder, width=9, hidden_relu=True),
    Model(MLP, width=5),
    Model(MLP, width=4, relu=False, hidden_bias=False),
    Model(UntiedAutoencoder, width=3),
]


def networks(features, task=None, model=TIED, count=3, varying=(), spread=0.3, **options):
    """Networks with parameters drawn at random, biases too, as training would leave them."""
    setting = Setting(features, task or Identity(), model, **{"steps": 10, "batch": 8, **options})
    stack = Stack(setting, np.arange(count), np.arange(count), dict(varying))
    rng = np.random.default_rng(0)
    start, buffers = initial_values(stack)
    parameters = {k: v + spread * torch.as_tensor(rng.normal(size=v.shape), dtype=v.dtype) for k, v in start.items()}
    never = torch.full((count,), -1)
    return ours.Trained(stack, parameters, buffers, {}, torch.zeros(count, 1), never, {}, "general")


def general(trained):
    baseline = trained.per_instance(lambda setting, constants: setting.task.baseline(setting.features, constants))
    with torch.no_grad(), one_thread():
        return _evaluated(trained, samples_wanted(trained), baseline)


def agree(trained):
    """float32 rounding of single errors, far below it in their means."""
    assert ours.unfit(trained) is None
    found, expected = held_out(trained), general(trained)
    for name in ("errors", "loss"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape and a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-12, equal_nan=True), name
    for name in ("baseline", "samples", "evidence", "shown", "known"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype and torch.equal(a, b), name
    assert found.hits is None and expected.hits is None
    return found


FEATURES = {
    "uniform": SparseUniform(N, 0.2),
    "signed": SparseUniform(N, 0.7, signed=True),
    "boolean": SparseBoolean(N, 0.4),
    "sign": SparseBoolean(N, 0.8, signed=True),
    "together": Correlated(N, group_size=3, density=0.3, signed=True),
    "in turn": Correlated(N, group_size=3, density=0.33, anti=True),
    "bits": BitGroups(N, group_size=2, density=0.6),
    "power law": PowerLaw(N, exponent=1.5, density=0.1, signed=True),
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("task", [Identity(), AbsoluteValue(exponent=4.0), XPlusRelu()], ids=lambda t: type(t).__name__)
def test_all_distributions_and_targets(name, task):
    agree(networks(FEATURES[name], task, MODELS[len(name) % len(MODELS)], count=2))


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("exponent", [2.0, 4.0])
def test_all_networks_and_powers(model, exponent):
    importance = 0.9 ** np.arange(N)
    agree(networks(SparseUniform(N, 0.3, signed=True), AbsoluteValue(importance, exponent), model))


@pytest.mark.parametrize("density", [0.001, 0.0097, 0.1, 0.4999, 0.5, 0.5001, 0.9, 1.0])
@pytest.mark.parametrize("kind", [SparseUniform, SparseBoolean])
@pytest.mark.parametrize("signed", [False, True])
def test_all_densities(kind, density, signed):
    """Where half of the samples are active the median is 0 or not by luck."""
    trained = networks(kind(2, density, signed=signed), XPlusRelu(), Model(UntiedAutoencoder, width=1), count=2)
    agree(trained)


def test_settings_that_differ_by_instance():
    rng = np.random.default_rng(0)
    varying = {
        "features.density": np.geomspace(0.001, 1, 5),
        "task.importance": rng.uniform(0, 2, size=(5, N)),
        "task.exponent": np.full(5, 4.0),
    }
    agree(networks(SparseUniform(N, 0.1), Identity(), TIED, 5, varying, steps=3000, batch=256))  # more samples for some
    per_feature = {"features.density": rng.uniform(0.002, 1, size=(5, N))}
    agree(networks(SparseUniform(N, np.full(N, 0.1), signed=True), XPlusRelu(), MODELS[3], 5, per_feature))


def test_batches_in_several_tiles():
    sizes = (90, 60)
    assert kernels.tile_of(*sizes, BATCH) < BATCH == kernels.tile_of(2, 1, BATCH)
    agree(networks(SparseUniform(90, 0.05), AbsoluteValue(), Model(MLP, width=60), count=1, spread=0.1))
    agree(networks(BitGroups(90, group_size=5, density=0.2), Identity(), Model(MLP, width=61), count=1, spread=0.1))


def test_company_changes_no_bit():
    """Each counts until it has seen enough itself, on either path."""
    density = np.array([0.5, 0.001, 0.02, 0.3] * 20)  # more than are handed over at once
    trained = networks(SparseUniform(3, 0.1), varying={"features.density": density}, count=80)
    for way in (held_out, general):
        some = trained if way is held_out else trained.take(range(6))
        together = way(some)
        for index in (0, 1, 2, 5):
            alone = way(trained.take([index]))
            for name in ("errors", "loss"):
                a, b = getattr(together, name)[:, index], getattr(alone, name)[:, 0]
                # torch's own products may add in another order where there are more of them
                assert torch.equal(a, b) if way is held_out else torch.allclose(a, b, rtol=1e-6)
            for name in ("evidence", "shown", "known", "samples"):
                assert torch.equal(getattr(together, name)[index], getattr(alone, name)[0])
        assert together.evidence[0].max() < BATCH and together.evidence[1].max() >= SEEN


def test_sums_do_not_depend_on_what_lies_in_memory():
    trained = networks(SparseUniform(N, 0.3), count=2)
    first = held_out(trained)
    held_out(networks(SparseUniform(N, 1.0, signed=True), XPlusRelu(), MODELS[3]))
    again = held_out(replace(trained, kept={}))
    assert torch.equal(first.errors, again.errors) and torch.equal(first.evidence, again.evidence)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12])
@pytest.mark.parametrize("model", [TIED, MODELS[3]], ids=str)
def test_networks_that_diverged(value, model):
    trained = networks(SparseUniform(N, 0.3), model=model)
    parameters = {name: tensor.clone() for name, tensor in trained.parameters.items()}
    name = next(iter(parameters))
    parameters[name][0, 0] = value  # of a feature, whichever way round
    found = agree(replace(trained, parameters=parameters))
    assert found.errors[:, 1:].isfinite().all() and not (found.loss[:, 0] < 1e6).any()
    fine = networks(SparseUniform(N, 0.3), model=model)
    assert torch.equal(held_out(fine).errors[:, 1:], found.errors[:, 1:])


class Slow(Adam):
    """Another optimizer, for all a kernel knows."""


def test_training_is_no_part_of_it():
    """Networks that no kernel can train are measured by one, and snapshots too."""
    trained = networks(SparseUniform(N, 0.3), optimizer=Slow())
    assert "optimizer" in fused.unfit(trained.stack)
    agree(trained)
    setting = Setting(SparseUniform(N, 0.2), Identity(), TIED, steps=20, batch=16)
    after = train(Stack.of(setting, [0, 1]), snapshots=[0], threads=1)
    for one in (after, after.at(0), after.take([1])):
        agree(one)


def test_means_are_those_of_the_groups():
    """An oracle that shares nothing but the draws: numpy in float64."""
    trained = networks(SparseUniform(N, 0.3), count=1)
    found, (W, b) = held_out(trained), (trained.parameters[k][0].double().numpy() for k in ("W", "b"))
    x = torch.stack([trained.batch(k, BATCH)[0][0] for k in range(int(found.samples[0]) // BATCH)]).double().numpy()
    errors = (np.maximum(x @ W @ W.T + b, 0) - x) ** 2
    groups = errors.reshape(-1, GROUPS, BATCH, N).mean((0, 2))
    assert np.allclose(found.errors[:, 0], groups, rtol=1e-5)
    assert np.allclose(found.loss[:, 0], groups.sum(-1), rtol=1e-5)


# ----------------------------------------------------------------------------------------- what goes the general way


@dataclass(frozen=True)
class Halved(Identity):
    """A user's own errors."""

    def errors(self, output, target):
        return super().errors(output, target) / 2


CUBED = Magnitude(lambda v: v**3, 1 / 4, 1 / 7, 1 / 4, 1 / 7, 1 / 13)


@dataclass(frozen=True)
class Cubed(SparseUniform):
    """A user's own magnitude."""

    given_active = property(lambda self: CUBED)


class Doubled(TiedAutoencoder):
    def forward(self, x, record=False):
        return 2 * super().forward(x)


OTHERS = {
    "errors": (SparseUniform(N, 0.3), Halved(), TIED),
    "magnitude": (Cubed(N, 0.3), Identity(), TIED),
    "power": (SparseUniform(N, 0.3), Identity(exponent=3.0), TIED),
    "normal": (SparseNormal(N, 0.3), Identity(), TIED),
    "task": (SparseUniform(N, 0.3, signed=True), SumOfSquares(), Model(MLP, width=2)),
    "model": (SparseUniform(N, 0.3), Identity(), Model(Doubled, width=2)),
    "depth": (SparseUniform(N, 0.3), Identity(), Model(MLP, width=4, depth=2)),
}


def refuse(*_):
    raise AssertionError("the kernel was called")


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_kernel_knows_goes_the_general_way(name, monkeypatch):
    trained = networks(*OTHERS[name])
    assert ours.unfit(trained) is not None
    monkeypatch.setattr(ours, "sums", refuse)
    found, expected = held_out(trained), general(trained)
    assert torch.equal(found.errors, expected.errors) and torch.equal(found.evidence, expected.evidence)


def test_what_was_changed_since_goes_the_general_way(monkeypatch):
    trained = networks(SparseUniform(N, 0.3))
    assert ours.unfit(trained) is None
    double = {name: value.double() for name, value in trained.parameters.items()}
    assert "float32" in ours.unfit(replace(trained, parameters=double))
    assert "parameters" in ours.unfit(replace(trained, parameters={"W": trained.parameters["W"]}))
    assert "shape" in ours.unfit(replace(trained, parameters={**trained.parameters, "b": torch.zeros(3, 1)}))
    for kind, name, value in (
        (Identity, "errors", lambda self, output, target: output),
        (Identity, "hits", lambda self, output, target: output > 0),
        (AbsoluteValue, "evidence", lambda self, x, target: x),
        (TiedAutoencoder, "forward", lambda self, x, record=False: x),
        (nn.Module, "__call__", lambda self, x: x),
        (ours.Trained, "forward", lambda self, x, record=False: x),
        (ours.Trained, "batch", lambda self, *_: None),
    ):
        task = AbsoluteValue() if kind is AbsoluteValue else Identity()
        trained = networks(SparseUniform(N, 0.3), task)
        assert ours.unfit(trained) is None
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, value, raising=False)
            assert ours.unfit(trained) is not None, (kind, name)
    with monkeypatch.context() as patch:
        patch.setitem(MAGNITUDES, "uniform", (CUBED, CUBED))
        assert "magnitude" in ours.unfit(networks(SparseUniform(N, 0.3)))


def test_measures_are_told_by_what_the_kernel_does(monkeypatch):
    before = key_of(m.held_out_loss)
    assert before == key_of(m.held_out_loss)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "total", kernels.largest)
        assert key_of(m.held_out_loss) != before
    assert key_of(m.held_out_loss) == before and identity(kernels.kernel) == identity(kernels.kernel)
