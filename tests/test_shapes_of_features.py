"""Which polytope features form: known shapes, turned, shuffled, stretched and disturbed; and what is none."""

import itertools

import numpy as np
import pytest

from toysup.checks import InputError
from toysup.geometry import arrangements, clusters, polytopes, random_directions

RNG = np.random.default_rng(0)


def vectors(name, width=None, rng=RNG):
    """Unit vectors with a polytope's Gram matrix, in random orientation and order, within `width` dimensions."""
    values, axes = np.linalg.eigh(polytopes()[name])
    points = (axes * np.sqrt(np.clip(values, 0, None)))[:, values > 1e-9]
    width = width or points.shape[1]
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return rng.permutation(points @ turn[: points.shape[1]])


def beside(*parts):
    """Groups in dimensions of their own."""
    total = sum(part.shape[1] for part in parts)
    at = np.cumsum([0, *(part.shape[1] for part in parts)])
    return np.concatenate([np.pad(p, ((0, 0), (a, total - a - p.shape[1]))) for p, a in zip(parts, at, strict=False)])


KNOWN = {  # vertices, rank
    "point": (1, 1), "digon": (2, 1), "triangle": (3, 2), "pentagon": (5, 2), "hexagon": (6, 2), "heptagon": (7, 2),
    "octagon": (8, 2), "tetrahedron": (4, 3), "square antiprism": (8, 3), "cube": (8, 3), "icosahedron": (12, 3),
}  # fmt: skip


def test_every_polytope_has_alike_vertices_and_its_rank():
    assert set(KNOWN) == set(polytopes())
    for name, gram in polytopes().items():
        vertices, rank = KNOWN[name]
        assert gram.shape == (vertices, vertices) and np.linalg.matrix_rank(gram, tol=1e-9) == rank
        assert np.allclose(np.diag(gram), 1) and np.allclose(gram, gram.T)
        assert np.ptp(np.sort(gram, axis=-1), axis=0).max() < 1e-12


def test_the_antiprisms_edges_are_equal():
    row = np.sort(polytopes()["square antiprism"][0])[::-1]
    assert np.allclose(row[1:5], row[1]) and row[5] < row[1]  # four neighbours at the edge's length


@pytest.mark.parametrize("name", KNOWN)
def test_known_shapes_by_name(name):
    """In any orientation and order, with lengths and angles disturbed."""
    vertices, rank = KNOWN[name]
    rng = np.random.default_rng(1)
    for disturbed in (0, 0.02):
        W = vectors(name, rank + 1, rng) * rng.uniform(0.7, 1.2, (vertices, 1))
        W = W + disturbed * rng.standard_normal(W.shape)
        (group,) = clusters(W[None]).to_dict("records")
        assert (group["name"], group["size"], group["rank"]) == (name, vertices, rank)
        assert group["features"] == tuple(range(vertices)) and group["error"] < 0.06 * (disturbed > 0) + 1e-7


@pytest.mark.parametrize("name", KNOWN)
def test_dimensionality_of_a_tight_frame_is_rank_over_vertices(name):
    vertices, rank = KNOWN[name]
    group = clusters(vectors(name)[None]).iloc[0]
    if name != "square antiprism":  # the one with equal edges is not quite a tight frame
        assert np.isclose(group["dimensionality"], rank / vertices)


def test_no_two_shapes_are_within_the_tolerance():
    for (a, first), (b, second) in itertools.combinations(polytopes().items(), 2):
        if len(first) == len(second):
            assert np.sqrt(np.mean((np.sort(first) - np.sort(second)) ** 2)) > 0.2, (a, b)


def test_the_error_is_that_of_the_best_order_of_vertices():
    """Against all orders, for a disturbed tetrahedron: sorting rows finds at most the true difference, and near it."""
    W = vectors("tetrahedron") + 0.05 * np.random.default_rng(3).standard_normal((4, 3))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    gram, wanted = W @ W.T, polytopes()["tetrahedron"]
    orders = [list(order) for order in itertools.permutations(range(4))]
    true = min(np.sqrt(np.mean((gram[np.ix_(o, o)] - wanted) ** 2)) for o in orders)
    assert np.isclose(clusters(W[None]).iloc[0]["error"], true, rtol=1e-6)


