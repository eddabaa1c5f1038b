"""Purity of readouts: closed cases, the normal form where interference is normal, and dependence that must show."""

import numpy as np
import pytest
import torch

from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, task_constants
from toysup.features import Correlated, SparseUniform
from toysup.measure.purity import purity
from toysup.models import TiedAutoencoder
from toysup.setting import Model, Setting
from toysup.tasks import Identity

EDGES = np.array([0.05, 0.25, 0.5, 0.75, 1.0])


def by_hand(features, W):
    setting = Setting(features, Identity(), Model(TiedAutoencoder, width=W.shape[-1]), steps=1, batch=64)
    stack = Stack.of(setting, range(len(W)))
    count = len(W)
    return Trained(
        stack, {"W": W, "b": torch.zeros(count, W.shape[1])}, {}, task_constants(stack), torch.zeros(count, 1),
        torch.full((count,), -1), {}, "",
    )  # fmt: skip


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_orthogonal_features_are_pure():
    found = purity(by_hand(SparseUniform(4, 0.2), torch.eye(4)[None]), EDGES, batches=4)
    assert torch.equal(found.measured, torch.ones(1, 4)) and torch.equal(found.independent, torch.ones(1, 4))
    assert torch.allclose(found.gaussian, torch.ones(1, 4))
    share = found.count / found.count.sum()  # U(0, 1): as long as the ranges are
    assert torch.allclose(share, torch.tensor([[0.2, 0.25, 0.25, 0.25]]) / 0.95, atol=0.02)


def test_two_features_side_by_side():
    """W_1 = W_2: z = x_1 + x_2 for both, so with p small P(x_i > 0 | z) is about 1/2 at every level."""
    W = torch.ones(1, 2, 1)
    found = purity(by_hand(SparseUniform(2, 0.02), W), EDGES, batches=128)
    assert torch.allclose(found.measured, torch.full((1, 4), 0.5), atol=0.03)
    # a shuffled sample is the same event: one of the two is on
    assert torch.allclose(found.independent, found.measured, atol=0.05)


def test_measured_is_independent_is_gaussian_where_interference_is_a_sum_of_many():
    trained = by_hand(SparseUniform(256, 0.15), unit(2, 256, 64))
    found = purity(trained, EDGES, batches=24)
    error = (found.measured * (1 - found.measured) / found.count).sqrt()
    assert ((found.measured - found.independent).abs() < 6 * error).all()  # both are sampled
    assert ((found.measured - found.gaussian).abs() < 0.01).all()
    assert (found.measured.diff(dim=-1) > 0).all()  # stronger readouts are purer


@pytest.mark.parametrize("anti", [True, False])
def test_dependence_shows(anti):
    """Pairs that share a direction and are on at most one at a time, or always together: not what independence says."""
    W = unit(1, 8, 16, seed=1)
    W[:, 1::2] = W[:, ::2] * 0.8 + 0.6 * unit(1, 4, 16, seed=2)
    found = purity(by_hand(Correlated(8, 2, 0.3, anti=anti), W), EDGES, batches=64)
    error = (0.5 / found.count).sqrt()
    assert ((found.measured - found.independent).abs() > 0.03 + 6 * error).any()


def test_features_that_are_not_represented_are_left_out():
    W = torch.diag(torch.tensor([1.0, 0.4]))[None]
    found = purity(by_hand(SparseUniform(2, 0.5), W), EDGES, batches=2)
    assert 0.4 < found.count.sum() / (2 * 1024) < 0.55  # of one feature, half the time
    with pytest.raises(InputError, match="ascending"):
        purity(by_hand(SparseUniform(2, 0.5), W), np.array([0.5, 0.1]))
    with pytest.raises(InputError, match="batches"):
        purity(by_hand(SparseUniform(2, 0.5), W), EDGES, batches=1)
