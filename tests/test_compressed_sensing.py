"""Theory without training: anchors computed before, oracles that do the same the slow way, laws between them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize, minimize_scalar
from scipy.stats import norm

from toysup.checks import InputError
from toysup.theory import (
    bayes_amp_ratio,
    elhage_ratio,
    inverse_density,
    l1_ratio,
    l1_weak_threshold,
    one_step_r2,
    one_step_r2_gaussian,
    one_step_ratio,
    random_frame,
    welch_coherence,
)

DENSITIES = np.array([0.1, 0.05, 0.02, 0.01, 0.001])
TABLE = {  # n/m by reference: computed independently before this code was written, to the digits printed
    "elhage": (elhage_ratio, [4.34, 6.68, 12.78, 21.71, 144.8]),
    "inverse": (inverse_density, [10, 20, 50, 100, 1000]),
    "l1": (lambda p: l1_ratio(p, nonnegative=False), [3.04, 4.90, 9.60, 16.3, 105.7]),
    "l1 non-negative": (l1_ratio, [3.77, 5.99, 11.45, 19.2, 118.8]),
    "one-step .25": (lambda p: one_step_ratio(p, 0.25), [6.75, 9.67, 17.2, 28.1, 175.4]),
    "one-step .5": (lambda p: one_step_ratio(p, 0.5), [3.73, 5.41, 9.77, 16.2, 106.4]),
    "one-step .9": (lambda p: one_step_ratio(p, 0.9), [1.49, 1.85, 2.81, 4.24, 24.97]),
}


def digit(value):
    """The last printed digit of a table entry."""
    text = repr(value)
    return 10.0 ** -len(text.split(".")[1]) if "." in text else 1.0


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    function, printed = TABLE[name]
    for value, anchor in zip(function(DENSITIES), printed, strict=True):
        assert abs(value - anchor) <= 0.65 * digit(anchor)  # half a digit of rounding, and some for the anchor's own


def test_bayes_amp_table():
    """The anchors came from a coarser search over sigma, so they may be a whole digit off."""
    for value, anchor in zip(bayes_amp_ratio(DENSITIES), [5.33, 8.92, 18.2, 31.8, 222.7], strict=True):
        assert abs(value - anchor) <= digit(anchor)


def test_order_of_the_references():
    p = np.geomspace(1e-3, 0.9, 12)
    signed, positive, bayes = l1_ratio(p, nonnegative=False), l1_ratio(p), bayes_amp_ratio(p)
    assert np.all((signed > 1) & (signed < positive) & (positive < bayes) & (bayes <= 1 / p))
    for ratio in (signed, positive, bayes, one_step_ratio(p, 0.5)):
        assert np.all(np.diff(ratio) < 0)  # denser features, fewer of them
    assert elhage_ratio(1.0) == np.inf and l1_ratio(1.0) == pytest.approx(1) and bayes_amp_ratio(1.0) == 1


# ------------------------------------------------------------------------------------------------ l1 weak threshold


@pytest.mark.parametrize(
    ("nonnegative", "printed"), [(False, [0.189429, 0.267384, 0.385690]), (True, [0.240976, 0.365089, 0.558228])]
)
def test_weak_threshold_anchors(nonnegative, printed):
    assert l1_weak_threshold([0.1, 0.25, 0.5], nonnegative) == pytest.approx(printed, abs=6e-7)  # six printed digits


@settings(max_examples=25, deadline=None)
@given(delta=st.floats(0.01, 0.99), nonnegative=st.booleans())
def test_both_forms_of_the_weak_threshold_agree(delta, nonnegative):
    kappa = 1 if nonnegative else 2
    g = lambda z: (1 + z**2) * norm.cdf(-z) - z * norm.pdf(z)  # noqa: E731
    rho = -minimize_scalar(
        lambda z: -(1 - kappa / delta * g(z)) / (1 + z**2 - kappa * g(z)), bounds=(1e-3, 8), method="bounded"
    ).fun
    assert l1_weak_threshold(delta, nonnegative) == pytest.approx(rho, rel=1e-6)
    p = rho * delta
    least = minimize_scalar(lambda z: p * (1 + z**2) + (1 - p) * kappa * g(z), bounds=(1e-3, 8), method="bounded").fun
    assert least == pytest.approx(delta, rel=1e-6)
    assert l1_ratio(p, nonnegative) == pytest.approx(1 / delta, rel=1e-5)


def test_linear_programming_succeeds_below_the_threshold_and_fails_above():
    """n = 150, m = 50: the transition is about n^(-1/2) = 8% wide, so 0.6 and 1.4 of the threshold are clear of it."""
    n, m = 150, 50
    rng = np.random.default_rng(0)
    threshold = m * l1_weak_threshold(m / n)
    recovered = {}
    for load in (0.6, 1.4):
        right = 0
        for _ in range(6):
            matrix, x = rng.standard_normal((m, n)), np.zeros(n)
            x[rng.choice(n, round(load * threshold), replace=False)] = rng.random(round(load * threshold))
            solution = linprog(np.ones(n), A_eq=matrix, b_eq=matrix @ x, bounds=(0, None))
            right += bool(np.max(np.abs(solution.x - x)) < 1e-6)
        recovered[load] = right
    assert recovered[0.6] >= 5 and recovered[1.4] <= 1


# -------------------------------------------------------------------------------------------------- one-step decoding


def sampled_decode(z, x):
    """R^2 of the best relu(a z - b) found by a general optimiser, and its standard error."""
    starts = [(1.0, 0.0), (0.5, 0.1), (0.2, -0.1), (1.0, 0.4)]
    loss = lambda ab: np.mean((np.maximum(ab[0] * z - ab[1], 0) - x) ** 2)  # noqa: E731
    best = min((minimize(loss, start, method="Nelder-Mead") for start in starts), key=lambda found: found.fun)
    error = (np.maximum(best.x[0] * z - best.x[1], 0) - x) ** 2
    return 1 - best.fun / x.var(), np.std(error - best.fun / x.var() * (x - x.mean()) ** 2) / x.var() / np.sqrt(x.size)


@pytest.mark.parametrize(
    ("ratio", "density", "frame"), [(3.0, 0.1, "tight"), (6.0, 0.5, "random"), (1.5, 1.0, "tight")]
)
def test_gaussian_form_matches_sampling(ratio, density, frame):
    rng = np.random.default_rng(1)
    x = rng.random(100_000) * (rng.random(100_000) < density)
    variance = density / 3 - density**2 / 4
    z = x + np.sqrt(variance * (ratio - (frame == "tight"))) * rng.standard_normal(x.size)
    r2, error = sampled_decode(z, x)
    assert abs(one_step_r2_gaussian(ratio, density, frame) - r2) < 5 * error  # five standard errors


def test_gaussian_form_laws():
    p = np.array([0.01, 0.2, 1.0])[:, None]
    ratio = np.geomspace(1.01, 300, 25)
    r2 = one_step_r2_gaussian(ratio, p)
    assert np.all(np.diff(r2, axis=1) < 0) and np.all(r2 > 0)
    # Never below the linear decode of z, whose R^2 is 1/(n/m) in a tight frame; 1e-9 for the search's finite steps.
    assert np.all(r2 >= 1 / ratio - 1e-9)
    assert one_step_r2_gaussian(1.0, 0.1) == pytest.approx(1)
    # The two frames differ by one feature per dimension.
    assert one_step_r2_gaussian(ratio - 1, p, "random") == pytest.approx(r2, abs=1e-12)
    assert one_step_ratio(p, 0.3, "random") == pytest.approx(one_step_ratio(p, 0.3) - 1, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(density=st.floats(1e-3, 1), r2=st.floats(0.05, 0.95))
def test_ratio_inverts_r2(density, r2):
    # 1e-8: the threshold is found to 2e-6 of its range, and the loss is quadratic about it.
    assert one_step_r2_gaussian(one_step_ratio(density, r2), density) == pytest.approx(r2, abs=1e-8)


@pytest.mark.parametrize(("n", "m", "density", "frame"), [(30, 10, 0.1, "random"), (24, 6, 0.05, "tight")])
def test_monte_carlo_matches_explicit_decoding(n, m, density, frame):
    """The slow way: whole activations, each feature's mean interference taken off, a Nelder-Mead (a, b) per frame."""
    rng = np.random.default_rng(2)
    values = []
    for _ in range(12):
        columns = random_frame(n, m, rng, frame)
        x = rng.random((4000, n)) * (rng.random((4000, n)) < density)
        gram = columns.T @ columns
        z = x @ gram - density / 2 * (gram.sum(axis=1) - 1)
        values.append(sampled_decode(z, x)[0])
    found = one_step_r2(n, m, density, frame=frame)
    spread = np.hypot(np.std(values, ddof=1) / np.sqrt(len(values)), found.standard_error)
    assert abs(np.mean(values) - found.r2) < 5 * spread
    assert found.standard_error < 0.01


