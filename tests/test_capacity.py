"""The quadratic model's theory: its loss by sampling-free integration, its optimum by minimisation, its regions."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from toysup.checks import InputError
from toysup.geometry import dimensionality
from toysup.theory import capacity_loss, capacity_optimum, capacity_regions


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def integrated(W, b, v, k):
    """E (y - y')^2 over every support of signed booleans of density 1/k and value +-sqrt(k), one by one."""
    n, p, total = len(v), 1 / k, 0.0
    for signs in itertools.product((-1, 0, 1), repeat=n):
        signs = np.array(signs)
        weight = np.prod(np.where(signs == 0, 1 - p, p / 2))
        x = signs / np.sqrt(p)
        total += weight * (v @ x**2 - ((x @ W) ** 2).sum() - b) ** 2
    return total


def minimised(m, v, k, rng):
    """The least loss by minimising over W and b from random starts, and the capacities there."""
    n, best = len(v), None

    def loss(theta):
        W = theta[:-1].reshape(n, m)
        gram = W @ W.T
        missed = v - np.diag(gram)
        off = gram - np.diag(np.diag(gram))
        rest = missed.sum() - theta[-1]
        value = (k - 1) * missed @ missed + 2 * (off**2).sum() + rest**2
        slope = -4 * (k - 1) * missed[:, None] * W + 8 * off @ W - 4 * rest * W
        return value, np.append(slope.ravel(), -2 * rest)

    for _ in range(60 if k < 3 else 8):  # below 3 other choices of m features are local minima
        start = np.append(rng.normal(size=n * m) * 0.5, 0)
        found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
        best = found if best is None or found.fun < best.fun else best
    W = best.x[:-1].reshape(n, m)
    return best.fun, dimensionality(torch.from_numpy(W)).numpy()


@pytest.mark.parametrize("n, m, k", [(2, 1, 1.0), (2, 1, 5.0), (3, 2, 2.0), (4, 3, 20.0)])
def test_the_loss_is_that_of_every_support_summed(n, m, k, rng):
    W, b, v = rng.normal(size=(n, m)), rng.normal(), rng.uniform(0, 2, n)
    assert capacity_loss(W, b, v, k) == pytest.approx(integrated(W, b, v, k), rel=1e-12)


def test_losses_broadcast(rng):
    W, b, v, k = rng.normal(size=(4, 1, 3, 2)), rng.normal(size=5), rng.uniform(0, 2, (5, 3)), rng.uniform(1, 9, (4, 5))
    together = capacity_loss(W, b, v, k)
    assert together.shape == (4, 5)
    assert together[2, 3] == pytest.approx(capacity_loss(W[2, 0], b[3], v[3], k[2, 3]))


@pytest.mark.parametrize("n, m", [(2, 1), (5, 2), (6, 4)])
@pytest.mark.parametrize("k", [1.5, 3.0, 4.0, 12.0, 100.0])
def test_the_optimum_is_what_minimisation_finds(n, m, k, rng):
    """And its capacities: those of the best W are unique where k > 3. BFGS stops within about 1e-8 of the minimum."""
    v = 0.8 ** np.arange(n) * rng.uniform(0.9, 1, n)
    optimum = capacity_optimum(m, v, k)
    loss, capacity = minimised(m, v, k, rng)
    assert loss == pytest.approx(optimum.loss, rel=1e-7, abs=1e-9)
    assert capacity == pytest.approx(optimum.capacity, abs=2e-3)  # at a bend the loss is flat to second order


def test_no_weights_beat_the_optimum(rng):
    for n, m, k in [(3, 1, 2.0), (6, 3, 8.0), (12, 4, 40.0)]:
        v = rng.uniform(0, 1, n)
        W = rng.normal(size=(2000, n, m)) * rng.uniform(0.1, 1, (2000, 1, 1))
        own = (W**2).sum(-1)
        assert (capacity_loss(W, (v - own).sum(-1), v, k) >= capacity_optimum(m, v, k).loss).all()


@pytest.mark.parametrize("k", [1.5, 3.0, 3.001, 5.0, 30.0])
def test_two_features_share_one_dimension_between_the_two_boundaries(k):
    low, high = 2 / (k - 1), (k - 1) / 2
    for ratio in np.geomspace(0.02, 50, 41):
        capacity = capacity_optimum(1, [1, ratio], k).capacity
        assert capacity.sum() == pytest.approx(1, abs=1e-12)
        assert (0 < capacity[1] < 1) == (low < ratio < high)
        if low < ratio < high:
            own = (1 - low * ratio) / (1 - low**2)  # the stationary point of the loss in (G_11, G_22), solved directly
            assert capacity_optimum(1, [1, ratio], k).squared_norm[0] == pytest.approx(own)


def test_capacities_are_one_ramp_in_importance_and_fill_the_width(rng):
    v, k = np.sort(rng.uniform(0.01, 1, (50, 9)))[:, ::-1], rng.uniform(1, 50, 50)
    optimum = capacity_optimum(3, v, k)
    assert optimum.capacity.sum(-1) == pytest.approx(3, abs=1e-9)
    assert (np.diff(optimum.capacity) <= 1e-12).all()
    shared, price = (optimum.capacity > 0) & (optimum.capacity < 1), optimum.price[:, None]
    assert np.array_equal(shared.any(-1), k > 3)
    inside = (v < price) & (v > 2 * price / (k[:, None] - 1))
    assert np.array_equal(shared, inside & (k > 3)[:, None])
    assert np.isnan(optimum.price[k <= 3]).all()


def test_rising_kurtosis_shares_more_and_in_the_limit_in_proportion_to_importance():
    v = 0.7 ** np.arange(8)
    capacity = capacity_optimum(2, v, np.array([2.0, 4.0, 8.0, 30.0, 1e9])).capacity
    counts = ((capacity > 0) & (capacity < 1)).sum(-1)
    assert counts[0] == 0 and (np.diff(counts) >= 0).all() and counts[-1] >= 7
    below = capacity[-1][capacity[-1] < 1]
    assert below / v[-len(below) :] == pytest.approx(below[0] / v[-len(below)], rel=1e-6)


@pytest.mark.parametrize("k", [2.0, 10.0])
def test_where_there_is_room_everything_has_a_dimension(k):
    optimum = capacity_optimum(3, [[0.5, 1, 0.2], [0, 1, 0.2]], k)
    assert optimum.capacity.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert optimum.loss.tolist() == [0, 0] and np.isnan(optimum.price).all()


def test_equal_features_form_a_tight_frame():
    """n equal features in m < n dimensions: each gets m / n, and the loss is that of an explicit frame."""
    n, m, k = 5, 2, 9.0
    optimum = capacity_optimum(m, np.ones(n), k)
    assert optimum.capacity == pytest.approx(np.full(n, m / n))
    angle = 2 * np.pi * np.arange(n) / n
    W = np.sqrt(optimum.squared_norm)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert capacity_loss(W, n - (W**2).sum(), np.ones(n), k) == pytest.approx(optimum.loss)
    assert dimensionality(torch.from_numpy(W)).numpy() == pytest.approx(optimum.capacity)


def test_the_sum_reaches_the_rank_only_where_blocks_are_orthogonal_tight_frames(rng):
    loose = torch.from_numpy(rng.normal(size=(200, 7, 3)))
    sums = dimensionality(loose).sum(-1)
    assert (sums <= 3 + 1e-12).all() and (sums < 2.99).all()
    tight = torch.linalg.qr(loose)[0] * torch.from_numpy(rng.uniform(0.5, 2, (200, 1, 1)))  # columns orthogonal, equal
    blocks = torch.block_diag(*tight[:2], 1.7 * torch.eye(2, dtype=torch.float64))
    assert dimensionality(tight).sum(-1).numpy() == pytest.approx(3)
    assert dimensionality(blocks).sum().item() == pytest.approx(8)


def test_regions():
    assert capacity_regions([0, 1e-9, 0.5, 1]).tolist() == [0, 1, 1, 2]
    assert capacity_regions([0.05, 0.06, 0.94, 0.96], 0.05).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: capacity_optimum(0, [1, 1], 5), ["width", "0"]),
        (lambda: capacity_optimum(1, [1, -1], 5), ["importance", "-1"]),
        (lambda: capacity_optimum(1, [1, 1], 0.5), ["kurtosis", "0.5"]),
        (lambda: capacity_optimum(1, 1.0, 5), ["importance", "one number"]),
        (lambda: capacity_optimum(1, np.ones((3, 2)), np.ones(2)), ["broadcast"]),
        (lambda: capacity_loss(np.ones((2, 1)), 0, np.ones(3), 2), ["(2, 1)", "(3,)"]),
        (lambda: capacity_regions([0.5], 0.5), ["tolerance", "0.5"]),
    ],
)
def test_bad_input_is_refused_in_one_line(make, names):
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in names)
