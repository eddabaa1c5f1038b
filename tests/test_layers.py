"""Probes of layers: closed forms, chance level, no memory of their own, and networks whose answer is known."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import optimize

from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, initial_values, task_constants
from toysup.features import BitGroups, OnePerGroup, SparseUniform
from toysup.measure.layers import decodable, decodable_by_layer, gates, inputs, label_chances, label_chances_by_layer
from toysup.measure.lifetimes import held_before_training, known_by_layer, lifetimes
from toysup.models import ResidualMLP
from toysup.probes import PENALTIES, fit_ridge, fit_softmax, predict_softmax
from toysup.setting import Model, Setting
from toysup.shapes import Shape
from toysup.sharing import lifetime, longest_run, shuffled_lifetime
from toysup.tasks import Circuit, Identity, Memory


def untrained(setting, seeds=range(2), **changes):
    """A stack at its start, some parameters or buffers replaced."""
    stack = Stack.of(setting, seeds)
    parameters, buffers = initial_values(stack)
    for name, value in changes.items():
        own = parameters if name.replace("__", ".") in parameters else buffers
        own[name.replace("__", ".")] = value.expand(len(stack), *value.shape).clone()
    count = len(stack)
    blank = torch.zeros(count, 1), torch.full((count,), -1), {}, ""
    return Trained(stack, parameters, buffers, task_constants(stack), *blank)


def residual(features, task, shape, **model):
    return Setting(features, task, Model(ResidualMLP, shape=shape, **model), steps=1, batch=64)


# -------------------------------------------------------------------------------------------------------------- ridge


def test_ridge_is_the_closed_form_at_the_penalty_that_validates_best():
    """Against the normal equations and the hat matrix, whose diagonal GCV averages."""
    rng = np.random.default_rng(0)
    n, units = 60, 8
    x = rng.normal(size=(n, units)) @ rng.normal(size=(units, units))
    y = x @ rng.normal(size=(units, 3)) * [1, 0.3, 0] + rng.normal(size=(n, 3)) * [0.01, 3, 1]
    a, b = x - x.mean(0), y - y.mean(0)
    moments = [torch.from_numpy(m) for m in (a.T @ a / n, a.T @ b / n, (b**2).mean(0))]
    found = fit_ridge(*moments, n).numpy()
    scale, chosen = (a**2).mean(), []
    for target in range(3):
        scores, fits = [], []
        for penalty in PENALTIES:
            inverse = np.linalg.inv(a.T @ a / n + penalty * scale * np.eye(units))
            hat = a @ inverse @ a.T / n + 1 / n
            left = b[:, target] - (hat - 1 / n) @ b[:, target]
            scores.append((left**2).mean() / (1 - np.trace(hat) / n) ** 2)
            fits.append(inverse @ (a.T @ b[:, target] / n))
        chosen.append(int(np.argmin(scores)))
        assert found[:, target] == pytest.approx(fits[chosen[-1]], rel=1e-6)
    assert chosen[0] < chosen[1]  # noise wants the larger penalty


def test_a_linear_code_is_read_as_well_as_in_closed_form():
    """x through d dimensions, no blocks that write: R^2 of the best linear readout W (W^T C W)^-1 W^T of C x."""
    setting = residual(SparseUniform(12, 0.3, signed=True), Identity(), Shape(6, 1), unembedding="frozen")
    trained = untrained(setting, W_out__0=torch.zeros(6, 6))
    linear = decodable(trained, [0], targets=inputs, curved=False, batches=8)
    W = trained.buffers["W_E"].double()
    expected = (W @ torch.linalg.inv(W.mT @ W) * W).sum(-1)  # all variances equal: the diagonal of the projection
    assert torch.allclose(linear.value.double(), expected, atol=0.02)  # 8,192 draws to fit 6 numbers, 16,384 to score
    assert torch.allclose(linear.value.sum(1), torch.full((2,), 6.0), atol=0.1)  # the rank, and no more
    curved = decodable(trained, [0], targets=inputs, batches=8)
    assert (curved.value > linear.value - 0.02).all() and (curved.error > 0).all() and (curved.error < 0.05).all()
    together = decodable(trained, [0, 1], targets=inputs, curved=False, batches=8)  # nothing was added
    assert torch.allclose(together.value, linear.value, atol=0.01)


def test_a_threshold_reads_more_than_a_line_from_a_crowded_code():
    setting = residual(SparseUniform(48, 0.02), Identity(), Shape(16, 1), unembedding="frozen")
    trained = untrained(setting, [0])
    line, curve = (decodable(trained, [0], targets=inputs, curved=c).value for c in (False, True))
    assert line.sum() < 16.5 and curve.sum() > 1.3 * line.sum()


def test_the_threshold_is_the_best_on_the_fitting_draws():
    """AND of two bits from their sum: a line leaves half of it, a threshold nothing."""
    setting = residual(BitGroups(2, 2, 1.0), Circuit(depth=1), Shape(2, 1), unembedding="frozen")
    trained = dataclasses.replace(untrained(setting), constants={"kinds": torch.zeros(2, 1, 1, dtype=torch.long)})
    line, curve = (decodable(trained, [0], targets=gates, curved=c, batches=2).value for c in (False, True))
    assert torch.allclose(line, torch.tensor(2 / 3), atol=0.02)  # 2 (1/4)^2 of 3/16
    assert (curve > 0.93).all()  # bins of a third of a standard deviation


def rolled(setting, constants, x, target):
    """Another sample's features."""
    return x.roll(1, 0)


