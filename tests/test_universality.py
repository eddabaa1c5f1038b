"""Similarities between networks: what they must not depend on, closed forms, chance, and ensembles that are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from toysup import stats
from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, initial_values, task_constants, train
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import directions, fact_bits, r_squared, recovered
from toysup.measure.universality import shared_activations, unit_responses
from toysup.models import ResidualMLP, TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.similarity import (
    above_chance,
    chance,
    explained,
    feature_correlation,
    gram_similarity,
    linear_cka,
    matched_cosine,
    monomials,
    svcca,
)
from toysup.tasks import Identity, Memory


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=0):
    return torch.linalg.qr(drawn(size, size, seed=seed))[0]


def untrained(setting, seeds=range(2), **parameters):
    stack = Stack.of(setting, seeds)
    own, buffers = initial_values(stack)
    count = len(stack)
    blank = torch.zeros(count, 1), torch.full((count,), -1), {}, ""
    return Trained(stack, {**own, **parameters}, buffers, task_constants(stack), *blank)


# ---------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("ranks", [True, False])
def test_correlations_are_scipys(ranks):
    a, b = drawn(3, 40, seed=1).numpy(), drawn(2, 40, seed=2).numpy()
    b[0] = np.round(b[0])  # ties
    found = feature_correlation(a, b, ranks=ranks)
    one = scipy_stats.spearmanr if ranks else scipy_stats.pearsonr
    expected = [[one(x, y).statistic for y in b] for x in a]
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-12)
    assert torch.allclose(feature_correlation(a, a, ranks=ranks).diagonal(), torch.ones(3, dtype=torch.float64))


def test_partial_correlation_is_the_closed_form():
    """For one control the textbook's, for several that of the inverse correlation matrix."""
    a, b, c, d = drawn(4, 50, seed=3).numpy()
    a, b = a + c + 0.5 * d, b - 0.7 * c + d
    r = np.corrcoef([a, b, c, d])
    textbook = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert feature_correlation(a[None], b[None], given=c[:, None], ranks=False).item() == pytest.approx(textbook)
    P = np.linalg.inv(r)
    both = np.stack([c, 1e6 * d + 3], 1)  # units do not matter
    found = feature_correlation(a[None], b[None], given=both, ranks=False).item()
    assert found == pytest.approx(-P[0, 1] / math.sqrt(P[0, 0] * P[1, 1]))


def test_what_a_common_cause_made_is_partialled_out():
    cause = drawn(2000, seed=4).numpy()
    scores = cause + 0.5 * drawn(6, 2000, seed=5).numpy()
    off = ~torch.eye(6, dtype=torch.bool)
    assert feature_correlation(scores, scores, ranks=False)[off] == pytest.approx(0.8, abs=0.05)
    left = feature_correlation(scores, scores, given=cause[:, None], ranks=False)[off]
    assert (left.abs() < 4 / 2000**0.5).all()  # a correlation of nothing has a standard error of 1 / sqrt(features)
    assert explained(scores, cause[:, None], ranks=False) == pytest.approx(0.8, abs=0.05)  # 1 / (1 + .25)


def test_noise_explains_nothing_and_a_function_of_the_controls_all():
    controls = drawn(30, 8, seed=6).numpy()
    found = explained(drawn(400, 30, seed=7), controls, ranks=False)
    assert abs(found.mean()) < 4 * found.std() / 400**0.5  # unadjusted it would be 8 / 29
    assert explained((controls @ np.arange(8))[None], controls, ranks=False).item() == pytest.approx(1)


def test_scores_that_say_nothing_give_nan_and_bad_controls_an_error():
    a = torch.stack([torch.ones(20), drawn(20).float(), torch.full((20,), torch.nan)])
    found = feature_correlation(a, a)
    assert found.isfinite().tolist() == [[False] * 3, [False, True, False], [False] * 3]
    line = torch.arange(20.0)
    assert feature_correlation(3 * line[None] + 1e3, a[1:2], given=line[:, None], ranks=False).isnan().all()
    for given in (torch.ones(20, 1), torch.stack([line, 2 * line], 1), drawn(20, 19), drawn(19, 1)):
        with pytest.raises(InputError, match=r"(controls|given) "):
            feature_correlation(a, a, given=given)
    with pytest.raises(InputError, match="20 features in a, 19 in b"):
        feature_correlation(a, a[:, 1:])


