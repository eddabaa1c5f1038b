"""References without a decoder, and face counting: each against a second, independent way to the same number."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import gammaln, logsumexp

from toysup.checks import InputError
from toysup.theory import (
    ba_indyk_price_woodruff,
    bayes_amp_r2,
    bayes_amp_ratio,
    counting_ratio,
    l1_ratio,
    l1_strong_threshold,
    l1_threshold_by_faces,
    l1_weak_threshold,
    matched_filter_auc,
    matched_filter_measurements,
    pca_r2,
    random_frame,
    welch_coherence,
)
from toysup.theory.compressed_sensing import MAGNITUDES, _mmse

# ---------------------------------------------------------------------------------------------------- face counting


@settings(max_examples=15, deadline=None)
@given(delta=st.floats(0.01, 0.99), nonnegative=st.booleans())
def test_face_counting_and_state_evolution_give_one_weak_threshold(delta, nonnegative):
    assert l1_threshold_by_faces(delta, nonnegative) == pytest.approx(l1_weak_threshold(delta, nonnegative), abs=1e-7)


@pytest.mark.parametrize(
    ("nonnegative", "printed"), [(False, [0.048802, 0.065440, 0.089416]), (True, [0.060131, 0.087206, 0.133457])]
)
def test_strong_threshold_anchors(nonnegative, printed):
    assert l1_strong_threshold([0.1, 0.25, 0.5], nonnegative) == pytest.approx(printed, abs=6e-7)  # six printed digits


def test_laws_of_the_strong_threshold():
    delta = np.array([0.01, 0.1, 0.4, 0.8, 0.99])
    signed, positive = l1_strong_threshold(delta, nonnegative=False), l1_strong_threshold(delta)
    assert np.all(np.diff(signed) > 0) and np.all(np.diff(positive) > 0)
    assert np.all(signed < positive) and np.all(positive < l1_weak_threshold(delta))
    assert np.all(signed < 0.1685)  # Donoho's rho_N(1) = .1685: not even square matrices do better


def test_between_the_thresholds_most_supports_are_found_and_not_all():
    """n = 16, m = 8: one active feature (rho = 1/8) is below the strong threshold, .133, three (3/8) lie between it and
    the weak one, .558; every support is tried by linear programming. Whether x is found depends on its support only.
    """
    n, m, rng = 16, 8, np.random.default_rng(0)
    matrix, shares = rng.standard_normal((m, n)), {}
    for k in (1, 3):
        found = []
        for support in itertools.combinations(range(n), k):
            x = np.zeros(n)
            x[list(support)] = 1
            solution = linprog(np.ones(n), A_eq=matrix, b_eq=matrix @ x, bounds=(0, None))
            found.append(np.max(np.abs(solution.x - x)) < 1e-6)
        shares[k] = np.mean(found)
    assert l1_strong_threshold(m / n) > 1 / m and l1_strong_threshold(m / n) < 3 / m < l1_weak_threshold(m / n)
    assert shares[1] == 1 and 0.5 < shares[3] < 1


# ---------------------------------------------------------------------------------------------------------- counting


def test_counting_holds_the_typical_set():
    """log2 of the number of likely supports, counted, is n H2(p): so n / m = b / H2(p) fills m b bits."""
    excess = []
    for n in (1e4, 1e6):
        p, spread = 0.05, 4 * math.sqrt(n * 0.05 * 0.95)
        k = np.arange(math.ceil(n * p - spread), math.floor(n * p + spread))
        bits = logsumexp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / math.log(2)
        excess.append(bits / (n / counting_ratio(p, 1.0)) - 1)
    assert 0 < excess[1] < 0.02 and excess[0] / excess[1] == pytest.approx(10, rel=0.1)  # it vanishes as n^(-1/2)
    assert counting_ratio(p, 3.0) == pytest.approx(3 * counting_ratio(p, 1.0))
    assert counting_ratio(0.5, 1.0) == pytest.approx(1) and counting_ratio(0.2, 1) == pytest.approx(
        counting_ratio(0.8, 1)
    )


# ----------------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize(("n", "k"), [(100, 10), (1000, 10), (60, 20)])
def test_the_code_of_the_packing_bound_exists(n, k):
    """Gilbert-Varshamov by exact balls: q^k words over the size of a ball of radius < k / 2 is at least the bound's."""
    q = n // k
    ball = sum(math.comb(k, i) * (q - 1) ** i for i in range(math.ceil(k / 2)))
    words = k * math.log2(q) - math.log2(ball)
    for C in (1.0, 2.0, 10.0):
        assert 0 < ba_indyk_price_woodruff(n, k, C) * math.log2(4 + 2 * C) <= words