@pytest.mark.parametrize("of", ["stream", "neurons"])
@pytest.mark.parametrize("curved", [False, True])
def test_shuffled_targets_are_at_chance(of, curved):
    """Nor better than chance where a probe has a hundred units and few draws to be fitted on."""
    trained = untrained(residual(SparseUniform(8, 0.3), Identity(), Shape(96, 1), unembedding="frozen"))
    chance = decodable(trained, [0], of=of, targets=rolled, curved=curved, batches=1)
    assert (chance.value < 5 * chance.error + 1e-3).all() and (chance.value > -0.3).all()
    found = decodable(trained, [0], of=of, targets=inputs, curved=curved, batches=1)
    assert (found.value > 0.9).all()  # positive control


def test_the_standard_error_is_that_of_repeated_draws():
    """Over networks with the same weights and other data."""
    setting = residual(SparseUniform(12, 0.3), Identity(), Shape(6, 1), unembedding="frozen")
    stack = Stack(setting, np.arange(40), np.zeros(40, dtype=np.int64))
    parameters, buffers = initial_values(stack)
    blank = torch.zeros(40, 1), torch.full((40,), -1), {}, ""
    found = decodable(Trained(stack, parameters, buffers, {}, *blank), [0], targets=inputs, curved=False)
    spread = found.value.std(0) / found.error.square().mean(0).sqrt()
    assert 0.7 < spread.mean() < 1.4  # 40 networks give a spread to 11%, twelve of them (correlated) to less


# ----------------------------------------------------------------------------------------------- networks by hand


def exclusive_ors(depth, at):
    """Two XOR gates computed by block `at` alone, in coordinates of their own; the other blocks write nothing."""
    features = BitGroups(4, 2, 0.5)
    shape = Shape(6, depth, 4)
    changes = {"W_E": torch.eye(4, 6)}
    for block in range(depth):
        W_in, W_out = torch.zeros(6, 4), torch.zeros(4, 6)
        if block == at:
            for c in range(2):
                W_in[2 * c, 2 * c : 2 * c + 2] = torch.tensor([1.0, -1.0])  # relu(a - b) and relu(b - a)
                W_in[2 * c + 1, 2 * c : 2 * c + 2] = torch.tensor([-1.0, 1.0])
                W_out[2 * c : 2 * c + 2, 4 + c] = 0.5
        changes |= {f"W_in__{block}": W_in, f"W_out__{block}": W_out}
    setting = residual(features, Circuit(depth=1), shape, unembedding="frozen")
    trained = untrained(setting, **changes)
    kinds = torch.full((2, 2, 1), 2)
    return dataclasses.replace(trained, constants={"kinds": kinds})


def test_a_gate_lives_where_it_is_computed_and_after():
    trained = exclusive_ors(4, at=1)
    stream = decodable_by_layer(trained, targets=gates, batches=2).value
    assert stream.shape == (2, 5, 2)
    # a ReLU of a - b, were it found, would know one of the two ways to be true: half of the variance at most
    assert (stream[:, :2] < 0.4).all() and (stream[:, 2:] > 0.99).all()
    line = decodable_by_layer(trained, targets=gates, curved=False, batches=2).value
    assert (line[:, :2] < 0.01).all() and (line[:, 2:] > 0.99).all()
    neurons = decodable_by_layer(trained, of="neurons", targets=gates, batches=2).value
    assert (neurons[:, 1] > 0.99).all() and (neurons[:, [0, 2, 3]] < 0.02).all()
    for of, lived in (("stream", 3), ("neurons", 1)):
        on = decodable_by_layer(trained, of=of, targets=gates, batches=2).value > 0.5
        assert (longest_run(on) == lived).all()
    same = decodable(trained, [2], targets=gates, batches=2).value
    assert torch.allclose(same, stream[:, 2], atol=1e-5)


