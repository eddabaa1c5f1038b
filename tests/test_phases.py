"""The exact toy phase diagram: the loss against rational arithmetic and sampling, the optimum against all tried."""

import itertools
import subprocess
import sys
from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import differential_evolution

from toysup.checks import InputError
from toysup.theory import configuration, expected_loss, toy_branch, toy_optimum

ANTIPODAL = np.array([[1.0], [-1.0]])
TRIANGLE = np.array([[1.0, 0.0], [-0.5, np.sqrt(0.75)], [-0.5, -np.sqrt(0.75)]])
DENSITIES = np.array([0.01, 0.1, 0.3, 0.6, 1.0])
RATIOS = np.array([0.1, 0.5, 1.0, 3.0])


def random_instance(n, m, rng, scale=0.8):
    return scale * rng.standard_normal((n, m)), 0.3 * rng.standard_normal(n), rng.uniform(0.1, 1, n), rng.random(n)


# ---------------------------------------------------------------------------------------------------- expected loss


def test_closed_forms_for_two_features():
    """By hand: a feature at its mean costs s/3 - s^2/4; antipodal ones E min(x1, x2)^2 = 1/6 each when both are on."""
    s, r = DENSITIES[:, None], RATIOS
    importance = np.stack(np.broadcast_arrays(1.0, r), axis=-1)[None]
    apart, nothing = s / 3 - s**2 / 4, np.zeros((5, 1))
    first, second = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    cases = [
        (first, np.stack([nothing, s / 2], axis=-1), r * apart),
        (second, np.stack([s / 2, nothing], axis=-1), apart),
        (0 * first, np.stack([s / 2, s / 2], axis=-1), (1 + r) * apart),
        (0 * first, np.zeros(2), (1 + r) * s / 3),
        (ANTIPODAL, np.zeros(2), (1 + r) * s**2 / 6),
    ]
    for weights, biases, loss in cases:
        assert expected_loss(weights, biases, s, importance) == pytest.approx(np.broadcast_to(loss, (5, 4)), rel=1e-12)
    assert expected_loss(np.eye(2), np.zeros(2), 0.3, np.ones(2)) == 0


def test_closed_forms_for_three_features():
    s, importance = 0.37, np.array([1.0, 0.6, 2.0])
    pair_and_one = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert expected_loss(pair_and_one, np.zeros(3), s, importance) == pytest.approx(1.6 * s**2 / 6, rel=1e-12)
    two = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert expected_loss(two, [0, 0, s / 2], s, importance) == pytest.approx(2 * (s / 3 - s**2 / 4), rel=1e-12)


def rational_moment(offset, slopes, power):
    """Mean over the unit cube of relu(offset + slopes . x)^power, by inclusion-exclusion over corners, exactly."""
    slopes = [slope for slope in slopes if slope]
    total = Fraction(0)
    for corner in itertools.product((0, 1), repeat=len(slopes)):
        u = offset + sum(slope for slope, one in zip(slopes, corner, strict=True) if one)
        if u > 0:
            total += (-1) ** (len(slopes) - sum(corner)) * u ** (power + len(slopes))
    for slope in slopes:
        total /= slope
    return total * Fraction(factorial(power), factorial(power + len(slopes)))


def rational_loss(gram, biases, density, importance):
    total = Fraction(0)
    n = len(biases)
    for support in itertools.product((0, 1), repeat=n):
        probability = Fraction(1)
        for p, on in zip(density, support, strict=True):
            probability *= p if on else 1 - p
        for i in range(n):
            slopes = [gram[i][j] for j in range(n) if support[j]]
            loss = rational_moment(biases[i], slopes, 2)
            if support[i]:
                others = [gram[i][j] for j in range(n) if support[j] and j != i]
                own = gram[i][i]
                if own:  # by parts
                    ends = rational_moment(biases[i] + own, others, 2) - rational_moment(biases[i], slopes, 2)
                    overlap = ends / 2 / own
                else:
                    overlap = rational_moment(biases[i], others, 1) / 2
                loss += Fraction(1, 3) - 2 * overlap
            total += probability * importance[i] * loss
    return float(total)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("small", [1.0, 1e-2, 1e-5, 1e-9, 0.0])