def test_monte_carlo_tends_to_the_gaussian_form():
    """150 active features at a time: the interference is a sum of many. 0.01 is a few standard errors and 1/n terms."""
    for frame in ("random", "tight"):
        found = one_step_r2(512, 64, 0.3, frame=frame)
        assert found.r2 == pytest.approx(one_step_r2_gaussian(8.0, 0.3, frame), abs=0.01)


def test_gaussian_form_is_optimistic_when_few_are_active():
    found = one_step_r2(256, 32, 0.005)
    assert found.r2 < one_step_r2_gaussian(8.0, 0.005, "random") - 0.05


def test_monte_carlo_is_seeded_and_knows_its_error():
    assert one_step_r2(40, 8, 0.1, seed=3) == one_step_r2(40, 8, 0.1, seed=3)
    found = [one_step_r2(40, 8, 0.1, samples=100, frames=8, seed=seed) for seed in range(30)]
    ratio = np.std([one.r2 for one in found], ddof=1) / np.mean([one.standard_error for one in found])
    assert 0.6 < ratio < 1.6  # a spread from 30 draws is known to 13%, so this is more than four of those either way


def test_monte_carlo_without_interference():
    assert one_step_r2(1, 1, 0.2).r2 == pytest.approx(1, abs=1e-6)
    assert one_step_r2(5, 8, 0.2, frame="tight").r2 == pytest.approx(1, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(("n", "m"), [(6, 3), (40, 7), (300, 20), (3, 5)])
def test_frames(n, m):
    columns = random_frame(n, m, np.random.default_rng(n), "tight")
    gram = columns.T @ columns
    assert np.diag(gram) == pytest.approx(np.ones(n), abs=1e-9)
    interference = np.sum(gram**2, axis=1) - 1
    assert interference == pytest.approx(np.full(n, max(n / m - 1, 0)), abs=1e-4)  # stopped at 1e-6 relative
    coherence = np.max(np.abs(gram - np.diag(np.diag(gram))))
    assert coherence >= welch_coherence(n, m) - 1e-9
    loose = random_frame(n, m, np.random.default_rng(n))
    assert np.linalg.norm(loose, axis=0) == pytest.approx(np.ones(n))


def test_welch_is_reached_by_simplices():
    m = np.arange(1, 9)
    assert welch_coherence(m + 1, m) == pytest.approx(1 / m)
    assert np.all(welch_coherence(m, m) == 0) and welch_coherence(1, 5) == 0


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: elhage_ratio(1.5), "elhage_ratio: density must lie in (0, 1], got 1.5"),
        (lambda: inverse_density(0), "inverse_density: density must lie in (0, 1], got 0"),
        (lambda: l1_ratio([0.1, np.nan]), "l1_ratio: density must lie in (0, 1], got nan"),
        (lambda: l1_weak_threshold(-0.1), "l1_weak_threshold: delta must lie in (0, 1], got -0.1"),
        (lambda: bayes_amp_ratio(1e-9), "bayes_amp_ratio: density must lie in [1e-05, 1], got 1e-09"),
        (lambda: welch_coherence(0, 1), "welch_coherence: n must lie in [1, inf), got 0"),
        (lambda: one_step_ratio(0.1, 1.0), "one_step_ratio: r2 must lie in (0, 1), got 1"),
        (lambda: one_step_ratio(0.1, 0.5, "loose"), "one_step_ratio: frame must be one of tight, random, got 'loose'"),
        (lambda: one_step_r2_gaussian(0.5, 0.1), "one_step_r2_gaussian: ratio must lie in [1, inf), got 0.5"),
        (lambda: one_step_r2(-3, 2, 0.1), "one_step_r2: n must be a whole number >= 1, got -3"),
        (lambda: one_step_r2(3, 2.0, 0.1), "one_step_r2: m must be a whole number >= 1, got 2.0"),
        (lambda: one_step_r2(3, 2, 2), "one_step_r2: density must lie in (0, 1], got 2"),
        (lambda: one_step_r2(3, 2, 0.1, frames=1), "one_step_r2: frames must be a whole number >= 2, got 1"),
        (lambda: one_step_r2(3, 2, 0.1, samples=0), "one_step_r2: samples must be a whole number >= 1, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message