# ------------------------------------------------------------------------------------------------------------- CKA


def hsic(K, L):
    """Song et al. 2012, eq. 5, word for word."""
    n, K, L, one = len(K), K - np.diag(np.diag(K)), L - np.diag(np.diag(L)), np.ones(len(K))
    terms = (
        np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)
    )
    return terms / (n * (n - 3))


def test_cka_is_that_of_gram_matrices():
    a, b = drawn(2, 12, 3, seed=1) + 1, drawn(3, 12, 5, seed=2)
    b[0, :, :3] += 2 * a[0]
    Ks, Ls = ([(x @ x.T).numpy() for x in stack] for stack in (a, b))
    expected = [[hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L)) for L in Ls] for K in Ks]
    assert linear_cka(a, b).numpy() == pytest.approx(np.array(expected))
    many, more = drawn(1, 4000, 3, seed=3), drawn(1, 4000, 4, seed=4)
    more[..., :3] += many
    x, y = many[0] - many[0].mean(0), more[0] - more[0].mean(0)
    kornblith = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())  # their eq. 4 and 5, biased
    assert linear_cka(many, more).item() == pytest.approx(kornblith.item(), abs=2e-3)  # the bias is units / samples


def test_cka_knows_neither_rotation_nor_scale_nor_origin_but_stretching():
    a, b = drawn(2, 50, 6, seed=5), drawn(2, 50, 4, seed=6)
    b[..., :4] += a[..., :4]
    turned = 3.7 * (a @ rotation(6)) + drawn(6, seed=7)
    assert torch.allclose(linear_cka(turned, b), linear_cka(a, b))
    assert torch.allclose(linear_cka(a, turned).diagonal(), torch.ones(2, dtype=torch.float64))
    stretched = a * torch.tensor([10.0, 1, 1, 1, 1, 1])
    assert (linear_cka(stretched, a).diagonal() < 0.9).all()


def test_cka_of_unrelated_activations_is_zero_however_few_the_samples():
    """20 samples of 30 units: without the correction it would be about .6."""
    a, b = drawn(40, 20, 30, seed=8), drawn(40, 20, 30, seed=9)
    found = linear_cka(a, b).diagonal()  # 40 independent pairs
    assert abs(found.mean()) < 4 * found.std() / 40**0.5
    x, y = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = [(left.mT @ right).square().sum((1, 2)) for left, right in ((x, y), (x, x), (y, y))]
    assert (norms[0] / (norms[1] * norms[2]).sqrt()).mean() > 0.5


# ----------------------------------------------------------------------------------------------------------- SVCCA