def test_loss_matches_rational_arithmetic(n, small):
    """Slopes of very different sizes are where inclusion-exclusion in floats would lose all digits."""
    rng = np.random.default_rng(n)
    for trial in range(4):
        # Multiples of 1/8, one row times a power of two near `small`: W W^T is exact in floats.
        weights = rng.integers(-10, 11, (n, 2)) / 8
        weights[-1] *= 2.0 ** round(np.log2(small)) if small else 0.0
        biases = np.round(8 * rng.uniform(-0.6, 0.4, n)) / 8 * (small if trial == 3 else 1.0)
        density, importance = rng.integers(1, 9, n) / 8, rng.integers(1, 9, n) / 8
        exact = [[Fraction(float(v)) for v in row] for row in (weights @ weights.T)]
        vectors = ([Fraction(float(v)) for v in vector] for vector in (biases, density, importance))
        loss = rational_loss(exact, *vectors)
        # Promised: 1e-15 times (sum of importances) (1 + |b| + |W W^T|)^2, here up to about 200.
        assert expected_loss(weights, biases, density, importance) == pytest.approx(loss, abs=2e-13, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_loss_matches_sampling(n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        weights, biases, density, importance = random_instance(n, n - 1, rng)
        x = rng.random((100_000, n)) * (rng.random((100_000, n)) < density)
        losses = np.maximum(x @ weights @ weights.T + biases, 0) - x
        losses = losses**2 @ importance
        error = losses.std() / np.sqrt(len(losses))
        assert abs(expected_loss(weights, biases, density, importance) - losses.mean()) < 5 * error


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 4), m=st.integers(1, 3))
def test_loss_sees_neither_the_order_of_features_nor_rotations(seed, n, m):
    rng = np.random.default_rng(seed)
    weights, biases, density, importance = random_instance(n, m, rng)
    loss = expected_loss(weights, biases, density, importance)
    order, rotation = rng.permutation(n), np.linalg.qr(rng.standard_normal((m, m)))[0]
    permuted = expected_loss(weights[order], biases[order], density[order], importance[order])
    rotated = expected_loss(weights @ rotation, biases, density, importance)
    assert permuted == pytest.approx(loss, rel=1e-11) and rotated == pytest.approx(loss, rel=1e-11)


def test_loss_is_linear_in_importance():
    rng = np.random.default_rng(0)
    weights, biases, density, importance = random_instance(3, 2, rng)
    each = expected_loss(weights, biases, density[None], np.eye(3))
    assert expected_loss(weights, biases, density, importance) == pytest.approx(importance @ each, rel=1e-12)


def test_a_stack_equals_each_alone():
    rng = np.random.default_rng(0)
    weights, biases = rng.standard_normal((4, 5, 3, 2)), rng.standard_normal((4, 5, 3))
    density, importance = rng.random((4, 1)), rng.random((5, 3))
    stack = expected_loss(weights, biases, density, importance)
    assert stack.shape == (4, 5)
    for i, j in itertools.product(range(4), range(5)):
        assert stack[i, j] == expected_loss(weights[i, j], biases[i, j], density[i, 0], importance[j])
    per_feature = np.broadcast_to(density[..., None], (4, 5, 3))
    assert np.array_equal(expected_loss(weights, biases, per_feature, importance), stack)


# -------------------------------------------------------------------------------------------------- global optimum


@pytest.fixture(scope="module")
def grids():
    """Optima over density x relative importance of the last feature, for (n, m) = (2, 1) and (3, 2)."""
    found = {}
    for n, m in ((2, 1), (3, 2)):
        importance = np.ones((5, 4, n))
        importance[..., -1] = RATIOS
        found[n, m] = importance, toy_optimum(n, m, DENSITIES[:, None], importance)
    return found


def named_solutions(n, m):
    """Weights (n, m) a person would write down; those at 0 are predicted by their mean."""
    if n == 2:
        return [ANTIPODAL, np.array([[1.0], [0]]), np.array([[0], [1.0]]), np.zeros((2, 1)), np.full((2, 1), 0.5**0.5)]
    pairs = [np.eye(3)[list(order)][:, :2] for order in itertools.permutations(range(3))]
    antipodal = [np.array([[1.0, 0], [-1, 0], [0, 1]])[list(order)] for order in itertools.permutations(range(3))]
    return [*pairs, *antipodal, TRIANGLE, np.zeros((3, 2))]


@pytest.mark.parametrize(("n", "m"), [(2, 1), (3, 2)])
def test_optimum_is_never_above_a_named_solution(grids, n, m):
    importance, best = grids[n, m]
    assert expected_loss(best.weights, best.biases, DENSITIES[:, None], importance) == pytest.approx(
        best.loss, rel=1e-9
    )
    for weights in named_solutions(n, m):
        ignored = np.sum(weights**2, axis=-1) == 0
        loss = expected_loss(weights, ignored * DENSITIES[:, None, None] / 2, DENSITIES[:, None], importance)
        assert np.all(best.loss <= loss * (1 + 1e-12))  # rounding


