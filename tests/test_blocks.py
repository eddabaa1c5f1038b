"""Blocks of hand-made matrices, and of random ones for control."""

import numpy as np
import pytest

from toysup.checks import InputError
from toysup.geometry import block_sizes

TRIANGLE = np.array([[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])


def side_by_side(*parts):
    """Matrices on orthogonal subspaces, one after the other."""
    W = np.zeros((sum(len(p) for p in parts), sum(p.shape[1] for p in parts)))
    row = column = 0
    for part in parts:
        W[row : row + len(part), column : column + part.shape[1]] = part
        row, column = row + len(part), column + part.shape[1]
    return W


def test_blocks_of_a_matrix_made_by_hand():
    digon, alone, nothing = np.array([[1.0], [-0.4]]), np.eye(1), np.zeros((2, 1))
    W = side_by_side(digon, TRIANGLE, alone, nothing)
    assert block_sizes(W).tolist() == [2, 2, 3, 3, 3, 1, 0, 0]
    turned = W @ np.linalg.qr(np.random.default_rng(0).normal(size=(W.shape[1],) * 2))[0]
    order = np.array([5, 0, 7, 3, 1, 6, 2, 4])
    assert block_sizes(turned[order]).tolist() == np.array([2, 2, 3, 3, 3, 1, 0, 0])[order].tolist()
    assert block_sizes(np.stack([W, 2 * W])).shape == (2, 8)


def test_a_chain_is_one_block_and_nearly_orthogonal_pairs_are_two():
    def at(*degrees):
        return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], -1)

    assert block_sizes(at(0, 80)).tolist() == [1, 1]
    assert block_sizes(at(0, 80), orthogonal=5).tolist() == [2, 2]
    assert block_sizes(at(0, 45, 90)).tolist() == [3, 3, 3]  # the ends are orthogonal, the middle joins them


def test_what_has_hardly_any_capacity_joins_nobody():
    """The short one's capacity is .01 / 1.01 of the dimension it shares with the long one."""
    W = np.array([[1.0], [0.1]])
    assert block_sizes(W).tolist() == [1, 0]
    assert block_sizes(W, ignored=0.001).tolist() == [2, 2]


def test_random_directions_are_one_block():
    assert (block_sizes(np.random.default_rng(0).normal(size=(50, 30, 3)), ignored=0) == 30).all()


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: block_sizes(np.ones(3)), ["(3,)"]),
        (lambda: block_sizes(np.eye(2), ignored=1), ["ignored", "1"]),
        (lambda: block_sizes(np.eye(2), orthogonal=90), ["orthogonal", "90"]),
    ],
)
def test_bad_input_is_refused_in_one_line(make, names):
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in names)
