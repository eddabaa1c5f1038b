"""Networks built by hand do what their descriptions say."""

import numpy as np
import pytest
import torch

from toysup.checks import InputError
from toysup.constructions import (
    SplitStream,
    confined_uand,
    copied_identity,
    pairs_setting,
    scattered_uand,
    single_block_uand,
)
from toysup.ensemble import Stack, initial_values
from toysup.measure import auc, recovered
from toysup.measure.participation import contributions, readout
from toysup.shapes import Shape

SIZES = {"n_inputs": 12, "n_pairs": 66, "neurons": 96, "depth": 8, "takes": 5, "seeds": range(2)}


def test_universal_and_by_its_definition():
    """Neuron by neuron, pair by pair: the mean over neurons that have both inputs of ReLU(their sum - 1)."""
    trained = single_block_uand(6, 5, neurons=20, depth=3, takes=3, density=0.4, seeds=[7])
    x = trained.batch(0, 50)[0]
    taken = trained.parameters["W_in.1"][0, :6].T.numpy()
    assert (taken.sum(1) == 3).all() and set(taken.ravel()) == {0, 1}
    neurons = np.maximum(x[0].numpy() @ taken.T - 1, 0)
    pairs = zip(trained.constants["first"][0].tolist(), trained.constants["second"][0].tolist(), strict=True)
    for k, (i, j) in enumerate(pairs):
        both = (taken[:, i] > 0) & (taken[:, j] > 0)
        assert both.any()
        assert trained.forward(x)[0, :, k].numpy() == pytest.approx(neurons[:, both].mean(1), abs=1e-6)
    assert all(not trained.parameters[f"W_out.{block}"].any() for block in (0, 2))


def test_universal_and_works_at_these_sizes():
    """66 ANDs by 96 neurons, each of which takes 5 inputs and so has ten pairs."""
    trained = single_block_uand(**SIZES)
    found = auc(trained).value
    assert found.mean() > 0.995 and found.min() > 0.97
    x, _ = trained.batch(0, 4096)
    output = trained.forward(x)
    first, second = (trained.constants[name].unsqueeze(1).expand(-1, 4096, -1) for name in ("first", "second"))
    on = x.gather(2, first) * x.gather(2, second) > 0
    alone = on & (x.sum(-1, keepdim=True) == 2)
    assert torch.allclose(output[alone], torch.ones(()), atol=1e-5)
    assert output[(x.sum(-1) < 2)].abs().max() == 0
    others = ~on & (x.sum(-1, keepdim=True) == 2)  # 20 of 65 share an input, and 3 of 10 neurons see it: .09
    assert output[others].mean() < 0.15


def test_scattered_neurons_compute_the_same_outputs():
    one, many = single_block_uand(**SIZES), scattered_uand(**SIZES)
    x = one.batch(0, 256)[0]
    assert torch.equal(x, many.batch(0, 256)[0])
    assert torch.allclose(one.forward(x), many.forward(x), atol=1e-5)
    for block in range(8):
        assert (many.parameters[f"W_in.{block}"].sum(1) == 5).all()  # 12 neurons in each, 5 inputs in each neuron
    per_block = contributions(many, x).abs().sum(1)[:, 1:] > 0  # instance block pair
    assert (per_block.sum(1) > 1).all()  # every AND in more than one block
    assert not torch.equal(many.parameters["W_in.0"][0], many.parameters["W_in.0"][1])  # seeds differ
    again = scattered_uand(**{**SIZES, "seeds": [1]})
    assert torch.equal(again.parameters["W_in.3"][0], many.parameters["W_in.3"][1])  # and decide alone


def test_blocks_do_not_see_what_others_wrote():
    trained = scattered_uand(**SIZES)
    room = trained.setting.build().room
    for block in range(8):
        assert not trained.parameters[f"W_in.{block}"][:, -room:].any()
        assert not trained.parameters[f"W_out.{block}"][..., :-room].any()
    assert not readout(trained)[:, :-room].any()


def test_confined_features_live_in_one_block():
    trained = confined_uand(32, 48, neurons=128, depth=8, takes=3, seeds=range(3))
    x = trained.batch(0, 4096)[0]
    used = contributions(trained, x).abs().sum(1)[:, 1:] > 1e-4
    assert (used.sum(1) <= 1).all() and (used.sum(1) == 1).float().mean() > 0.95  # a pair that came up
    assert (trained.constants["first"] // 4 == trained.constants["second"] // 4).all()
    assert auc(trained).value.nanmean() > 0.99


def test_copied_inputs_are_the_outputs():
    trained = copied_identity(10, depth=4, density=0.3, seeds=range(2))
    x = trained.batch(0, 100)[0]
    assert torch.allclose(trained.forward(x), x, atol=1e-6)
    neurons = trained.forward(x, record=True)[1].neurons
    assert torch.equal(neurons, x.unsqueeze(2).expand_as(neurons))
    assert torch.allclose(recovered(trained).value, torch.tensor(10.0), atol=1e-3)


def test_split_streams_have_room_or_directions():
    wide, narrow = (pairs_setting(6, 10, 2, 3, density=0.1, room=room) for room in (12, 4))
    for setting, room in ((wide, 12), (narrow, 4)):
        _, buffers = initial_values(Stack.of(setting, range(2)))
        rows = buffers["W_U"]
        assert torch.allclose(rows.norm(dim=-1), torch.ones(2, 10)) and not rows[..., :-room].any()
        assert torch.equal(buffers["W_E"], torch.eye(6, 6 + room).expand(2, 6, -1))
    assert not torch.allclose(rows[0], rows[1])


def test_bad_input():
    with pytest.raises(InputError, match="depth must divide the neurons"):
        scattered_uand(12, 66, neurons=65, depth=8)
    with pytest.raises(InputError, match="depth must divide neurons and inputs"):
        confined_uand(12, 4, neurons=64, depth=8)
    with pytest.raises(InputError, match="have 48 pairs, not 49"):
        confined_uand(32, 49, neurons=64, depth=8)
    with pytest.raises(InputError, match="takes"):
        single_block_uand(12, 66, neurons=64, depth=8, takes=1)
    with pytest.raises(InputError, match="width must exceed room=8"):
        SplitStream(2, 8, shape=Shape(8, 1), room=8)