@pytest.mark.parametrize(("n", "m"), [(2, 1), (3, 2)])
def test_no_perturbation_beats_the_optimum(grids, n, m):
    importance, best = grids[n, m]
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.03, 0.5, 2.0):
        weights = best.weights + size * rng.standard_normal((50, *best.weights.shape))
        biases = best.biases + size * rng.standard_normal((50, *best.biases.shape))
        loss = expected_loss(weights, biases, DENSITIES[:, None], importance)
        assert np.all(loss >= best.loss * (1 - 1e-9))  # the descent stops within 1e-12 or so


@pytest.mark.parametrize(("n", "m"), [(2, 1), (3, 2)])
def test_another_optimiser_finds_nothing_lower(grids, n, m):
    """Differential evolution, which needs no gradient and no start; it must also find the optimum itself."""
    importance, best = grids[n, m]
    for cell in ((1, 2), (3, 3)):

        def loss(v, cell=cell):
            v = v.T
            weights, biases = v[..., : n * m].reshape(*v.shape[:-1], n, m), v[..., n * m :]
            return expected_loss(weights, biases, DENSITIES[cell[0]], importance[cell])

        bounds = [(-1.3, 1.3)] * (n * m) + [(-0.5, 0.7)] * n
        found = differential_evolution(
            loss, bounds, vectorized=True, updating="deferred", seed=3, tol=1e-6, maxiter=400
        )
        assert found.fun >= best.loss[cell] * (1 - 1e-9)
        assert found.fun <= best.loss[cell] * (1 + 1e-3)  # it may stop before the bottom


def test_seeds_agree(grids):
    for (n, m), (importance, best) in grids.items():
        other = toy_optimum(n, m, DENSITIES[:, None], importance, starts=8, seed=7)
        assert other.loss == pytest.approx(best.loss, rel=1e-9)
    again = toy_optimum(2, 1, 0.1, [1.0, 0.5])
    assert np.array_equal(again.weights, toy_optimum(2, 1, 0.1, [1.0, 0.5]).weights)


def test_sparse_limit_is_the_antipodal_pair():
    """What tuning saves falls with s: (1+r) s^2/6 is the leading term, here measured at r = 1."""
    s = np.array([0.2, 0.05, 0.01, 1e-3])
    best = toy_optimum(2, 1, s, np.ones((4, 2)))
    share = best.loss / (s**2 / 3)
    assert np.all(np.diff(share) > 0) and np.all(share < 1) and share[-1] > 0.999
    assert np.all(best.name == "superposed")


def test_dense_limit_is_linear():
    """At density 1 the best affine code keeps the more important feature; clipping helps only near equal importance."""
    best = toy_optimum(2, 1, 1.0, [[1.0, 0.5], [1.0, 3.0], [1.0, 1.0]])
    assert best.loss[:2] == pytest.approx([0.5 / 12, 1 / 12], rel=1e-9)
    assert list(best.name[:2]) == ["first", "second"]
    assert 0.998 < best.loss[2] * 12 < 1


def test_phases_are_where_they_should_be(grids):
    names = grids[2, 1][1].name
    assert set(names.ravel()) == {"first", "second", "superposed"}
    assert names[0, 2] == "superposed" and names[3, 0] == "first" and names[3, 3] == "second"
    assert set(grids[3, 2][1].name[:2].ravel()) == {"2-3 antipodal; 1 dedicated", "1-2 antipodal; 3 dedicated"}
    assert grids[3, 2][1].name[3, 0] == "1, 2 dedicated; 3 ignored"


def test_optimal_loss_laws(grids):
    """A minimum of functions that are linear and rising in the importances is concave and rises; width never hurts."""
    r = np.linspace(0.05, 2.0, 12)
    loss = toy_optimum(2, 1, 0.3, np.stack([np.ones(12), r], axis=-1)).loss
    assert np.all(np.diff(loss) > 0) and np.all(np.diff(loss, 2) < 1e-12)
    swapped = toy_optimum(2, 1, 0.3, np.stack([r, np.ones(12)], axis=-1)).loss
    assert swapped == pytest.approx(loss, rel=1e-9)
    once, thrice = toy_optimum(2, 1, 0.3, [[1.0, 0.5], [3.0, 1.5]]).loss
    assert thrice == pytest.approx(3 * once, rel=1e-9)
    by_width = [float(toy_optimum(3, m, 0.3, np.ones(3)).loss) for m in (1, 2, 3, 4)]
    assert by_width[0] > by_width[1] > by_width[2] + 0.01
    assert by_width[2:] == pytest.approx([0, 0], abs=1e-12)  # as many dimensions as features: nothing is lost