def test_gates_live_from_the_block_that_computes_them_on():
    trained = exclusive_ors(2, at=0)
    trained.snapshots[0] = dict(exclusive_ors(2, at=2).parameters)  # where nothing is computed
    told = lifetimes(trained) | held_before_training(trained)
    for place, lived, first in (("stream", [0, 1, 1], 0), ("neurons", [1, 0], 1)):
        for layer, on in enumerate(lived, first):
            assert told[f"{place}_at_{layer}"].tolist() == [on, on]
            assert told[f"{place}_before_{layer}"].tolist() == [0, 0]
        for rule in ("", "_strict", "_uncorrected"):
            assert told[f"{place}_tau{rule}"].tolist() == told[f"{place}_layers{rule}"].tolist() == [sum(lived)] * 2
            assert told[f"{place}_held{rule}"].tolist() == [1, 1]
    with pytest.raises(InputError, match="must be Circuit or Memory"):
        known_by_layer(untrained(residual(SparseUniform(2, 1.0), Identity(), Shape(2, 1))))


def test_a_target_that_needs_two_layers_is_read_from_both_only():
    """Each block holds one of two inputs: half of the sum's variance, or all."""
    features = SparseUniform(2, 1.0)
    W_in = [torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])]
    changes = {"W_E": torch.eye(2), "W_in__0": W_in[0], "W_in__1": W_in[1]}
    changes |= {f"W_out__{block}": torch.zeros(1, 2) for block in range(2)}
    trained = untrained(residual(features, Identity(), Shape(2, 2, 1), unembedding="frozen"), **changes)

    def total(setting, constants, x, target):
        return x.sum(-1, keepdim=True)

    alone = [decodable(trained, [k], of="neurons", targets=total, batches=2).value for k in range(2)]
    assert all(torch.allclose(one, torch.tensor(0.5), atol=0.05) for one in alone)
    assert (decodable(trained, [0, 1], of="neurons", targets=total, batches=2).value > 0.99).all()


def test_longest_runs():
    on = torch.tensor([[1, 1, 0, 1, 1, 1, 0], [0] * 7, [1] * 7, [0, 1, 0, 1, 0, 1, 0]]).bool()
    assert longest_run(on.T).tolist() == [3, 0, 7, 1]
    assert longest_run(on.T.expand(2, 7, 4)).tolist() == [[3, 0, 7, 1]] * 2
    assert lifetime(on.T) == pytest.approx((11 / 3, 5, 3 / 4)) and lifetime(on[2:3].T) == (7, 7, 1)
    assert shuffled_lifetime(on[2:3].T) == (7, 7, 1) and math.isnan(shuffled_lifetime(on[1:2].T).held)
    many = torch.zeros(2, 200).bool()
    many[:, :100] = True  # the same half in both layers; any half in each: 1/4 of all features are in both
    assert lifetime(many) == (2, 2, 0.5) and shuffled_lifetime(many) == pytest.approx((4 / 3, 4 / 3, 3 / 4), rel=0.03)


# ------------------------------------------------------------------------------------------------------------- labels


def test_softmax_is_the_minimum_of_its_objective():
    """Against scipy's BFGS on the same objective, one of two stacked problems with weights."""
    rng = np.random.default_rng(0)
    x, labels, weight = rng.normal(size=(2, 40, 3)), rng.integers(0, 3, (2, 40)), rng.uniform(0, 2, (2, 40))
    given = [torch.from_numpy(v) for v in (x, labels)]
    found = fit_softmax(*given, 3, 0.05, torch.from_numpy(weight), iterations=20, tolerance=1e-10)

    def objective(flat):
        B = flat.reshape(4, 3)
        z = np.c_[x[1], np.ones(40)] @ B
        logs = z - np.log(np.exp(z).sum(1, keepdims=True))
        picked = (weight[1] * logs[np.arange(40), labels[1]]).sum() / weight[1].sum()
        return -picked + 0.05 * (B[:3] ** 2).sum() / 2 + 1e-6 * (B[3] ** 2).sum() / 2

    best = optimize.minimize(objective, np.zeros(12), method="BFGS", options={"gtol": 1e-9})
    assert objective(found[1].numpy().ravel()) == pytest.approx(best.fun, abs=1e-9)
    assert found[1, :3].numpy() == pytest.approx(best.x.reshape(4, 3)[:3], abs=1e-4)
    chances = predict_softmax(found, given[0]).exp()
    assert torch.allclose(chances.sum(-1), torch.ones(2, 40, dtype=torch.float64))


