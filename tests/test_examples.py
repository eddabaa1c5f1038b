"""Finite training sets: the same batches over and over on every path, unseen data fresh; and measures of both."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from toysup.checks import InputError
from toysup.ensemble import Stack, fused, initial_values, train
from toysup.features import SparseUniform, UnitLength
from toysup.geometry import dimensionality, irregularity, typical_dimensionality
from toysup.measure import held_out_loss, seen_loss, unseen_loss
from toysup.measure.examples import hidden_vectors
from toysup.models import MLP, TiedAutoencoder, UntiedAutoencoder
from toysup.random import Stream, uniforms
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity

TIED = Model(TiedAutoencoder, width=2)
OTHERS = {  # one of each fused family that knows nothing of unit length
    "few": (SparseUniform(5, 0.3), TIED),
    "hidden": (SparseUniform(9, 0.2), Model(MLP, width=6)),
    "blocks": (SparseUniform(12, 0.2), Model(UntiedAutoencoder, width=5, depth=1)),
}
UNIT = {  # one kernel serves a width, weighted or not
    "full batch": (UnitLength(50, 0.1), Identity(), 2, 21, 21),
    "mini-batches": (UnitLength(50, 0.1), Identity(), 2, 70, 210),
    "endless": (UnitLength(61, 0.05), Identity(), 2, 100, None),
    "always active": (UnitLength(18, 1.0), Identity(), 2, 16, 16),
    "empty samples": (UnitLength(40, 0.01), Identity(), 2, 130, 390),
    "weighted": (UnitLength(33, 0.1), Identity(2.0 ** -(np.arange(33) % 4)), 3, 64, 128),
}


def setting(features, model=TIED, batch=8, examples=None, task=None, steps=60, **optimizer):
    optimizer = {"lr": 3e-3, "weight_decay": 0.01, "schedule": Cosine(), **optimizer}
    return Setting(features, task or Identity(), model, Adam(**optimizer), steps, batch, examples=examples)


def unit(name, **options):
    features, task, width, batch, examples = UNIT[name]
    return setting(features, Model(TiedAutoencoder, width=width), batch, examples, task, **options)


def run(stack, engine="fused", **options):
    return train(stack, device="cpu", engine=engine, compile=False, **options)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("examples", [8, 24])
def test_the_fused_path_sees_the_general_paths_examples(name, examples):
    stack = Stack.of(setting(*OTHERS[name], examples=examples), [3, 8])
    ours, theirs = run(stack), run(stack, "general")
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-4, atol=1e-7)
    endless = run(Stack.of(setting(*OTHERS[name]), [3, 8]))
    first = examples // 8  # steps of the first pass are those of endless data
    assert torch.equal(ours.history[:, :first], endless.history[:, :first])
    assert not torch.equal(ours.history[:, first], endless.history[:, first])


@pytest.mark.parametrize("engine", ["fused", "general"])
@pytest.mark.parametrize("name", ["few", "unit"])
def test_a_network_that_stands_still_loses_the_same_again_and_again(name, engine):
    features = OTHERS[name][0] if name == "few" else UnitLength(50, 0.1)
    still = setting(features, examples=24, steps=50, lr=1e-30, weight_decay=0.0)
    history = run(Stack.of(still, [5]), engine).history[0]
    assert torch.equal(history[:-3], history[3:]) and len(history[:3].unique()) == 3
    other = run(Stack.of(dataclasses.replace(still, examples=None), [5]), engine).history[0]
    assert len(other.unique()) == 50


def test_examples_are_the_first_draws_and_nested():
    few, many = (setting(SparseUniform(5, 0.3), examples=T) for T in (24, 80))
    assert [few.draw_of(step) for step in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert (few.cycle, many.cycle, setting(SparseUniform(5, 0.3)).cycle) == (3, 10, None)
    assert [many.draw_of(step) for step in range(3)] == [0, 1, 2]


def test_a_training_set_is_part_of_what_identifies_a_sweep(tmp_path):
    axes = {("examples", "batch"): {8: (8, 8), 16: (16, 8), math.inf: (None, 8)}, "seed": [0, 1]}
    answer = sweep(Grid(setting(SparseUniform(5, 0.3)), axes), [unseen_loss], results=tmp_path, progress=False)
    assert answer.table["examples"].tolist() == [8, 8, 16, 16, math.inf, math.inf]
    assert answer.table["unseen_loss"].nunique() == 6
    other = {("examples", "batch"): {8: (8, 8), 16: (24, 8), math.inf: (None, 8)}, "seed": [0, 1]}
    assert sweep(Grid(setting(SparseUniform(5, 0.3)), other), [unseen_loss], results=tmp_path).path != answer.path


@pytest.mark.parametrize("examples, message", [
    (12, "examples must be a multiple of batch=8, got 12"),
    (4, "examples must be a multiple of batch=8, got 4"),
    (0, "examples must be a whole number >= 1, got 0"),
    (8.0, "examples must be a whole number >= 1, got 8.0"),
])  # fmt: skip
def test_bad_training_sets_are_refused(examples, message):
    with pytest.raises(InputError, match=message):
        setting(SparseUniform(5, 0.3), examples=examples)


# -------------------------------------------------------------------------------------------------------- unit length


@pytest.mark.parametrize("name", UNIT)
def test_the_listed_kernel_gives_the_general_paths_curves(name):
    stack = Stack.of(unit(name), [3, 8])
    ours, theirs = run(stack, snapshots=[0, 7]), run(stack, "general", snapshots=[0, 7])
    assert (ours.engine, theirs.engine) == ("fused", "general, eager")
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-4, atol=0)
    for step in (0, 7):
        for key, value in theirs.snapshots[step].items():
            torch.testing.assert_close(ours.snapshots[step][key], value, rtol=0, atol=2e-5 if step else 0)


@pytest.mark.parametrize("name", ["mini-batches", "weighted"])
def test_gradients_are_autograds_in_float64(name):
    """One step of Adam without memory and with eps = lr = 1e12 subtracts the gradient."""
    whole = unit(name, steps=1, lr=1e12, eps=1e12, beta1=0.0, beta2=0.0, weight_decay=0.0, schedule=lambda *_: 1.0)
    stack = Stack.of(whole, [5])
    parameters, *_ = fused.run(stack, fused.plan_of(stack, np.float64), np.array([0, 1]))
    start = {key: value[0].double().requires_grad_() for key, value in initial_values(stack)[0].items()}
    s = SparseUniform(whole.features.n_features, whole.features.density).transform(
        uniforms(5, 0, whole.batch, whole.features.n_features)[0]
    )
    x = torch.nn.functional.normalize(s.double(), dim=1)
    loss = whole.task.loss(functional_call(whole.build().double(), start, (x,)), x)
    for (key, value), gradient in zip(start.items(), torch.autograd.grad(loss, list(start.values())), strict=True):
        found = value.detach() - parameters[key][0]
        assert (found - gradient).abs().max() <= 1e-9 * gradient.abs().max()
        assert gradient.abs().max() > 1e-6


def test_biases_that_are_on_for_every_sample_count_the_padding_out():
    """Padding to whole registers has h = 0, where a positive bias answers; a step that only moves biases tells."""
    one = setting(UnitLength(40, 0.1), batch=3, examples=3, steps=30, lr=0.1)
    ours, theirs = (run(Stack.of(one, [1]), engine) for engine in ("fused", "general"))
    assert bool((theirs.parameters["b"] > 0).any())
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-3, atol=1e-6)


def test_lists_grow_where_a_batch_has_more_entries_than_expected():
    """Room is for the mean and a tenth more; of 3 x 40 entries at p = 0.1, 40% of seeds have more than that."""
    stack = Stack.of(setting(UnitLength(400, 0.002), batch=500, examples=2000, steps=4), range(3))
    torch.testing.assert_close(run(stack).history, run(stack, "general").history, rtol=1e-4, atol=0)


def test_company_threads_and_order_change_no_bit():
    stack, order = Stack.of(unit("mini-batches"), range(5)), [3, 0]
    whole = run(stack, threads=1)
    for other, expected in ((run(stack, threads=3), whole), (run(stack.take(order)), whole.take(order))):
        assert torch.equal(other.history, expected.history)
        assert all(torch.equal(other.parameters[name], value) for name, value in expected.parameters.items())


def test_an_instance_that_diverges_is_frozen_and_marked():
    rates = {"optimizer.lr": np.array([3e-3, 1e25, 3e-3])}
    stack = Stack(unit("full batch"), *np.array([[1, 2, 3]] * 2), rates)
    ours, theirs = run(stack, snapshots=[35]), run(stack, "general", snapshots=[35])
    assert ours.diverged_step.tolist() == theirs.diverged_step.tolist() and ours.diverged_step[1] > 0
    assert torch.equal(ours.history.isnan(), theirs.history.isnan())
    assert torch.equal(ours.snapshots[35]["W"][1], ours.parameters["W"][1])


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"model": Model(TiedAutoencoder, width=9)}, "wider than 8"),
        ({"model": Model(TiedAutoencoder, width=2, relu=False)}, "the model is .*relu=False"),
        ({"task": Identity(exponent=4.0)}, "the exponent is not 2 for all"),
    ],
)
def test_what_does_not_fit_is_trained_by_the_general_path(changed, reason):
    stack = Stack.of(dataclasses.replace(unit("full batch", steps=2), **changed), [0])
    with pytest.raises(InputError, match=reason):
        run(stack)
    assert run(stack, "auto").engine == "general, eager"


# ----------------------------------------------------------------------------------------------------------- measures


def test_seen_and_unseen_loss_part_where_examples_are_few():
    stack = Stack.of(setting(UnitLength(60, 0.1), batch=3, examples=3, steps=5000, lr=3e-2), [0, 1])
    trained = run(stack)
    x, target = trained.batch(0, 3, Stream.TRAIN)
    expected = (trained.forward(x) - target).square().sum(-1).mean(-1)
    torch.testing.assert_close(seen_loss(trained), expected)
    assert bool((seen_loss(trained) < 0.05).all())  # an entry may die at the start
    value, error = unseen_loss(trained)
    full, spread = held_out_loss(trained)
    assert bool((value > 0.9).all()) and bool((error > 0).all())
    assert bool(((value - full).abs() < 5 * (error**2 + spread**2).sqrt()).all())


@pytest.mark.parametrize("features", [UnitLength(40, 0.1), SparseUniform(40, 0.1)])
def test_losses_are_those_of_the_draws(features):
    """On both ways to them: the listed kernel's, and dense samples for whatever that does not fit."""
    trained = run(Stack.of(setting(features, batch=100, examples=300), [4, 9]))
    for stream, sizes, found in ((Stream.TRAIN, [100] * 3, seen_loss), (Stream.HELD_OUT, [512] * 64, unseen_loss)):
        value = found(trained)
        batches = [trained.batch(number, size, stream) for number, size in enumerate(sizes)]
        losses = torch.stack([(trained.forward(x) - y).square().sum(-1).mean(-1) for x, y in batches])
        torch.testing.assert_close(value if stream == Stream.TRAIN else value.value, losses.mean(0), rtol=1e-5, atol=0)
        if stream == Stream.HELD_OUT:
            torch.testing.assert_close(value.error, losses.std(0) / 8, rtol=1e-3, atol=0)


