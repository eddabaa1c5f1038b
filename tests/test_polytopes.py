import numpy as np
import pytest

from toysup.checks import InputError
from toysup.geometry import arrangements, polytopes
from toysup.theory import best_polytope, fit_polytope, toy_optimum


def test_a_point_is_stored_whole():
    fit = fit_polytope([[1.0]], [1.0, 0.5, 0.1])
    p = np.array([1.0, 0.5, 0.1])
    np.testing.assert_allclose(fit.saved, p / 3 - p**2 / 4, rtol=1e-5)  # it loses nothing; ignored it would lose this
    np.testing.assert_allclose(fit.dimensions, 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "n", "m", "p"),
    [("digon", 2, 1, 0.2), ("triangle", 3, 2, 0.8), ("tetrahedron", 4, 3, 0.8), ("pentagon", 5, 2, 0.1)],
)
def test_the_fit_is_the_exact_optimum_where_that_is_the_shape(name, n, m, p):
    fit, optimum = fit_polytope(polytopes()[name], p), toy_optimum(n, m, p, np.ones(n))
    assert arrangements(optimum.weights[None]) == [name]
    saved = (n * (p / 3 - p**2 / 4) - optimum.loss) / m
    assert fit.saved[0] == pytest.approx(saved, rel=1e-5)
    assert fit.dimensions[0] == pytest.approx(m / np.sum(optimum.weights**2), rel=1e-3)


def test_no_shape_saves_more_than_its_features_lose_and_dimensions_approach_rank_over_vertices():
    p = np.array([0.3, 0.01, 0.001])
    for name, rank in (("digon", 1), ("triangle", 2), ("tetrahedron", 3), ("pentagon", 2)):
        gram = polytopes()[name]
        fit, lost = fit_polytope(gram, p), p / 3 - p**2 / 4
        assert (0 < fit.saved).all() and (fit.saved * rank <= len(gram) * lost + 1e-12).all()
        if name != "pentagon":  # the others' features see each other at negative cosines only, which the ReLU removes
            assert fit.dimensions[-1] == pytest.approx(rank / len(gram), rel=0.02)


def test_the_best_shape_packs_more_features_as_they_grow_sparser():
    shapes = {name: gram for name, gram in polytopes().items() if len(gram) <= 5}
    name, dimensions = best_polytope(shapes, [0.4, 0.1])
    assert name.tolist() == ["digon", "pentagon"] and dimensions[0] > dimensions[1]
    assert dimensions[0] == pytest.approx(fit_polytope(shapes["digon"], 0.4).dimensions[0], rel=1e-3)


@pytest.mark.parametrize(
    ("gram", "density", "message"),
    [
        (np.ones((2, 3)), 0.1, "symmetric"),
        (2 * np.eye(2), 0.1, "cosines of unit vectors"),
        ([[1, -2], [-2, 1]], 0.1, "cosines of unit vectors"),
        ([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]], 0.1, "alike"),
        (np.eye(9), 0.1, "at most 8 vertices"),
        ([[1.0]], 0.0, "density must lie in"),
    ],
)
def test_bad_input_is_named(gram, density, message):
    with pytest.raises(InputError, match=message):
        fit_polytope(gram, density)
    with pytest.raises(InputError, match="at least one shape"):
        best_polytope({}, 0.1)