def test_the_packing_bound_by_hand():
    # q = 4: H_4(1/2) = (log4 3 + 2 log4 2) / 2 = .896241; 10 * 2 bits; log2 8 = 3
    assert ba_indyk_price_woodruff(40, 10, 2.0) == pytest.approx((1 - (math.log(3, 4) + 1) / 2) * 20 / 3)
    assert ba_indyk_price_woodruff(43, 10, 2.0) == ba_indyk_price_woodruff(40, 10, 2.0)
    assert ba_indyk_price_woodruff(20, 10) == pytest.approx(0)
    growth = ba_indyk_price_woodruff([1e4, 1e6, 1e8], 1)
    assert np.all(np.diff(growth) > 0) and growth[-1] / growth[0] == pytest.approx(2, rel=0.15)  # like log n


# ---------------------------------------------------------------------------------------------------- matched filter


def test_matched_filter_finds_the_support_from_about_its_measurements():
    n, k = 400, 4
    wanted, right = float(matched_filter_measurements(n, k)), {}
    rng = np.random.default_rng(1)
    for share in (0.25, 2.0):
        m, exact = round(share * wanted), 0
        for _ in range(100):
            columns = random_frame(n, m, rng)
            score = columns.T @ columns[:, :k].sum(1)
            exact += score[:k].min() > score[k:].max()
        right[share] = exact
    assert right[0.25] <= 20 and right[2.0] >= 95


def test_auc_of_single_correlations_does_not_depend_on_n():
    """1000 draws of W and x; the AUC of 10 active against the rest in each: errors near .002, and .01 for the normal
    form at K = 10 (the active side's variance is (K - 1) / d)."""
    d, k, rng = 40, 10, np.random.default_rng(2)
    for n in (60, 600):
        areas = []
        for _ in range(300):
            columns = random_frame(n, d, rng)
            score = columns.T @ columns[:, :k].sum(1)
            areas.append(np.mean(score[:k, None] > score[None, k:]))
        assert np.mean(areas) == pytest.approx(matched_filter_auc(d, k), abs=0.02)


# --------------------------------------------------------------------------------------------------------------- PCA


def test_pca_keeps_m_features_worth():
    rng = np.random.default_rng(3)
    x = rng.random((200_000, 12)) * (rng.random((200_000, 12)) < 0.2)
    x -= x.mean(0)
    for m in (3, 12, 20):
        axes = np.linalg.svd(x, full_matrices=False)[2][:m]
        r2 = 1 - np.square(x - x @ axes.T @ axes).mean(0) / x.var(0)
        assert r2.mean() == pytest.approx(pca_r2(12, m), abs=0.005)  # sampled axes fit sampled data a little better


# --------------------------------------------------------------------------------------------------------- Bayes-AMP


@pytest.mark.parametrize("magnitudes", MAGNITUDES)
@pytest.mark.parametrize(("sigma", "density"), [(0.3, 0.1), (0.15, 0.4)])
def test_posterior_variance_by_sampling(magnitudes, sigma, density):
    """The mean squared error of the posterior mean, computed by plain quadrature over the prior at sampled y."""
    rng = np.random.default_rng(4)
    u = (np.arange(4000) + 0.5) / 4000
    grid = {"uniform": u, "boolean": np.ones(1), "normal": 8 * u}[magnitudes]
    prior = {"uniform": np.ones(4000), "boolean": np.ones(1), "normal": np.exp(-((8 * u) ** 2) / 2)}[magnitudes]
    prior = density * prior / prior.sum()
    n = 4000
    draw = {"uniform": rng.random(n), "boolean": np.ones(n), "normal": np.abs(rng.standard_normal(n))}[magnitudes]
    x = np.where(rng.random(n) < density, draw, 0)
    y = x + sigma * rng.standard_normal(n)
    seen = np.exp(-(((y[:, None] - grid) / sigma) ** 2) / 2) * prior
    mean = (seen @ grid) / (seen.sum(1) + (1 - density) * np.exp(-((y / sigma) ** 2) / 2))
    errors = (mean - x) ** 2
    assert abs(_mmse(sigma, density, magnitudes) - errors.mean()) < 5 * errors.std() / np.sqrt(n)


@pytest.mark.parametrize("magnitudes", MAGNITUDES)
def test_bayes_amp_is_above_l1_whatever_the_magnitudes(magnitudes):
    p = np.geomspace(1e-3, 0.5, 8)
    ratio = bayes_amp_ratio(p, magnitudes)
    assert np.all(ratio > l1_ratio(p)) and np.all(np.diff(ratio) < 0)
    assert magnitudes == "boolean" or np.all(ratio <= 1 / p)