def test_cca_knows_no_invertible_map():
    a, b = drawn(2, 60, 5, seed=1), drawn(3, 60, 8, seed=2)
    b[..., :2] += 2 * a[:1, :, :2]
    mapped = a @ drawn(5, 5, seed=3) + 4
    assert torch.allclose(svcca(mapped, b, variance=1), svcca(a, b, variance=1))
    assert torch.allclose(svcca(mapped, a, variance=1).diagonal(), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(svcca(2 * a @ rotation(5), b), svcca(a, b))
    assert (svcca(a, torch.cat([a, b[:2]], -1)).diagonal() > 0.9).all()  # a subspace matches what holds it


def test_cca_is_the_canonical_correlations():
    """Of the eigenvalues of C_xx^-1 C_xy C_yy^-1 C_yx."""
    x, y = drawn(100, 3, seed=4), drawn(100, 4, seed=5)
    y[:, :2] += x[:, :2]
    C = torch.cov(torch.cat([x, y], 1).T)
    xx, xy, yy = C[:3, :3], C[:3, 3:], C[3:, 3:]
    squared = torch.linalg.eigvals(torch.linalg.solve(xx, xy) @ torch.linalg.solve(yy, xy.T)).real
    assert svcca(x[None], y[None], variance=1).item() == pytest.approx(squared.sqrt().mean().item())


def test_svcca_leaves_out_directions_of_little_variance():
    a, noise = drawn(1, 500, 3, seed=6), drawn(1, 500, 10, seed=7)
    b = torch.cat([a, 0.01 * noise], -1)
    other = torch.cat([a @ rotation(3), 0.01 * drawn(1, 500, 10, seed=8)], -1)
    assert svcca(b, other).item() > 0.99 and svcca(b, other, variance=1).item() < 0.5
    still = torch.zeros(1, 500, 3)
    assert svcca(still, a).isnan().all() and linear_cka(still, a).isnan().all()


# ------------------------------------------------------------------------------------- directions and units in truth


def test_gram_similarity_knows_no_basis_and_no_width():
    W = drawn(2, 12, 4, seed=1)
    wide = torch.cat([W, torch.zeros(2, 12, 5)], -1) @ rotation(9)
    found = gram_similarity(2 * W, wide)
    assert torch.allclose(found.diagonal(), torch.ones(2, dtype=torch.float64)) and abs(found[0, 1]) < 0.5
    many = gram_similarity(drawn(20, 12, 4, seed=2), drawn(20, 12, 6, seed=3)).diagonal()
    assert abs(many.mean()) < 4 * many.std() / 20**0.5


def test_units_are_matched_one_to_one():
    units = drawn(1, 6, 30, seed=4)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    scaled = units[:, order] * torch.rand(6, 1)
    assert matched_cosine(units, scaled).item() == pytest.approx(1)
    assert matched_cosine(units[:, :4], scaled).item() == pytest.approx(1)  # over the smaller number
    twice = units[:, [0, 0]]
    assert matched_cosine(twice, units).item() < 0.9  # the same unit serves once
    lost = torch.cat([units, torch.full((1, 6, 30), torch.nan)])
    assert matched_cosine(lost, units).isnan().flatten().tolist() == [False, True]


def test_chance_is_what_is_left_without_a_common_order():
    scores = drawn(1, 200, seed=5) + 0.3 * drawn(12, 200, seed=6)
    assert feature_correlation(scores, scores).mean() > 0.85
    assert abs(chance(feature_correlation, scores, scores, axis=-1).mean()) < 4 / (12 * 4 * 200) ** 0.5
    a = drawn(1, 400, 6, seed=7) + 0.1 * drawn(8, 400, 6, seed=8)
    assert linear_cka(a, a).min() > 0.9 and abs(chance(linear_cka, a, a, axis=1).mean()) < 0.01
    floor, unrelated = chance(svcca, a, a, axis=1), svcca(a[:1], drawn(50, 400, 6, seed=9))
    assert floor.mean().item() == pytest.approx(unrelated.mean().item(), abs=0.02) and floor.min() > 0.05
    positive, other = drawn(2, 4, 10, 40, seed=10).abs()  # units with a mean in common match well by chance
    by_chance = chance(matched_cosine, positive, other, axis=-1).mean().item()
    assert matched_cosine(positive, other).mean().item() == pytest.approx(by_chance, abs=0.03) and by_chance > 0.6


# -------------------------------------------------------------------------------------------------- of real networks


def test_facts_are_read_exactly():
    setting = Setting(OnePerGroup(24, 1, offered=0.5), Memory(3),
                      Model(ResidualMLP, shape=Shape(6, 2), unembedding="coordinates", row_norm=6**0.5),
                      Adam(0.01), steps=400, batch=64)  # fmt: skip
    trained = train(Stack.of(setting, range(3)))
    bits = fact_bits(trained)
    assert bits[:, 12:].isnan().all() and bits[:, :12].isfinite().all()
    value, error = recovered(trained)  # the same from samples: 12 facts, all equally frequent
    assert (value - bits[:, :12].sum(1)).abs().max() < 5 * error.max() + 1e-3
    assert bits[:, :12].sum(1).min() > 1 and fact_bits(untrained(setting))[:, :12].mean() < 0.2
    responses = unit_responses(trained)
    assert responses.shape == (3, 12, 24) and responses.mean(-1).abs().max() < 1e-5
    with pytest.raises(InputError, match="one fact at a time"):
        fact_bits(untrained(Setting(SparseUniform(4, 0.1), Identity(), Model(TiedAutoencoder, width=2))))


def test_activations_on_shared_draws_and_responses_of_units():
    W = drawn(2, 6, 3, seed=1).float()
    setting = Setting(SparseUniform(6, 0.3), Identity(), Model(TiedAutoencoder, width=3))
    trained = untrained(setting, W=W)
    responses = unit_responses(trained, of="stream", layer=0)
    assert torch.allclose(responses, W.mT, atol=1e-6)
    found = shared_activations(trained, batches=1)
    alike = shared_activations(untrained(setting, seeds=[0, 9], W=W[[0, 0]]), batches=1)
    assert torch.equal(alike[0], alike[1]) and torch.equal(found[0], alike[0])  # whatever their own data
    assert not torch.equal(found, shared_activations(trained, batches=1, seed=1))
    assert shared_activations(trained, batches=2).shape == (2, 2048, 3)
    x = drawn(7, 6, seed=2).float()
    assert torch.allclose(shared_activations(trained, inputs=x), x @ W, atol=1e-6)
    for wrong in ({"layer": 1}, {"of": "code"}, {"batches": 0}):
        with pytest.raises(InputError):
            shared_activations(trained, **wrong)


def test_one_world_is_one_world_and_another_is_another():
    """Trained autoencoders of two widths, with falling and with rising importance."""
    falling = 0.85 ** torch.arange(20).numpy()
    answers = {}
    for name, width, importance, seeds in (("a", 5, falling, range(8)), ("b", 7, falling, range(10, 18)),
                                           ("other", 7, falling[::-1].copy(), range(20, 28))):  # fmt: skip
        model = Model(TiedAutoencoder, width=width)
        setting = Setting(SparseUniform(20, 0.1), Identity(importance), model, Adam(0.01), steps=800, batch=256)
        answers[name] = train(Stack.of(setting, seeds))
    scores = {name: r_squared(trained).value for name, trained in answers.items()}
    found = {name: stats.agreement(*(feature_correlation(x, y) for x, y in (
        (scores["a"], scores[name]), (scores["a"], scores["a"]), (scores[name], scores[name])))).u
        for name in ("b", "other")}  # fmt: skip
    assert found["b"].low > 0.8 and found["other"].high < -0.8
    W = {name: directions(trained) for name, trained in answers.items()}
    codes = {name: shared_activations(trained, batches=1) for name, trained in answers.items()}
    for similarity, of in ((linear_cka, codes), (svcca, codes), (gram_similarity, W)):
        assert similarity(of["a"], of["a"])[~torch.eye(8, dtype=bool)].mean() > similarity(of["a"], of["other"]).mean()


# ------------------------------------------------------------------------------------------------------- agreement


def ensembles(rng, cosine, n=16, noise=(0.5, 0.5), size=60):
    """Two ensembles of vectors about means at a known cosine, and their matrices of similarity (correlations)."""
    common, own = np.linalg.qr(rng.normal(size=(size, 2)))[0].T * math.sqrt(size)
    means = common, cosine * common + math.sqrt(1 - cosine**2) * own
    A, B = (mean + spread * rng.normal(size=(n, size)) for mean, spread in zip(means, noise, strict=True))
    A, B = (X / np.linalg.norm(X, axis=1, keepdims=True) for X in (A, B))
    return A @ B.T, A @ A.T, B @ B.T


@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.0])
def test_u_is_covered(cosine):
    """1 for one ensemble, 0 for unrelated ones, the cosine between; however noisy the seeds of either are."""
    rng = np.random.default_rng(1)
    found = [stats.agreement(*ensembles(rng, cosine, noise=(0.3, 1.2)), resamples=400).u for _ in range(120)]
    assert np.mean([one.value for one in found]) == pytest.approx(cosine, abs=0.02)
    assert np.mean([not one.excludes(cosine) for one in found]) > 0.95 - 0.06  # 3 standard errors of a share of 120


