"""The fused kernel for residual networks: the general path's curves on the same draws, and autograd's gradients."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from toysup.checks import InputError
from toysup.ensemble import Stack, fused, initial_values, residual, task_constants, train
from toysup.features import OnePerGroup, SparseUniform
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.random import uniforms
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.tasks import AbsoluteValue, Identity, Memory, XPlusRelu


def facts(active, labels, shape, unembedding="coordinates", batch=128, facts=16, blocks="trained"):
    row_norm = math.sqrt(shape.width)
    model = Model(ResidualMLP, shape=shape, unembedding=unembedding, row_norm=row_norm, blocks=blocks)
    return OnePerGroup(facts * active, active), Memory(labels), model, batch


def net(shape, **arguments):
    return Model(ResidualMLP, shape=shape, **arguments)


def untied(**arguments):
    return Model(UntiedAutoencoder, **arguments)


# One kernel serves all of a kind (facts; then target, power, ReLU and magnitude), so few kinds try all else.
FACTS = {
    "one fact": facts(1, 4, Shape(16, 2), batch=512),
    "four facts": facts(4, 4, Shape(32, 2, 37), batch=700, facts=40),
    "deep": facts(1, 4, Shape(16, 8), facts=64),
    "odd sizes": facts(3, 5, Shape(17, 3, 7), batch=77),
    "small": facts(2, 2, Shape(5, 1, 3), batch=1),
    "no block": facts(1, 3, Shape(5, 0), batch=65),
    "many labels": facts(2, 16, Shape(40, 1, 3), batch=300),
    "frozen unembedding": facts(2, 16, Shape(9, 2, 5), "frozen", batch=64),
    "trained unembedding": facts(2, 3, Shape(10, 2, 30), "trained", batch=130),
    "frozen blocks": facts(2, 3, Shape(10, 3, 7), "trained", batch=130, blocks="frozen"),
    "frozen blocks, one number trained": facts(1, 4, Shape(9, 2), blocks="frozen"),
}
SIGNED = SparseUniform(12, 0.2, signed=True)
REGRESSIONS = {
    "autoencoder": (SparseUniform(40, 0.05), Identity(0.9 ** np.arange(40)), untied(width=16, depth=2), 512),
    "autoencoder, one sample": (SparseUniform(7, 0.3), Identity(), untied(width=5, depth=1, hidden=3), 1),
    "tied, frozen": (SparseUniform(50, 0.01, signed=True), XPlusRelu(), net(Shape(20, 3, 17)), 1000),
    "tied, trained": (SIGNED, XPlusRelu(), net(Shape(7, 2, 9), embedding="trained"), 77),
    "frozen blocks, trained ends": (
        SIGNED, XPlusRelu(), net(Shape(7, 2, 9), embedding="trained", unembedding="trained", blocks="frozen"), 77
    ),
    "frozen blocks, tied": (SIGNED, XPlusRelu(), net(Shape(7, 2, 9), embedding="trained", blocks="frozen"), 77),
    "both frozen": (SIGNED, XPlusRelu(), net(Shape(7, 1, 9), unembedding="frozen"), 64),
    "fourth power, ReLU": (
        SIGNED, AbsoluteValue(0.9 ** np.arange(12), 4.0), net(Shape(8, 1, 5), unembedding="trained", relu=True), 200
    ),
}  # fmt: skip
CASES = FACTS | REGRESSIONS


def setting(name, steps=100, **optimizer):
    features, task, model, batch = CASES[name]
    optimizer = {"lr": 3e-3, "weight_decay": 0.01, "schedule": Cosine(), **optimizer}
    return Setting(features, task, model, Adam(**optimizer), steps, batch)


def run(stack, engine="fused", **kwargs):
    return train(stack, device="cpu", engine=engine, compile=False, **kwargs)


def same(one, other):
    return all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters) and torch.equal(
        one.history, other.history
    )


@pytest.mark.parametrize("name", CASES)
def test_the_curves_are_the_general_paths(name):
    stack = Stack.of(setting(name), [3, 8])
    ours, theirs = run(stack, snapshots=[0, 7]), run(stack, "general", snapshots=[0, 7])
    assert (ours.engine, theirs.engine) == ("fused", "general, eager")
    assert torch.allclose(ours.history, theirs.history, rtol=1e-4, atol=0)
    for step in (0, 7):
        for key, value in theirs.snapshots[step].items():
            assert torch.allclose(ours.snapshots[step][key], value, rtol=0, atol=2e-5 if step else 0)
    for key, value in theirs.buffers.items():
        assert torch.equal(ours.buffers[key], value)


@pytest.mark.parametrize("name", ["four facts", "tied, trained"])
def test_whatever_may_differ_by_instance_does(name):
    rng, size = np.random.default_rng(0), 3
    varying = {
        "optimizer.lr": np.geomspace(1e-3, 1e-2, size),
        "optimizer.weight_decay": np.linspace(0.0, 0.5, size),
        "optimizer.beta1": np.linspace(0.0, 0.95, size),
        "optimizer.beta2": np.linspace(0.9, 0.999, size),
        "optimizer.eps": np.geomspace(1e-8, 1e-4, size),
    }
    if name in FACTS:
        varying["features.offered"] = np.array([0.01, 0.3, 1.0])
    else:
        varying["features.density"] = rng.uniform(0.02, 1.0, (size, 12))
        varying["task.importance"] = rng.uniform(0.1, 2.0, (size, 12))
    stack = Stack(setting(name), *rng.integers(0, 2**32, (2, size)), varying)
    assert torch.allclose(run(stack).history, run(stack, "general").history, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "name", ["four facts", "deep", "odd sizes", "no block", "frozen unembedding", "trained unembedding",
             "tied, frozen", "tied, trained", "both frozen", "frozen blocks", "frozen blocks, one number trained",
             "frozen blocks, trained ends", "frozen blocks, tied"]
)  # fmt: skip
def test_gradients_are_autograds_in_float64(name):
    """One step of Adam without memory and with eps = lr = 1e12 subtracts the gradient."""
    whole = setting(name, steps=1, lr=1e12, eps=1e12, beta1=0.0, beta2=0.0, weight_decay=0.0, schedule=lambda *_: 1.0)
    stack = Stack.of(whole, [5])
    parameters, history, *_ = fused.run(stack, fused.plan_of(stack, np.float64), np.array([0, 1]))
    start, buffers = ({k: v[0] for k, v in values.items()} for values in initial_values(stack))
    start = {key: value.double().requires_grad_() for key, value in start.items()}
    constants = {key: value[0] for key, value in task_constants(stack).items()}
    draws = uniforms(5, 0, whole.batch, whole.features.n_uniforms)[0]
    x, target = whole.task.batch(whole.features, constants, draws)
    if x.is_floating_point():
        x, target = x.double(), target.double()
    model = whole.build().double()
    values = {**start, **{key: value.double() for key, value in buffers.items()}}
    loss = whole.task.loss(functional_call(model, values, (x,)), target)
    assert abs(float(history[0, 0]) - loss.item()) < 1e-6 * loss.item()  # history is float32
    for (key, value), gradient in zip(start.items(), torch.autograd.grad(loss, list(start.values())), strict=True):
        found = value.detach() - parameters[key][0]
        assert (found - gradient).abs().max() <= 1e-10 * gradient.abs().max()
        assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("name", ["odd sizes", "autoencoder"])
def test_threads_order_and_company_change_no_bit(name):
    stack = Stack.of(setting(name, steps=20), range(7))
    whole, order = run(stack, threads=1), [4, 0, 6]
    assert same(whole, run(stack, threads=3))
    assert same(whole.take(order), run(stack.take(order)))
    assert same(whole.take([2]), run(stack.take([2])))


@pytest.mark.parametrize("name", ["one fact", "autoencoder"])
def test_an_instance_that_diverges_is_frozen_and_marked(name):
    rates = np.array([3e-3, 1e25, 3e-3])
    stack = Stack(setting(name, steps=40), *np.array([[1, 2, 3]] * 2), {"optimizer.lr": rates})
    ours, theirs = (run(stack, engine, snapshots=[35]) for engine in ("fused", "general"))
    assert ours.diverged_step.tolist() == theirs.diverged_step.tolist()
    assert ours.diverged_step[1] > 0 and ours.diverged_step[0] == ours.diverged_step[2] == -1
    assert torch.equal(ours.history.isnan(), theirs.history.isnan())
    assert torch.equal(ours.snapshots[35]["W_in.0"][1], ours.parameters["W_in.0"][1])
    assert same(ours.take([0, 2]), run(stack.take([0, 2])))


def test_tiles_change_rounding_only(monkeypatch):
    """Batches larger than a tile are cut; here into many tiles, with one of uneven size."""
    stack = Stack.of(setting("four facts", steps=20), [1])
    whole = run(stack)
    monkeypatch.setattr(residual.kernels, "TILE", 192)
    assert torch.allclose(run(stack).history, whole.history, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("one fact", {"model": net(Shape(600, 1), unembedding="frozen")}, "600x1"),
        ("one fact", {"model": net(Shape(8, 1), unembedding="frozen", embedding="trained")}, "keys"),
        ("one fact", {"model": net(Shape(8, 1), unembedding="frozen", relu=True)}, "ReLU"),
        ("tied, frozen", {"model": net(Shape(400, 1, 8))}, "folds"),
        ("tied, frozen", {"model": net(Shape(60, 1, 8), unembedding="coordinates")}, "coordinates"),
        ("tied, frozen", {"model": net(Shape(8, 2), hidden_bias=False)}, "biases"),
        ("tied, frozen", {"model": net(Shape(8, 0))}, "nothing is trained"),
        ("tied, frozen", {"model": net(Shape(8, 2), blocks="frozen")}, "nothing is trained"),
    ],
)
def test_what_does_not_fit_says_why(name, changes, reason):
    stack = Stack.of(dataclasses.replace(setting(name), **changes), [0])
    with pytest.raises(InputError, match=reason):
        run(stack)
