"""Measures against known geometries, networks with weights set by hand, and plain NumPy on the same draws."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, task_constants, train
from toysup.evidence import BATCH, FEWEST, GROUPS, positive_sum
from toysup.features import OnePerGroup, PowerLaw, SparseBoolean, SparseUniform
from toysup.geometry import dimensionality
from toysup.grid import Grid
from toysup.measure import (
    accuracy_recovered,
    dimensions_per_feature,
    directions,
    feature_dimensionality,
    feature_norm,
    features_offered,
    held_out,
    held_out_loss,
    interference,
    r_squared,
    recovered,
    recovered_at,
    trivial_losses,
    unseen,
)
from toysup.measure.held_out import ACTIVE_SAMPLES, MOST
from toysup.models import MLP, ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.random import Stream
from toysup.setting import Model, Setting
from toysup.shapes import Shape
from toysup.sweep import sweep
from toysup.tasks import And, Identity, Memory


def by_hand(stack, parameters, buffers=None):
    """A `Trained` that was never trained: tensors with an instance axis, or without one for all instances alike."""
    n = len(stack)
    module = stack.setting.build()

    def stacked(given, own):
        tensors = {name: torch.as_tensor(given[name], dtype=torch.float32) for name, _ in own}
        return {name: tensors[name].expand(n, *t.shape).contiguous() for name, t in own}

    return Trained(
        stack,
        stacked(parameters, list(module.named_parameters())),
        stacked(buffers or {}, list(module.named_buffers())),
        task_constants(stack),
        torch.zeros(n, 1),
        torch.full((n,), -1),
        {},
        "by hand",
    )


def autoencoder(features, width, task=None):
    return Setting(features, task or Identity(), Model(TiedAutoencoder, width=width))


def random_weights(n, width, seed=0, instances=()):
    rng = np.random.default_rng(seed)
    scale = 0.8 / math.sqrt(width)
    return {"W": scale * rng.standard_normal((*instances, n, width)), "b": -0.1 * rng.random((*instances, n))}


# --------------------------------------------------------------------------------------------------------- geometry


def polygon(n):
    angle = 2 * np.pi * np.arange(n) / n
    return torch.tensor(np.stack([np.cos(angle), np.sin(angle)], -1))


TETRAHEDRON = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("W", "share"),
    [
        (torch.eye(4, dtype=torch.float64)[:3], 1),
        (torch.tensor([[1.0], [-1.0]], dtype=torch.float64), 1 / 2),
        (polygon(3), 2 / 3),
        (TETRAHEDRON, 3 / 4),
        (polygon(5), 2 / 5),
        (polygon(8), 1 / 4),
    ],
    ids=["orthonormal", "antipodal", "triangle", "tetrahedron", "pentagon", "octagon"],
)
def test_known_geometries(W, share):
    expected = torch.full((len(W),), share, dtype=torch.float64)
    torch.testing.assert_close(dimensionality(W), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(dimensionality(3.7 * W), expected, rtol=1e-12, atol=0)  # a scale common to all is free
    together = torch.block_diag(W, torch.eye(2, dtype=torch.float64))  # others that are orthogonal change nothing
    torch.testing.assert_close(dimensionality(together)[: len(W)], expected, rtol=1e-12, atol=0)


def test_a_feature_without_a_direction_has_dimensionality_zero_and_takes_none_from_the_others():
    W = torch.cat([polygon(3), torch.zeros(2, 2, dtype=torch.float64)])
    expected = torch.tensor([2 / 3] * 3 + [0.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(dimensionality(W), expected, rtol=1e-12, atol=0)
    assert dimensionality(torch.zeros(3, 2)).tolist() == [0, 0, 0]


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_dimensionalities_lie_in_the_unit_interval_and_sum_to_the_rank_at_most(n, width, rank, seed):
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-2, 2, (n, 1))
    W = torch.tensor(scale * (rng.standard_normal((n, rank)) @ rng.standard_normal((rank, width))))
    shares = dimensionality(W)
    slack = 1e-9  # float64 rounding over 8 terms is 1e-15; scales that differ by 1e4 lose 8 digits of their squares
    assert (shares >= 0).all() and (shares <= 1 + slack).all()
    assert shares.sum() <= min(n, width, rank) + slack
    if n <= min(width, rank):
        orthogonal = torch.linalg.qr(W.T).Q.T * torch.tensor(scale)
        torch.testing.assert_close(dimensionality(orthogonal), torch.ones(n, dtype=W.dtype), rtol=1e-6, atol=0)


def test_directions_are_the_rows_of_the_embedding():
    stack = Stack.of(autoencoder(SparseUniform(5, 0.3), 2), [0, 1, 2])
    trained = by_hand(stack, random_weights(5, 2, instances=(3,)))
    torch.testing.assert_close(directions(trained), trained.parameters["W"])
    for model in (
        Model(ResidualMLP, shape=Shape(4, 2)),
        Model(ResidualMLP, shape=Shape(4, 2), embedding="trained", unembedding="frozen", row_norm=2.0),
        Model(UntiedAutoencoder, width=4, depth=1),
    ):
        stack = Stack.of(Setting(SparseUniform(5), Identity(), model, steps=2, batch=4), [3, 4])
        trained = train(stack, engine="general", compile=False)
        own = {**trained.parameters, **trained.buffers}["W_E"]
        torch.testing.assert_close(directions(trained), own, rtol=1e-5, atol=1e-6)


def test_norm_interference_and_dimensions_per_feature_by_their_definitions():
    trained = by_hand(Stack.of(autoencoder(SparseUniform(6, 0.3), 3), [0, 1]), random_weights(6, 3, 1, (2,)))
    for instance, W in enumerate(trained.parameters["W"].double().numpy()):
        norms = np.sqrt((W**2).sum(1))
        pressed = [sum((W[i] @ W[j] / norms[i]) ** 2 for j in range(6) if j != i) for i in range(6)]
        share = norms**2 / [sum((W[i] @ W[j] / norms[i]) ** 2 for j in range(6)) for i in range(6)]
        assert feature_norm(trained)[instance].numpy() == pytest.approx(norms, rel=1e-5)
        # rtol: interference is a difference of float32 sums, |W_i|^4 of which cancels
        assert interference(trained)[instance].numpy() == pytest.approx(pressed, rel=1e-4, abs=1e-6)
        assert feature_dimensionality(trained)[instance].numpy() == pytest.approx(share, rel=1e-5)
        assert dimensions_per_feature(trained)[instance].item() == pytest.approx(3 / (W**2).sum(), rel=1e-5)


def test_geometry_of_a_network_that_embeds_nothing():
    trained = by_hand(Stack.of(autoencoder(SparseUniform(3, 0.3), 2), [0]), {"W": np.zeros((3, 2)), "b": np.zeros(3)})
    assert dimensions_per_feature(trained).tolist() == [math.inf]
    for measure in (interference, feature_dimensionality, feature_norm):
        assert measure(trained).tolist() == [[0, 0, 0]]


# ------------------------------------------------------------------------------------- recovery, by direct computation


def directly(trained, instance, baseline):
    """Loss terms and R^2 of one instance in float64, from `batch` and `forward` alone."""
    one = trained.take([instance])
    errors, outputs, targets = 0.0, [], []
    for number in range(int(held_out(one).samples[0]) // BATCH):
        x, target = one.batch(number, BATCH)
        outputs.append(one.forward(x)[0].double().numpy())
        targets.append(target[0].double().numpy())
    difference = np.concatenate(outputs) - np.concatenate(targets)
    errors = (difference**2).mean(0)
    return difference, 1 - errors / baseline


def test_recovery_is_what_numpy_finds_on_the_same_draws():
    """Varying density, importance and exponent, so that each instance must be given its own."""
    density, exponent = np.array([0.5, 0.1, 0.05]), np.array([2.0, 4.0, 3.0])
    importance = np.random.default_rng(2).uniform(0.1, 1, (3, 6))
    varying = {"features.density": density, "task.exponent": exponent, "task.importance": importance}
    setting = autoencoder(SparseUniform(6, 0.5), 3, Identity(importance=np.ones(6), exponent=2.0))
    trained = by_hand(Stack(setting, np.arange(3), np.arange(3), varying), random_weights(6, 3, 3, (3,)))
    loss, shares, total = held_out_loss(trained).value, r_squared(trained).value, recovered(trained).value
    counts = recovered_at(0.5)(trained)
    for i in range(3):
        variance = density[i] / 3 - density[i] ** 2 / 4
        difference, r2 = directly(trained, i, variance)
        expected = (importance[i] * np.abs(difference) ** exponent[i]).sum(1).mean()
        assert loss[i].item() == pytest.approx(expected, rel=1e-4)  # float32 sums over 16 batches and more
        assert shares[i].numpy() == pytest.approx(r2, abs=1e-4)
        halves = [1 - (difference.reshape(-1, BATCH, 6)[k::2] ** 2).mean((0, 1)) / variance for k in (0, 1)]
        split = [(chosen > 0) @ summed for chosen, summed in (halves, halves[::-1])]
        assert total[i].item() == pytest.approx(max(0, np.mean(split)), abs=1e-3)
        assert counts[i].item() == (r2 > 0.5).sum()
    assert {int(c) for c in counts} != {0}  # the threshold is not vacuous here


def test_the_identity_network_recovers_everything_and_a_constant_nothing():
    n = 7
    stack = Stack.of(autoencoder(SparseUniform(n, 0.2), n), [1, 2, 3])
    perfect = by_hand(stack, {"W": np.eye(n), "b": np.zeros(n)})
    assert recovered(perfect).value.tolist() == [n] * 3 and recovered_at(0.999)(perfect).tolist() == [n] * 3
    assert held_out_loss(perfect).value.tolist() == [0] * 3 and held_out_loss(perfect).error.tolist() == [0] * 3
    mean = by_hand(stack, {"W": np.zeros((n, n)), "b": np.full(n, 0.1)})
    share = r_squared(mean)
    assert (share.value.abs() < 5 * share.error).all()
    assert (share.error < 0.05).all()  # and the errors are small enough to say so
    assert recovered_at(0.1)(mean).tolist() == [0] * 3
    zero = by_hand(stack, {"W": np.zeros((n, n)), "b": np.zeros(n)})
    # E x^2 / Var x = (p/3) / (p/3 - p^2/4): the zero predictor is worse than the mean by this much
    worse = 1 - (0.2 / 3) / (0.2 / 3 - 0.01)
    assert ((r_squared(zero).value - worse).abs() < 5 * r_squared(zero).error).all()
    assert (recovered(zero).value == 0).all()  # F_eff counts nothing below zero


@pytest.mark.parametrize(
    "setting",
    [
        autoencoder(SparseUniform(6, 0.05), 6, Identity(importance=np.linspace(0.2, 1, 6))),
        autoencoder(PowerLaw(6, 1.0, 0.1, signed=True), 6),
        autoencoder(SparseBoolean(6, 0.3), 6),
        Setting(SparseBoolean(6, 0.3), And(n_pairs=5), Model(MLP, width=2)),
    ],
    ids=["importance", "Zipf", "boolean", "And"],
)
def test_the_constant_predictor_loses_what_its_task_states(setting):
    stack = Stack.of(setting, [5, 6])
    task, features = setting.task, setting.features
    constants = [{name: tensor[i] for name, tensor in task_constants(stack).items()} for i in range(2)]
    stated = torch.stack([task.trivial_losses(features, own)["constant"] for own in constants])
    means = [task.target_moments(features, own)[0].expand(task.n_outputs(features)) for own in constants]
    module = setting.build()
    bias = "b" if isinstance(module, TiedAutoencoder) else "b_out"
    parameters = {name: torch.zeros(2, *p.shape) for name, p in module.named_parameters()} | {bias: torch.stack(means)}
    loss = held_out_loss(by_hand(stack, parameters))
    assert ((loss.value - stated).abs() < 5 * loss.error).all()
    assert (loss.error < 0.05 * stated).all()
    assert torch.equal(trivial_losses(by_hand(stack, parameters))["constant_loss"], stated)


def test_the_nulls_of_a_figure_are_columns_of_its_table():
    p = [0.5, 0.1]
    setting = dataclasses.replace(autoencoder(SparseUniform(6, 0.05), 6), steps=2, batch=8)
    cubes = dataclasses.replace(setting, task=Identity(exponent=3))
    grid = Grid(setting, {"features.density": p, "model.width": [2, 6], "seed": [0]})
    table = sweep(grid, [trivial_losses], device="cpu", engine="general", compile=False).table
    variance = table["density"] / 3 - table["density"] ** 2 / 4  # of U[0, 1] that is on with probability p
    np.testing.assert_allclose(table["zero_loss"], 6 * table["density"] / 3, rtol=1e-6)
    np.testing.assert_allclose(table["constant_loss"], 6 * variance, rtol=1e-6)
    np.testing.assert_allclose(table["linear_loss"], (6 - table["width"]) * variance, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="Identity knows none in closed form here"):
        trivial_losses(train(Stack.of(cubes, [0]), device="cpu", engine="general", compile=False))


@pytest.mark.parametrize(("n", "density"), [(400, 0.01), (2000, 0.002)])
def test_ignored_features_count_for_nothing_however_many_there_are(n, density):
    """Half of their R^2 lie above 0 by luck; adding those would count 1% to 2% of a feature for each."""
    stack = Stack.of(autoencoder(SparseUniform(n, density), 2), range(4))
    W = np.zeros((n, 2))
    W[:2] = np.eye(2)
    trained = by_hand(stack, {"W": W, "b": np.where(np.arange(n) < 2, 0, density / 2)})
    value, error = recovered(trained)
    assert r_squared(trained).value.clamp(min=0).sum(-1).min() > 2 + 0.008 * n  # what the plain sum would say
    assert ((value - 2).abs() < 4 * error).all() and (error < 0.002 * n).all()


def test_the_sum_of_positive_shares_is_unbiased_where_signs_are_clear_and_never_too_large():
    truth = torch.tensor([0.9, 0.5, 0.02, 0.0, 0.0, -0.02, -0.5])
    noise = torch.randn(16, 4000, 7, generator=torch.Generator().manual_seed(0))
    for scale, clear in ((0.01, True), (0.4, False)):
        value, error = positive_sum(truth + scale * noise)
        expected = truth.clamp(min=0).sum()
        bound = 4 * value.std() / 4000**0.5
        assert value.mean() < expected + bound
        assert not clear or value.mean() > expected - bound
        assert error.mean().item() == pytest.approx(value.std().item(), rel=0.2)


def test_a_score_whose_target_never_varies_counts_for_nothing():
    features = SparseBoolean(3, np.array([1.0, 0.5, 0.5]))  # the first is always 1
    trained = by_hand(Stack.of(autoencoder(features, 3), [0]), {"W": np.eye(3), "b": np.zeros(3)})
    value, error = (part[0] for part in r_squared(trained))
    assert value[0].isnan() and error[0].isnan() and value[1:].tolist() == [1, 1]
    assert recovered(trained).value.tolist() == [2] and unseen(trained).tolist() == [0]  # it never varies: not unseen


# -------------------------------------------------------------------------------------------------- sampling errors


SEEDS = 200


@pytest.mark.parametrize("density", [0.3, 0.02])
def test_stated_errors_are_the_spread_over_data_seeds(density):
    """z = (value - grand mean) / error follows Student's t with GROUPS - 1 = 15 degrees of freedom: std 1.074.

    Its sample std over 200 seeds has a standard error of 0.06 (excess kurtosis 6/11), so [0.8, 1.35] is +- 4.5 of them;
    errors too large or too small by half fall outside, as the last assertion shows.
    """
    stack = Stack.of(autoencoder(SparseUniform(4, density), 2), range(SEEDS))
    trained = by_hand(stack, random_weights(4, 2, 5))
    for measure in (held_out_loss, recovered, r_squared):
        value, error = measure(trained)
        z = ((value - value.mean(0)) / error).numpy()
        spread = z.std(axis=0)
        assert ((spread > 0.8) & (spread < 1.35)).all(), (measure.__name__, spread)
        for wrong in (1.5, 1 / 1.5):
            assert not ((wrong * spread > 0.8) & (wrong * spread < 1.35)).all()


def test_an_accuracy_error_is_the_spread_over_data_seeds():
    """As above, about the truth rather than the grand mean: 6 of 10 facts are known, whatever the labels."""
    trained = facts(keys=10, groups=1, labels=4, seeds=range(SEEDS), right=0.6)
    value, error = accuracy_recovered(trained)
    z = ((value - 10 * (0.6 - 0.25) / 0.75) / error).numpy()
    assert 0.8 < z.std() < 1.35 and abs(z.mean()) < 5 / math.sqrt(SEEDS)


def test_sparser_data_gets_more_samples():
    density = np.array([1.0, 0.1, 0.05, 0.02, 0.01, 0.001])
    seeds = np.zeros(6, dtype=int)
    trained = by_hand(
        Stack(autoencoder(SparseUniform(2, 0.5), 1), seeds, seeds, {"features.density": density}), random_weights(2, 1)
    )
    samples = held_out(trained).samples.numpy()
    assert (np.diff(samples) >= 0).all() and samples[0] == FEWEST and samples[-1] == MOST
    assert (samples % (GROUPS * BATCH) == 0).all()
    assert (samples * density >= ACTIVE_SAMPLES)[samples < MOST].all()


def test_looking_costs_no_more_than_a_quarter_of_learning():
    setting = autoencoder(SparseUniform(2, 0.001), 1)
    for steps, samples in ((10, FEWEST), (100, 32768), (10_000, MOST)):
        stack = Stack.of(dataclasses.replace(setting, steps=steps, batch=1024), [0])
        assert held_out(by_hand(stack, random_weights(2, 1))).samples.tolist() == [samples]


def test_an_estimate_does_not_depend_on_its_company():
    density = np.array([0.5, 0.01, 0.05, 0.5])
    stack = Stack(autoencoder(SparseUniform(4, 0.5), 2), np.arange(4), np.arange(4), {"features.density": density})
    trained = by_hand(stack, random_weights(4, 2, 7, (4,)))
    together = {m: m(trained) for m in (held_out_loss, recovered, r_squared)}
    for instances in ([0], [1], [3, 1]):
        for measure, whole in together.items():
            alone = measure(trained.take(instances))
            torch.testing.assert_close(alone.value, whole.value[instances], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(alone.error, whole.error[instances], rtol=1e-3, atol=1e-7)


def test_held_out_data_are_not_the_training_data():
    trained = by_hand(Stack.of(autoencoder(SparseUniform(4, 1.0), 2), [0, 1]), random_weights(4, 2))
    seen = torch.cat([trained.batch(step, 256, Stream.TRAIN)[0] for step in range(8)], 1)
    held = torch.cat([trained.batch(number, 256)[0] for number in range(8)], 1)
    for i in range(2):
        assert not set(map(tuple, seen[i].tolist())) & set(map(tuple, held[i].tolist()))
    assert not torch.equal(held[0], held[1])  # and each data seed has its own
    correlation = np.corrcoef(seen.flatten().numpy(), held.flatten().numpy())[0, 1]
    assert abs(correlation) < 5 / math.sqrt(seen.numel())


def test_the_held_out_pass_is_made_once_for_all_measures(monkeypatch):
    trained = by_hand(Stack.of(autoencoder(SparseUniform(3, 0.5), 2), [0]), random_weights(3, 2))
    first = held_out(trained)
    monkeypatch.setattr(Trained, "forward", lambda *_: pytest.fail("evaluated again"))
    assert held_out(trained) is first and len(recovered(trained).value) == 1


# ------------------------------------------------------------------------------------------------------------ labels


def facts(keys, groups, labels, seeds, right=1.0, logit=60.0, offered=1.0):
    """A Memory network that knows a share `right` of its facts; for the others it names the next label.

    The embedding is the identity, so the logits of key i are row i of W_U^T.
    """
    features = OnePerGroup(keys, groups, offered=offered)
    model = Model(ResidualMLP, shape=Shape(keys, 0), unembedding="trained")
    stack = Stack.of(Setting(features, Memory(labels), model), seeds)
    own = task_constants(stack)["labels"]
    known = torch.arange(keys) < right * keys
    said = torch.where(known, own, (own + 1) % labels)
    group = torch.arange(keys) // (keys // groups)
    W_U = torch.zeros(len(stack), groups * labels, keys)
    instance = torch.arange(len(stack))[:, None]
    W_U[instance, group * labels + said, torch.arange(keys)] = logit
    return by_hand(stack, {"W_U": W_U}, {"W_E": torch.eye(keys)})


def true_accuracy(trained):
    """Share of facts named rightly, over all keys: one group."""
    keys = trained.setting.features.n_features
    every = torch.arange(keys).expand(len(trained), -1).unsqueeze(-1)
    said = trained.forward(every).argmax(-1)
    return (said == trained.constants["labels"]).float().mean(-1)


def test_a_perfect_memory_recovers_every_fact_in_bits_and_in_hits():
    trained = facts(keys=12, groups=3, labels=4, seeds=[0, 1])
    assert accuracy_recovered(trained).value.tolist() == [12, 12]
    assert recovered(trained).value.tolist() == pytest.approx([12, 12], rel=1e-6)
    assert recovered_at(0.9)(trained).tolist() == [12, 12]
    half = facts(keys=12, groups=3, labels=4, seeds=[0], offered=0.5)
    assert accuracy_recovered(half).value.tolist() == [6]  # only what is offered can be recovered


def test_a_memory_that_knows_half_is_corrected_for_guessing():
    trained = facts(keys=20, groups=1, labels=4, seeds=[0, 1, 2], right=0.5)
    value, error = accuracy_recovered(trained)
    assert ((value - 20 * (0.5 - 0.25) / 0.75).abs() < 5 * error).all()
    assert (recovered(trained).value == 0).all()  # confident errors cost more bits than the other half holds


def test_an_ignorant_memory_recovers_nothing():
    keys, instances = 30, 12
    trained = facts(keys=keys, groups=1, labels=4, seeds=range(instances), logit=0.0)
    assert recovered(trained).value.abs().max() < 1e-3  # cross-entropy is ln 4 up to float32
    W_U = torch.randn(instances, 4, keys, generator=torch.Generator().manual_seed(0))
    trained = by_hand(trained.stack, {"W_U": W_U}, {"W_E": torch.eye(keys)})
    chance = (true_accuracy(trained) - 0.25) / 0.75
    value, error = accuracy_recovered(trained)
    assert ((value - keys * chance.clamp(min=0)).abs() < 5 * error + 1e-3).all()
    # The mean of `chance` over 360 guesses has a standard error of sqrt(.1875 / 360) / .75 = .030.
    assert chance.mean().abs() < 5 * 0.030


def test_features_offered_are_those_that_occur():
    seeds, offered = np.zeros(3, dtype=int), np.array([1.0, 0.5, 0.26])
    features = OnePerGroup(12, 3, offered=1.0)
    model = Model(ResidualMLP, shape=Shape(12, 0), unembedding="trained")
    stack = Stack(Setting(features, Memory(4), model), seeds, seeds, {"features.offered": offered})
    trained = by_hand(stack, {"W_U": np.zeros((12, 12))}, {"W_E": np.eye(12)})
    assert features_offered(trained).tolist() == [12, 6, 3]
    dense = by_hand(Stack.of(autoencoder(SparseUniform(5, 0.1), 2), [0, 1]), random_weights(5, 2))
    assert features_offered(dense).tolist() == [5, 5]


def test_accuracy_needs_labels():
    trained = by_hand(Stack.of(autoencoder(SparseUniform(3, 0.5), 2), [0]), random_weights(3, 2))
    with pytest.raises(InputError, match="needs a task with labels such as Memory, got Identity"):
        accuracy_recovered(trained)


def test_a_threshold_is_named_by_its_percentage():
    names = [recovered_at(t).__name__ for t in (0.25, 0.5, 0.55, 0.9, 0.999)]
    assert names == ["recovered_at_25", "recovered_at_50", "recovered_at_55", "recovered_at_90", "recovered_at_99.9"]


def test_a_diverged_instance_shows_and_leaves_the_others_alone():
    weights = random_weights(4, 2, 8, (2,))
    clean = by_hand(Stack.of(autoencoder(SparseUniform(4, 0.5), 2), [0, 1]), weights)
    weights["W"][1] = np.nan
    broken = by_hand(clean.stack, weights)
    assert recovered(broken).value[1].isnan() and held_out_loss(broken).value[1].isnan()
    assert recovered(broken).value[0] == recovered(clean).value[0]