def test_u_is_one_within_an_ensemble_and_zero_once_shuffled():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=300) + 0.7 * rng.normal(size=(40, 300))
    a, b = scores[:20], scores[20:]
    within = feature_correlation(a, a), feature_correlation(b, b)
    same = stats.agreement(feature_correlation(a, b), *within)
    assert same.u.within(0.95, 1.05) and not same.u.excludes(1) and same.across.within(0.5, 0.8)
    mixed = stats.agreement(feature_correlation(a, rng.permuted(b, axis=1)), *within)
    assert mixed.u.within(-0.1, 0.1) and mixed.u.excludes(1)


def test_floors_are_taken_off():
    """A similarity that is half chance, as svcca is: the floor off, U is the same."""
    plain = ensembles(np.random.default_rng(3), 0.5)
    raised = [0.4 + 0.6 * one for one in plain]
    floors = [np.full_like(one, 0.4) for one in plain]
    expected = stats.agreement(*plain).u.asdict()
    assert stats.agreement(*raised, floors=(0.4, 0.4, 0.4)).u.asdict() == pytest.approx(expected)
    assert stats.agreement(*raised, floors=tuple(floors)).u.asdict() == pytest.approx(expected)
    assert stats.agreement(*raised).u.value > expected["value"] + 0.05


