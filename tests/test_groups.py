"""Angles within and between groups on matrices whose angles are known, and principal components against their laws."""

import numpy as np
import pytest

from toysup.checks import InputError
from toysup.features import Correlated
from toysup.geometry import RELATIONS, group_relations
from toysup.theory import principal_loss, principal_share


def fan(*degrees, length=1.0):
    """Unit vectors in the plane at these angles."""
    turn = np.radians(degrees)
    return length * np.stack([np.cos(turn), np.sin(turn)], -1)


@pytest.mark.parametrize(
    "between, name", [(10, "aligned"), (60, "acute"), (80, "orthogonal"), (120, "obtuse"), (-160, "antipodal")]
)
def test_the_relation_within_a_pair_is_named(between, name):
    row = group_relations(fan(20, 20 + between)[None], 2).iloc[0]
    assert [row[f"within_{kind}"] for kind in RELATIONS] == [float(kind == name) for kind in RELATIONS]
    assert row["within_cosine"] == pytest.approx(np.cos(np.radians(between)))
    assert np.isnan(row["between_size"]) and row["represented"] == 2


def test_two_digons_are_orthogonal_or_antipodal_by_which_features_are_a_pair():
    weights = np.stack([fan(0, 90, 180, 270), fan(0, 180, 90, 270)])
    table = group_relations(weights, 2)
    assert table["within_orthogonal"].tolist() == [1, 0] and table["within_antipodal"].tolist() == [0, 1]
    assert table["between_orthogonal"].tolist() == [0.5, 1] and table["between_antipodal"].tolist() == [0.5, 0]
    assert table["within_cosine"].to_numpy() == pytest.approx([0, -1], abs=1e-12)
    assert table["identity"].to_numpy() == pytest.approx([0, np.sqrt(1 / 2)], abs=1e-12)  # Gram is 1, -1; -1, 1


def test_features_too_short_to_be_represented_count_nowhere():
    weights = np.concatenate([fan(0, 90), fan(180, 45, length=0.49)])[None]
    row = group_relations(weights, 2).iloc[0]
    assert row["represented"] == 2 and row["within_orthogonal"] == 1 and np.isnan(row["between_cosine"])
    assert group_relations(np.zeros((1, 4, 2)), 2)["represented"].tolist() == [0]


def test_lengths_show_in_the_gram_matrix_only():
    one, two = (group_relations(fan(0, 90, 200, 300, length=scale)[None], 2).iloc[0] for scale in (1, 0.8))
    assert one["within_size"] == pytest.approx(two["within_size"])
    assert two["identity"] > 0.2


def test_relations_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="must have shape"):
        group_relations(np.eye(4), 2)
    with pytest.raises(InputError, match="must divide the 4 features, got 3"):
        group_relations(np.zeros((1, 4, 2)), 3)


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_principal_loss_of_sets_is_what_their_means_leave(density):
    """With a dimension for each set, every set loses the spread about its mean: (size - 1) p / 12."""
    covariance = Correlated(6, 3, density).covariance
    assert principal_loss(covariance, 2) == pytest.approx(4 * density / 12, rel=1e-5)
    assert principal_loss(covariance, 6) == 0


def test_no_affine_map_through_as_many_dimensions_loses_less():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    covariance, best = root @ root.T, principal_loss(root @ root.T, 2)
    for _ in range(200):
        basis = np.linalg.qr(rng.normal(size=(5, 2)))[0]
        left = np.eye(5) - basis @ basis.T
        assert np.trace(left @ covariance @ left) >= best
    top = np.linalg.eigh(covariance)[1][:, 3:]
    left = np.eye(5) - top @ top.T
    assert np.trace(left @ covariance @ left) == pytest.approx(best)


def test_principal_share_is_one_in_the_span_zero_outside_and_width_over_n_at_random():
    covariance = Correlated(6, 3, 0.3).covariance
    sets = np.repeat(np.eye(2), 3, axis=0)
    turned = sets @ fan(30, 120)
    outside = np.array([[1, 0], [-1, 0], [0, 0], [0, 1], [0, -1], [0, 0]])
    assert principal_share(np.stack([sets, 0.3 * turned, outside]), covariance) == pytest.approx([1, 1, 0], abs=1e-9)
    random = np.random.default_rng(1).normal(size=(4000, 6, 2))
    assert principal_share(random, covariance).mean() == pytest.approx(2 / 6, abs=0.01)
    assert np.isnan(principal_share(np.zeros((6, 2)), covariance))


def test_principal_components_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="covariance must have shape"):
        principal_loss(np.zeros((2, 3)), 1)
    with pytest.raises(InputError, match="width must be at most n = 3, got 4"):
        principal_loss(np.eye(3), 4)
    with pytest.raises(InputError, match="weights of 4 features need a covariance of as many, got 3"):
        principal_share(np.zeros((4, 2)), np.eye(3))
    with pytest.raises(InputError, match="weights must have shape"):
        principal_share(np.zeros(4), np.eye(4))