def amp(columns, h, density, rounds):
    """Bayes-optimal AMP for U[0, 1] magnitudes, written out: posterior means by quadrature, Onsager's term, the noise
    level from the residual."""
    m, n = columns.shape
    u = (np.arange(400) + 0.5) / 400
    x, residual = np.zeros(n), h.copy()
    for _ in range(rounds):
        sigma = max(np.linalg.norm(residual) / np.sqrt(m), 1e-4)
        y = x + columns.T @ residual
        seen = np.exp(-(((y[:, None] - u) / sigma) ** 2) / 2) * density / 400
        off = (1 - density) * np.exp(-((y / sigma) ** 2) / 2)
        total = seen.sum(1) + off + 1e-300
        x = seen @ u / total
        slope = (seen @ u**2 / total - x**2).sum() / sigma**2  # sum of posterior variances over sigma^2
        residual = h - columns @ x + residual * slope / m
    return x


def test_amp_recovers_below_its_threshold_and_not_above():
    """n = 1500, p = .1. The transition of AMP is narrow: .8 and 1.2 of the threshold in n / m are clear of it."""
    n, density, rng = 1500, 0.1, np.random.default_rng(5)
    left = {}
    for share in (0.8, 1.2):
        m = round(n / (share * float(bayes_amp_ratio(density))))
        x = rng.random(n) * (rng.random(n) < density)
        columns = rng.standard_normal((m, n)) / np.sqrt(m)
        left[share] = np.mean((amp(columns, columns @ x, density, 60) - x) ** 2) / np.var(x)
    assert left[0.8] < 1e-3
    assert 1 - left[1.2] == pytest.approx(bayes_amp_r2(1.2 * bayes_amp_ratio(density), density), abs=0.08)


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.3, 4), density=st.floats(0.005, 0.5), magnitudes=st.sampled_from(sorted(MAGNITUDES)))
def test_state_evolution_settles_where_it_is_said_to(share, density, magnitudes):
    """Iterated from knowing nothing; slow only next to the threshold, which is left out by 2%."""
    ratio = share * float(bayes_amp_ratio(density, magnitudes))
    assume(abs(share - 1) > 0.02)
    *_, mean, second = MAGNITUDES[magnitudes]
    variance = density * second - (density * mean) ** 2
    error = variance
    for _ in range(400):
        error = _mmse(max(math.sqrt(ratio * error), 1e-3), density, magnitudes)
    expected = bayes_amp_r2(ratio, density, magnitudes)
    assert 1 - error / variance == pytest.approx(expected, abs=1e-3)
    assert (expected == 1) == (share < 1)


@pytest.mark.parametrize("density", [0.3, 0.05, 0.002])
def test_no_load_holds_more_than_the_threshold(density):
    threshold = float(bayes_amp_ratio(density))
    loads = threshold * np.geomspace(0.5, 30, 40)
    assert np.all(loads * bayes_amp_r2(loads, density) <= threshold * (1 + 1e-6))


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bayes_amp_r2(0, 0.1), "bayes_amp_r2: ratio must lie in (0, inf), got 0"),
        (lambda: counting_ratio(0, 1), "counting_ratio: density must lie in (0, 1), got 0"),
        (lambda: counting_ratio(0.5, 0), "counting_ratio: bits must lie in (0, inf), got 0"),
        (lambda: ba_indyk_price_woodruff(10, 0), "ba_indyk_price_woodruff: k must lie in [1, inf), got 0"),
        (lambda: ba_indyk_price_woodruff(10, 6), "ba_indyk_price_woodruff: n / k must lie in [2, inf), got 1.66667"),
        (lambda: ba_indyk_price_woodruff(10, 1, 0.5), "ba_indyk_price_woodruff: C must lie in [1, inf), got 0.5"),
        (lambda: matched_filter_measurements(5, 5), "matched_filter_measurements: n - k must lie in [1, inf), got 0"),
        (lambda: matched_filter_auc(0, 1), "matched_filter_auc: d must lie in [1, inf), got 0"),
        (lambda: pca_r2(0, 1), "pca_r2: n must lie in [1, inf), got 0"),
        (lambda: welch_coherence(1, 0.5), "welch_coherence: m must lie in [1, inf), got 0.5"),
        (lambda: l1_strong_threshold(1), "l1_strong_threshold: delta must lie in (0, 1), got 1"),
        (lambda: l1_threshold_by_faces(0), "l1_threshold_by_faces: delta must lie in (0, 1), got 0"),
        (
            lambda: bayes_amp_ratio(0.1, "cauchy"),
            "bayes_amp_ratio: magnitudes must be one of uniform, boolean, normal, got 'cauchy'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message