def test_softmax_survives_labels_that_a_line_separates():
    x = torch.linspace(-1, 1, 50).reshape(1, 50, 1)
    B = fit_softmax(x, (x[..., 0] > 0).long(), 2, 1e-4, iterations=30)
    assert B.isfinite().all() and (predict_softmax(B, x).argmax(-1) == (x[..., 0] > 0)).all()


def memory(n=400, d=16, depth=2, offered=1.0):
    features = OnePerGroup(n, 1, offered=offered)
    return residual(features, Memory(4), Shape(d, depth), unembedding="coordinates")


def bits(chances, n_labels=4):
    """Mean share of each fact's label that is known, in bits."""
    return 1 + chances.log().mean(-1) / math.log(n_labels)


@pytest.mark.parametrize("of", ["stream", "neurons"])
def test_a_network_that_knows_no_label_is_at_chance(of):
    """Though a probe of 68 numbers, fitted and scored on the same hundred facts, would find some."""
    trained = untrained(memory(), range(6))
    chances = label_chances_by_layer(trained, of=of)
    assert chances.shape == (6, 3 if of == "stream" else 2, 400)
    assert bits(chances).max() < 0.02  # no sampled layer beats guessing by more
    assert (chances > 0.5).float().mean() < 0.02
    units = trained.buffers["W_E"][:, :100] * 4
    labels = trained.constants["labels"][:, :100]
    B = fit_softmax(units, labels, 4, 1e-4)
    seen = predict_softmax(B, units).gather(-1, labels.unsqueeze(-1)).squeeze(-1).exp()
    assert bits(seen).min() > 0.1  # what memorising would have given


def test_labels_written_for_all_facts_in_one_place_are_found():
    """The embedding itself holds the label of three facts in four, the rest nothing."""
    trained = untrained(memory(), range(3))
    labels, known = trained.constants["labels"], torch.arange(400) % 4 != 1
    W = trained.buffers["W_E"] * 0.3
    W[..., :4] += torch.nn.functional.one_hot(labels, 4) * known.unsqueeze(-1)
    trained.buffers["W_E"] = W
    chances = label_chances(trained, [0])
    assert (chances[:, known] > 0.5).float().mean() > 0.97 and (chances[:, ~known] > 0.5).float().mean() < 0.3
    assert chances[:, ~known].mean() < 0.4
    few = label_chances(trained, [0], most=100)
    assert (few[:, known] > 0.5).float().mean() > 0.9 and not torch.equal(few, chances)
    offered = untrained(memory(offered=0.5), range(2))
    assert torch.equal(label_chances(offered, [0]).isnan(), (torch.arange(400) >= 200).expand(2, -1))


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "layer, of, message",
    [([3], "stream", "0 .. 2 for stream"), ([2], "neurons", "0 .. 1"), ([], "stream", "distinct"), ([0, 0], "stream",
     "distinct"), ([0], "outputs", "neurons or stream")],
)  # fmt: skip
def test_layers_that_are_not_there_are_refused(layer, of, message):
    with pytest.raises(InputError, match=message):
        decodable(untrained(memory()), layer, of=of)


def test_other_bad_input_is_refused():
    several = residual(OnePerGroup(16, 2), Memory(4), Shape(8, 1), unembedding="coordinates")
    with pytest.raises(InputError, match="one fact at a time"):
        label_chances(untrained(several), [0])
    with pytest.raises(InputError, match="at least 8 facts"):
        label_chances(untrained(memory(n=4)), [0])
    with pytest.raises(InputError, match="most"):
        label_chances(untrained(memory()), [0], most=4)
    with pytest.raises(InputError, match="must be Circuit"):
        decodable(untrained(memory()), [0], targets=gates)
    with pytest.raises(InputError, match="batches"):
        decodable(untrained(memory()), [0], targets=inputs, batches=0)