def test_per_feature_density():
    """Two features that are nearly always on cannot share a dimension; one that is rare can share it with either."""
    assert toy_optimum(2, 1, [0.9, 0.9], [1.0, 0.9]).name == "first"
    best = toy_optimum(2, 1, [0.9, 0.05], np.ones(2))
    assert best.name == "superposed"
    assert toy_optimum(2, 1, [0.05, 0.9], np.ones(2)).loss == pytest.approx(best.loss, rel=1e-9)


def test_five_sparse_features_in_a_plane_make_a_pentagon():
    best = toy_optimum(5, 2, 0.05, np.ones(5))
    unit = best.weights / np.linalg.norm(best.weights, axis=1, keepdims=True)
    cosines = np.sort(unit @ unit.T, axis=1)
    angles = np.cos(2 * np.pi * np.array([2, 2, 1, 1, 0]) / 5)
    assert cosines == pytest.approx(np.tile(angles, (5, 1)), abs=1e-4)  # loss is quadratic: 1e-8 of it


def circle(order):
    """Unit vectors (n, 2) at equal angles, the features in this order around the circle."""
    angle = 2 * np.pi * np.argsort(order) / len(order)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def test_the_best_pentagon_is_found_among_all_orders():
    """With unequal importances the 12 orders around the circle are 12 local minima of different loss."""
    importance = 0.9 ** np.arange(5)
    orders = [(0, *rest) for rest in itertools.permutations(range(1, 5)) if rest[0] < rest[-1]]
    assert len(orders) == 12
    bias = np.full(5, -0.2)
    losses = np.array([toy_branch(1.1 * circle(order), bias, 0.1, importance[None]).loss[0] for order in orders])
    assert np.ptp(losses) > 1e-3 * losses.min()
    assert toy_optimum(5, 2, 0.1, importance).loss == pytest.approx(losses.min(), rel=1e-6)


def test_a_branch_stays_in_its_geometry_until_that_is_no_minimum():
    """n = 2, m = 1: at low density the antipodal pair is a minimum; at importance 0 of the second it cannot be."""
    ratio = np.array([1.0, 0.5, 0.2, 0.0])
    importance = np.stack([np.ones(4), ratio], axis=-1)
    pair = toy_branch(ANTIPODAL, np.zeros(2), 0.1, importance)
    assert pair.loss.shape == (4,) and pair.weights.shape == (4, 2, 1) and pair.biases.shape == (4, 2)
    assert list(pair.name[:2]) == ["superposed"] * 2
    best = toy_optimum(2, 1, 0.1, importance)
    assert pair.loss[:2] == pytest.approx(best.loss[:2], rel=1e-6)
    assert np.all(pair.loss >= best.loss * (1 - 1e-9)) and pair.loss[-1] == pytest.approx(best.loss[-1], abs=1e-9)
    again = expected_loss(pair.weights, pair.biases, 0.1, importance)
    assert again == pytest.approx(pair.loss, rel=1e-9, abs=1e-12)