def test_groups_side_by_side_are_found_apart():
    W = beside(vectors("pentagon"), vectors("digon"), vectors("tetrahedron"), vectors("point"), np.zeros((2, 1)))
    order = np.random.default_rng(5).permutation(len(W))
    groups = clusters(np.stack([W, W[order]]))
    for instance, places in enumerate((np.arange(len(W)), order)):
        found = groups[groups["instance"] == instance]
        sets = {name: set(features) for name, features in zip(found["name"], found["features"], strict=True)}
        parts = {"pentagon": range(5), "digon": (5, 6), "tetrahedron": range(7, 11), "point": (11,)}
        assert sets == {name: set(np.flatnonzero(np.isin(places, list(own)))) for name, own in parts.items()}
    assert list(arrangements(np.stack([W, W[order]]))) == ["pentagon, tetrahedron, digon, point, 2 ignored"] * 2


def test_words_for_small_models():
    square = beside(vectors("digon"), vectors("digon"))
    fifth = np.zeros((1, 2))
    octahedron = beside(*[vectors("digon")] * 3)
    assert arrangements(octahedron[None])[0] == "3 digons"
    cases = [vectors("pentagon"), np.concatenate([square, fifth]), np.concatenate([np.eye(2), np.zeros((3, 2))])]
    assert list(arrangements(np.stack(cases))) == ["pentagon", "2 digons, 1 ignored", "2 points, 3 ignored"]
    assert arrangements(np.zeros((1, 3, 2)))[0] == "3 ignored"


def test_what_is_no_polytope_gets_no_name():
    skew = np.array([[1, 0], [0.6, 0.8], [-0.8, 0.6]])  # a right angle and two that are not
    aligned = np.array([[1, 0], [0.98, 0.2], [0, -0.1]])  # side by side; the third is too short to count
    names = clusters(np.stack([skew, aligned])).groupby("instance")["name"].first()
    assert list(names) == ["3-cluster", "2-cluster"]
    random = np.random.default_rng(7).standard_normal((500, 5, 2))
    random /= np.linalg.norm(random, axis=-1, keepdims=True)
    assert (arrangements(random) == "pentagon").mean() < 0.05


def test_instances_do_not_depend_on_their_company(monkeypatch):
    rng = np.random.default_rng(9)
    W = rng.standard_normal((20, 7, 3))
    whole = clusters(W)
    monkeypatch.setattr("toysup.geometry.shapes.ENTRIES", 49 * 3)
    assert clusters(W).equals(whole)
    assert (
        clusters(W[4:5])
        .drop(columns="instance")
        .equals(whole[whole["instance"] == 4].drop(columns="instance").reset_index(drop=True))
    )
    assert len(clusters(np.zeros((0, 5, 2)))) == 0 and len(clusters(np.zeros((3, 5, 2)))) == 0


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        (np.zeros((3, 2)), {}, "shape"),
        (np.full((1, 2, 2), np.nan), {}, "finite"),
        (np.zeros((1, 2, 2)), {"orthogonal": 60}, "orthogonal"),
        (np.zeros((1, 2, 2)), {"represented": 0}, "represented"),
    ],
)
def test_bad_input(weights, options, said):
    with pytest.raises(InputError, match=said):
        clusters(weights, **options)


def test_random_directions_keep_lengths_and_point_everywhere_alike():
    weights = np.abs(RNG.standard_normal((40, 30, 3))) * np.array([5.0, 1.0, 0.1])  # all point one way
    drawn = random_directions(weights)
    assert drawn.shape == weights.shape and np.array_equal(drawn, random_directions(weights))
    assert not np.array_equal(drawn, random_directions(weights, seed=1))
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=-1), np.linalg.norm(weights, axis=-1))
    unit = (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).reshape(-1, 3)
    np.testing.assert_allclose(unit.T @ unit / len(unit), np.eye(3) / 3, atol=5 * np.sqrt(4 / 45 / len(unit)))
    np.testing.assert_allclose(unit.mean(0), 0, atol=5 * np.sqrt(1 / 3 / len(unit)))
    with pytest.raises(InputError, match=r"must have shape \(..., feature, width\), got \(3,\)"):
        random_directions(np.ones(3))
