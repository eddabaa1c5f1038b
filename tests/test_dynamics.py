"""Measures followed through training, against the same measures taken snapshot by snapshot."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from toysup.checks import InputError
from toysup.ensemble import Stack, train
from toysup.features import SparseUniform
from toysup.measure import antipode, cosines, directions, feature_dimensionality, feature_norm, loss_through, through
from toysup.measure.dynamics import curves
from toysup.models import TiedAutoencoder
from toysup.setting import Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import expected_loss

STEPS = [0, 20, 60]
SETTING = Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=60, batch=64)


@pytest.fixture(scope="module")
def trained():
    seeds = np.arange(3)
    return train(Stack(SETTING, seeds, seeds, {}), snapshots=STEPS)


def test_through_is_the_measure_at_each_snapshot(trained):
    followed = through(feature_norm)
    assert followed.__name__ == "feature_norm_through"
    expected = torch.stack([feature_norm(trained.at(step)) for step in STEPS], 1)
    torch.testing.assert_close(followed(trained).reshape(3, 3, 4), expected)
    columns = through(lambda then: {"a": feature_norm(then), "b": -feature_norm(then)})(trained)
    assert list(columns) == ["a_through", "b_through"] and torch.equal(columns["b_through"], -followed(trained))


def test_loss_through_is_the_exact_loss_up_to_sampling(trained):
    measure = loss_through(64)
    assert measure.__name__ == "loss_through_65536"
    loss = measure(trained).numpy()
    exact = []
    for step in STEPS:
        W, b = (trained.at(step).parameters[name].double().numpy() for name in ("W", "b"))
        exact.append(expected_loss(W, b, 0.3, np.ones(4)))
    exact = np.stack(exact, 1)
    # 65,536 samples of a loss whose spread is about its mean: relative error 0.4%
    np.testing.assert_allclose(loss, exact, rtol=0.02)
    # the draws are the same at all snapshots: the errors of differences are much smaller than those of heights
    np.testing.assert_allclose(np.diff(loss[:, :2]), np.diff(exact[:, :2]), atol=0.004 * exact.max())
    assert (measure(trained) == torch.from_numpy(loss)).all()


def test_cosines_are_those_of_the_directions(trained):
    W = directions(trained).numpy()
    found = cosines(trained).numpy()
    for k, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        expected = (W[:, i] * W[:, j]).sum(-1) / np.linalg.norm(W[:, i], axis=-1) / np.linalg.norm(W[:, j], axis=-1)
        np.testing.assert_allclose(found[:, k], expected, atol=1e-5)


def test_curves_give_back_the_arrays():
    grid = Grid(SETTING, {"seed": range(5)})
    measures = [through(feature_dimensionality), loss_through(2), through(cosines)]
    results = sweep(grid, measures, snapshots=STEPS, progress=False, workers=1)
    D = curves(results.features, "feature_dimensionality_through", 3)
    loss = curves(results.features, "loss_through_2048", 3)
    assert D.shape == (5, 3, 4) and loss.shape == (5, 3)
    assert curves(results.features, "cosines_through", 3).shape == (5, 3, 6)
    for k, step in enumerate(STEPS):
        table = results.measure(feature_dimensionality, snapshot=step).sort_values(["row", "feature"])
        np.testing.assert_allclose(D[:, k].ravel(), table["feature_dimensionality"], atol=1e-6)


def test_bad_input_is_refused(trained):
    bare = train(Stack(SETTING, np.arange(1), np.arange(1), {}))
    with pytest.raises(InputError, match="snapshots"):
        through(feature_norm)(bare)
    with pytest.raises(InputError, match="batches"):
        loss_through(0)
    table = pd.DataFrame({"row": [0, 0, 0], "feature": [0, 1, 2], "x_through": [1.0, 2, 3]})
    with pytest.raises(InputError, match="no column"):
        curves(table, "y_through", 3)
    with pytest.raises(InputError, match="no multiple"):
        curves(table, "x_through", 2)


def test_antipodes_of_known_shapes():
    """Two digons and a lone feature; then a triangle, which has none."""
    stack = Stack(dataclasses.replace(SETTING, features=SparseUniform(5, 0.3)), np.arange(2), np.arange(2), {})
    trained = train(dataclasses.replace(stack, setting=dataclasses.replace(stack.setting, steps=1)))
    angles = np.radians([[0, 90, 180, 275, 45], [0, 120, 240, 10, 130]])
    W = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
    found = antipode(dataclasses.replace(trained, parameters={**trained.parameters, "W": torch.from_numpy(W)}))
    assert found.tolist() == [[2, 3, 0, 1, -1], [-1] * 5]