def test_a_branch_follows_a_worse_minimum_and_leaves_a_saddle():
    """Five equal sparse features: two digons are a local minimum twice as bad as the pentagon; no weights at all
    are a stationary point that the nudge leaves."""
    digons = np.array([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    bias = np.array([0.025, 0, 0, 0, 0])
    equal = np.ones((2, 5))
    held = toy_branch(digons, bias, 0.05, equal)
    assert np.all(held.loss > 1.5 * toy_optimum(5, 2, 0.05, np.ones(5)).loss)
    assert np.linalg.norm(held.weights[:, 0], axis=-1) == pytest.approx(0, abs=1e-3)
    nothing = np.zeros((5, 2)), np.full(5, 0.025)
    still = toy_branch(*nothing, 0.05, equal[:1], nudge=0)
    assert still.name[0] == "none" and still.loss[0] == pytest.approx(5 * (0.05 / 3 - 0.05**2 / 4), rel=1e-9)
    assert toy_branch(*nothing, 0.05, equal[:1]).loss[0] < 0.5 * still.loss[0]


def test_wrong_solutions_score_worse(grids):
    """Positive control: the tests above can tell a wrong sign, a missing bias and a doubled weight from the optimum."""
    importance, best = grids[2, 1]
    sparse = DENSITIES[:2, None], importance[:2]
    weights, biases = best.weights[:2], best.biases[:2]
    for wrong in ((np.abs(weights), biases), (2 * weights, biases), (weights, biases + 0.3)):
        assert np.all(expected_loss(*wrong, *sparse) > 1.2 * best.loss[:2])


# ------------------------------------------------------------------------------------------------------------ names

NAMED = [
    ([[1.0], [-1.0]], "superposed"),
    ([[0.8], [0.9]], "aligned"),
    ([[1.0], [0.2]], "first"),
    ([[-0.1], [-1.0]], "second"),
    ([[0.1], [0.3]], "none"),
    ([[1.0, 0.1], [0.1, 1.0], [0.2, 0.0]], "1, 2 dedicated; 3 ignored"),
    ([[0.9, 0.0], [0.0, 1.0], [-1.1, 0.1]], "1-3 antipodal; 2 dedicated"),
    (TRIANGLE, "1-2-3 triangle"),
    ([[0.0, 0.0], [0.0, 1.0], [0.1, 0.0]], "2 dedicated; 1, 3 ignored"),
    ([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]], "1-2-3 entangled"),
    ([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], "1-2 aligned; 3 dedicated"),
    ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], "1-2 antipodal; 3-4 antipodal"),
    (np.zeros((3, 2)), "none"),
]


@pytest.mark.parametrize(("weights", "name"), NAMED)
def test_names(weights, name):
    weights = np.array(weights)
    assert configuration(weights) == name and isinstance(configuration(weights), str)
    m = weights.shape[1]
    rng = np.random.default_rng(0)
    rotations = np.linalg.qr(rng.standard_normal((2, 3, m, m)))[0]
    jitter = 0.02 * rng.standard_normal((2, 3, *weights.shape))  # training noise leaves the name
    named = configuration(weights @ rotations + jitter)
    assert named.shape == (2, 3) and np.all(named == name)


def test_theory_needs_no_torch():
    code = "import sys, toysup.theory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy_optimum(0, 1, 0.1, [1]), "toy_optimum: n_features must be a whole number >= 1, got 0"),
        (lambda: toy_optimum(2, 1.5, 0.1, [1, 1]), "toy_optimum: width must be a whole number >= 1, got 1.5"),
        (lambda: toy_optimum(9, 2, 0.1, np.ones(9)), "toy_optimum: n_features must be at most 8, got 9"),
        (lambda: toy_optimum(2, 1, 1.5, [1, 1]), "toy_optimum: density must lie in (0, 1], got 1.5"),
        (lambda: toy_optimum(2, 1, 0.1, [1, -1]), "toy_optimum: importance must lie in [0, inf), got -1"),
        (lambda: toy_optimum(2, 1, 0.1, [1, 1, 1]), "toy_optimum: importance must have shape (..., 2), got (3,)"),
        (
            lambda: toy_optimum(2, 1, [0.1, 0.2, 0.3], [1, 1]),
            "toy_optimum: density must be one number or (..., 2) numbers per instance, got shape (3,)",
        ),
        (
            lambda: toy_optimum(2, 1, np.full(3, 0.1), np.ones((4, 2))),
            "toy_optimum: leading axes must broadcast, got (3,), (4,)",
        ),
        (
            lambda: expected_loss(np.ones(2), np.ones(2), 0.1, np.ones(2)),
            "expected_loss: weights must have shape (..., n, m), got (2,)",
        ),
        (
            lambda: expected_loss(np.ones((2, 1)), np.ones(3), 0.1, np.ones(2)),
            "expected_loss: biases must have shape (..., 2), got (3,)",
        ),
        (
            lambda: toy_branch(np.ones(2), np.ones(2), 0.1, np.ones((1, 2))),
            "toy_branch: expected weights (n, m) and biases (n,), got (2,) and (2,)",
        ),
        (
            lambda: toy_branch(ANTIPODAL, np.zeros(2), 0.1, np.ones((2, 3, 2))),
            "toy_branch: expected one path of settings, got leading axes (2, 3)",
        ),
        (
            lambda: toy_branch(ANTIPODAL, np.zeros(2), 0.1, np.ones((2, 2)), nudge=-1),
            "toy_branch: nudge must lie in [0, inf], got -1",
        ),
        (lambda: configuration([1.0]), "configuration: weights must have shape (..., n, m), got (1,)"),
        (lambda: configuration(np.eye(2), 0), "configuration: represented must lie in (0, inf), got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message