def test_hidden_vectors_are_those_of_the_training_set():
    trained = run(Stack.of(setting(SparseUniform(5, 0.3), examples=24), [0, 1]))
    x = torch.cat([trained.batch(k, 8, Stream.TRAIN)[0] for k in range(3)], 1)
    torch.testing.assert_close(hidden_vectors(trained), x @ trained.parameters["W"])
    endless = run(Stack.of(setting(SparseUniform(5, 0.3)), [0]))
    assert hidden_vectors(endless).shape == (1, 2048, 2)
    large = run(Stack.of(setting(SparseUniform(5, 0.3), batch=3000, examples=3000, steps=2), [0]))
    first = large.batch(0, 3000, Stream.TRAIN)[0][:, :2048]
    torch.testing.assert_close(hidden_vectors(large), first @ large.parameters["W"])


def corners(k, turn=0.3, length=1.0):
    angles = turn + 2 * np.pi * np.arange(k) / k
    return length * np.column_stack([np.cos(angles), np.sin(angles)])


@pytest.mark.parametrize("k", [3, 4, 5, 8])
def test_a_polygon_among_short_vectors_has_two_dimensions_over_its_corners(k):
    rng = np.random.default_rng(0)
    V = torch.tensor(np.concatenate([corners(k, length=3.0), 1e-4 * rng.normal(size=(500, 2))]))
    assert typical_dimensionality(V).item() == pytest.approx(2 / k, rel=1e-4)
    assert dimensionality(V).sum().item() == pytest.approx(2, rel=1e-3)  # so the plain mean is 2 / 505 for any k
    assert typical_dimensionality(torch.stack([V, 7 * V])).tolist() == pytest.approx([2 / k] * 2, rel=1e-4)
    assert irregularity(V) == (k, pytest.approx(0, abs=1e-9))


def test_gaussian_vectors_have_four_over_their_number():
    """|V|^2 is exponential in a plane, with mean 2 and mean square 8: width sum |V|^4 / (sum |V|^2)^2 = 4 / number."""
    V = torch.from_numpy(np.random.default_rng(0).normal(size=(20_000, 2)))
    assert typical_dimensionality(V).item() * len(V) == pytest.approx(4, rel=0.05)
    assert typical_dimensionality(torch.zeros(4, 2)).item() == 0


def test_irregular_polygons():
    moved = corners(5)
    moved[0] = corners(5, turn=0.3 + 0.1 * 2 * np.pi / 5)[0]
    assert irregularity(moved) == (5, pytest.approx(0.1, rel=1e-6))
    assert irregularity([[1, 0], [0.3, 0.1]]) == (1, np.inf)
    assert irregularity([[1, 0], [-2, 0]])[0] == 1  # half the longest is not longer than half
    assert irregularity([[1, 0], [-1, 0]]) == (2, pytest.approx(0))