def test_without_a_ceiling_there_is_no_u():
    rng = np.random.default_rng(4)
    A, B = rng.normal(size=(2, 12, 100)) / 10
    found = stats.agreement(A @ B.T, A @ A.T, B @ B.T)
    assert math.isnan(found.u.value) and found.u.high == math.inf and not found.across.excludes(0)
    assert found.within_a.within(-0.2, 0.2)  # the diagonal of ones is not counted


def test_agreement_refuses_what_does_not_fit():
    across, within_a, within_b = ensembles(np.random.default_rng(5), 1, n=4)
    broken = within_a.copy()
    broken[0, 1] = np.nan
    for wrong, words in (
        ((across[:1], within_a, within_b), "2 or more"),
        ((across, within_a[:3], within_b), r"within_a and its floor must be \(4, 4\)"),
        ((across, broken, within_b), "finite"),
    ):
        with pytest.raises(InputError, match=words):
            stats.agreement(*wrong)
    diagonal = within_a.copy()
    np.fill_diagonal(diagonal, np.nan)
    assert stats.agreement(across, diagonal, within_b) == stats.agreement(across, within_a, within_b)


def test_above_chance_is_agreement_less_chance_and_floors():
    a, b = drawn(3, 12, 4, seed=1), drawn(4, 12, 5, seed=2)
    pairs = (a, b), (a, a), (b, b)
    lows = [chance(svcca, x, y, axis=1, repeats=2, seed=3).numpy() + off
            for (x, y), off in zip(pairs, (0.1, 0.2, 0.3), strict=True)]  # fmt: skip
    found = above_chance(svcca, a, b, axis=1, repeats=2, seed=3, floors=(0.1, 0.2, 0.3))
    assert found == stats.agreement(*(svcca(x, y).numpy() for x, y in pairs), floors=tuple(lows))
    assert above_chance(linear_cka, a, b) == stats.agreement(*(linear_cka(x, y).numpy() for x, y in pairs))


def test_monomials_span_every_polynomial_of_their_degree():
    """Of two columns there are 9 of degree 3, and an arbitrary cubic of the columns is explained wholly by them."""
    x, y = np.exp(drawn(2, 40, seed=4).numpy())
    controls = monomials([x, y], 3)
    assert controls.shape == (40, 9)
    cubic = 2 * x**3 - x * y**2 + 3 * x * y - y
    assert explained(cubic[None], controls, ranks=False).item() == pytest.approx(1)
    assert explained((x**4)[None], controls, ranks=False).item() < 1 - 1e-6
    assert monomials([[1.0, 3.0]], 2) == pytest.approx(np.array([[-1, 1], [1, 1]]))
    for columns in ([[1.0, 1.0]], [[1.0, np.nan]], [1.0, 2.0]):
        with pytest.raises(InputError, match="monomials"):
            monomials(columns, 2)
