"""Pairs as near as can be: known pairs, brute force, owners, what is left out."""

from itertools import permutations

import numpy as np
import pytest

from toysup.checks import InputError
from toysup.stats import nearest_pairs


def test_known_pairs_come_nearest_first():
    i, j = nearest_pairs([0.0, 1.0, 5.0], [5.5, 0.1, 9.0, 1.0], within=1.0)
    assert i.tolist() == [1, 0, 2] and j.tolist() == [3, 1, 0]


def test_distances_add_up_to_the_least():
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    i, j = nearest_pairs(a, b, within=100.0)
    least = min(np.abs(a - b[list(order)]).sum() for order in permutations(range(5)))
    assert np.abs(a[i] - b[j]).sum() == pytest.approx(least) and sorted(i) == sorted(j) == list(range(5))


def test_an_owner_takes_part_once_with_its_nearest_value():
    i, j = nearest_pairs([0.0, 0.1], [0.0, 0.1, 3.0], of=["x", "x", "y"], within=10.0)
    assert dict(zip(i.tolist(), j.tolist(), strict=True)) in ({0: 0, 1: 2}, {0: 2, 1: 1})
    i, j = nearest_pairs([2.0], [0.0, 1.9, 4.0], of=[7, 7, 8], within=10.0)
    assert (i.tolist(), j.tolist()) == ([0], [1])


def test_far_pairs_are_left_out_but_for_the_nearest():
    a, b = [0.0, 10.0, 20.0], [0.0, 11.0, 23.0]
    assert [len(nearest_pairs(a, b, within=w, at_least=n)[0]) for w, n in ((0, 0), (1, 0), (0, 2), (3, 1), (0, 9))] == [
        1, 2, 2, 3, 3]  # fmt: skip


@pytest.mark.parametrize("change", [{"a": []}, {"b": [np.nan]}, {"of": [1, 2]}, {"within": -1.0}, {"at_least": -1}])
def test_bad_arguments_are_refused(change):
    given = {"a": [0.0], "b": [1.0], "within": 1.0} | change
    with pytest.raises(InputError, match="nearest_pairs"):
        nearest_pairs(given.pop("a"), given.pop("b"), **given)
