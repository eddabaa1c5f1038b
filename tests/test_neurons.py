"""Neuron-level measures on weights set by hand, where the counts are known, and on their nulls."""

import numpy as np
import pytest
import torch

from toysup.checks import InputError
from toysup.models import MLP
from toysup.neurons import (
    alignment,
    asymmetric_motifs,
    closed_sides,
    drawn,
    effective_features,
    relabelled,
    rotated,
    served,
    slopes,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def turned_round(W_in, generator):
    """Each neuron's input weights times a random sign."""
    signs = torch.randint(0, 2, (*W_in.shape[:-2], 1, W_in.shape[-1]), generator=generator)
    return W_in * (2 * signs - 1)


def exact(n, neurons):
    """|x| of the first neurons // 2 features, two neurons each; the rest is 0."""
    W_in = torch.zeros(n, neurons)
    for k in range(neurons):
        W_in[k // 2, k] = 1.0 if k % 2 == 0 else -1.0
    return W_in, W_in.abs().mT.clone()


def motif(ratio=4.0, inhibition=4.0, side=1.0):
    """Three features, six neurons. Neuron 0 stores features 0 and 1 asymmetrically, as in the paper; neurons 1 and 2
    are their other sides; neuron 3 fires on `side` of feature 0 and inhibits feature 1; 4 and 5 compute feature 2."""
    root = ratio**0.5
    W_in, W_out = torch.zeros(3, 6), torch.zeros(6, 3)
    W_in[0, 0], W_in[1, 0], W_out[0, 0], W_out[0, 1] = root, -1 / root, 1 / root, root
    W_in[0, 1], W_out[1, 0] = -1.0, 1.0
    W_in[1, 2], W_out[2, 1] = 1.0, 1.0
    W_in[0, 3], W_out[3, 1], W_out[3, 0] = side, -inhibition, 0.05
    W_in[2, 4], W_in[2, 5], W_out[4, 2], W_out[5, 2] = 1.0, -1.0, 1.0, 1.0
    return W_in, W_out


# ------------------------------------------------------------------------------------------------------- served


def test_slopes_are_what_a_network_answers():
    torch.manual_seed(0)
    W_in, W_out = torch.randn(5, 7), torch.randn(7, 5)
    model = MLP(5, 5, width=7, relu=False, hidden_bias=False)
    model.load_state_dict({"weights.0": W_in, "W_out": W_out, "b_out": torch.zeros(5)})
    answered = torch.stack([model(side * torch.eye(5)).diagonal() for side in (1, -1)])
    slope = slopes(W_in, W_out)
    assert torch.allclose((slope * (W_in > 0)).sum(-1), answered[0], atol=1e-6)
    assert torch.allclose((slope * (W_in < 0)).sum(-1), answered[1], atol=1e-6)


@pytest.mark.parametrize("rule", [served, drawn])
def test_each_neuron_of_the_exact_network_serves_one_feature(rule):
    W_in, W_out = exact(5, 6)
    assert rule(W_in, W_out).sum(0).tolist() == [1] * 6
    assert rule(W_in, W_out).sum(1).tolist() == [2, 2, 2, 0, 0]
    assert effective_features(W_in, W_out).tolist() == [1.0] * 6


def test_counts_by_hand():
    W_in = torch.tensor([[1.0, 1.0, 1e-3, 2.0], [0.0, -1.0, 1e-3, 0.5], [0.0, 0.05, 0.0, -2.0]])
    W_out = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [1.0, 1.0, 0], [0.5, 0.19, -1.0]])
    assert served(W_in, W_out).sum(0).tolist() == [1, 2, 0, 1]  # neuron 2 is dead; at 3 feature 1 gets 0.095
    assert served(W_in, W_out, 0.05).sum(0).tolist() == [1, 2, 0, 2]
    assert drawn(W_in, W_out).sum(0).tolist() == [1, 2, 0, 3]  # what inhibits is drawn, too
    assert effective_features(W_in, W_out)[[0, 2]].tolist() == [1, 0]
    assert effective_features(W_in[:, 1:2], W_out[1:2]).item() == pytest.approx(2.05**2 / 2.0025)


@pytest.mark.parametrize(
    "measure", [served, drawn, effective_features, lambda *w: torch.stack(asymmetric_motifs(*w), -1)]
)
def test_a_neurons_scale_and_the_order_of_neurons_and_features_do_not_matter(measure):
    W_in, W_out = torch.randn(4, 6, 8, generator=generator()), torch.randn(4, 8, 6, generator=generator(1))
    scale = torch.rand(4, 1, 8, generator=generator(2)) + 0.5
    found = measure(W_in, W_out)
    assert torch.allclose(measure(W_in * scale, W_out / scale.mT).double(), found.double(), rtol=1e-5)
    alone = torch.stack([measure(a, b) for a, b in zip(W_in, W_out, strict=True)])
    assert torch.allclose(alone.double(), found.double())
    features, neurons = torch.randperm(6, generator=generator(3)), torch.randperm(8, generator=generator(4))
    moved = measure(W_in[:, features][:, :, neurons], W_out[:, neurons][:, :, features])
    assert moved.double().sum() == pytest.approx(found.double().sum().item())


def test_closed_sides():
    W_in, W_out = exact(5, 6)
    assert closed_sides(W_in, W_out, torch.zeros(5)).tolist() == [0, 0, 0, 2, 2]
    W_out[1, 0] = -1.0  # the neuron for x_0 < 0 now takes off
    assert closed_sides(W_in, W_out, torch.zeros(5)).tolist() == [1, 0, 0, 2, 2]
    assert closed_sides(W_in, W_out, torch.full((5,), -0.95)).tolist() == [2, 2, 2, 2, 2]
    assert closed_sides(W_in, W_out, torch.full((5,), 0.2)).tolist() == [1, 0, 0, 0, 0]


# -------------------------------------------------------------------------------------------------------- motifs


def test_the_papers_motif_is_found_once():
    assert [float(count) for count in asymmetric_motifs(*motif())] == [1, 1, 1, 0.5]


@pytest.mark.parametrize(
    "weights, expected",
    [
        (motif(ratio=1.0), [1, 0, 0]),  # symmetric superposition
        (motif(ratio=1.5), [1, 0, 0]),  # not unequal enough
        (motif(inhibition=3.0), [1, 1, 0]),  # interference stays positive
        (motif(inhibition=0.0), [1, 1, 0]),
        (motif(side=-1.0), [1, 1, 0]),  # the other neuron inhibits where nothing interferes
        (exact(5, 6), [0, 0, 0]),
    ],
)
def test_what_lacks_a_part_of_it_is_no_motif(weights, expected):
    assert [int(count) for count in asymmetric_motifs(*weights)[:3]] == expected


def test_the_ratio_decides():
    assert int(asymmetric_motifs(*motif(ratio=4.0), ratio=3.9).asymmetric) == 1
    assert int(asymmetric_motifs(*motif(ratio=4.0), ratio=4.1).asymmetric) == 0
    assert int(asymmetric_motifs(*motif(ratio=1.5), ratio=1.4).inhibited) == 1


def test_two_motifs_in_one_network_and_stacks_are_counted_each():
    W_in, W_out = motif()
    doubled = torch.block_diag(W_in, W_in), torch.block_diag(W_out, W_out)
    assert int(asymmetric_motifs(*doubled).inhibited) == 2
    stack = torch.stack([W_in, W_in * 0]), torch.stack([W_out, W_out])
    assert asymmetric_motifs(*stack).inhibited.tolist() == [1, 0]


def test_nulls_take_the_motif_apart():
    """Turning neurons round keeps it where neurons 0 and 3 turn alike, half the time; renaming, where 0 and 1 keep
    their places at neurons 0 and 3: (1/6)^2 times the 6 renamings that agree."""
    W_in, W_out = (w.expand(4000, -1, -1) for w in motif())
    turned = asymmetric_motifs(turned_round(W_in, generator()), W_out)
    assert turned.asymmetric.tolist() == [1] * 4000
    assert turned.inhibited.double().mean().item() == pytest.approx(0.5, abs=0.04)  # 5 standard errors
    assert turned.by_chance.tolist() == [0.5] * 4000
    renamed = asymmetric_motifs(*relabelled(W_in, W_out, generator()))
    assert renamed.asymmetric.tolist() == [1] * 4000
    assert renamed.inhibited.double().mean().item() == pytest.approx(1 / 6, abs=0.03)


def test_chance_is_what_turning_neurons_round_gives():
    """Large random weights inhibit by chance, which is what the null is for: they hold no more than it says."""
    W_in, W_out = torch.randn(300, 8, 6, generator=generator()), torch.randn(300, 6, 8, generator=generator(1))
    found = asymmetric_motifs(W_in, W_out)
    assert found.inhibited.double().mean() > 0.5
    draws = [asymmetric_motifs(turned_round(W_in, generator(s)), W_out).inhibited.double() for s in range(2, 10)]
    for sample in (found.inhibited.double(), torch.stack(draws).mean(0)):
        difference = sample - found.by_chance
        assert abs(difference.mean()) < 4 * difference.std() / 300**0.5


def test_relabelling_keeps_each_neurons_pairs():
    W_in, W_out = torch.randn(3, 6, 4, generator=generator()), torch.randn(3, 4, 6, generator=generator(1))
    a, b = relabelled(W_in, W_out, generator(2))
    assert torch.allclose(slopes(a, b).sort(-2).values, slopes(W_in, W_out).sort(-2).values)
    assert not torch.equal(a, W_in)


# ----------------------------------------------------------------------------------------------------- alignment


def test_alignment_by_hand():
    W = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.1, 0.1]])
    assert alignment(W).item() == 1.0  # the third is not represented
    assert alignment(torch.tensor([[1.0, 1.0]])).item() == pytest.approx(0.5**0.5)
    assert alignment(torch.zeros(2, 2)).isnan()


def test_rotation_keeps_the_geometry_and_takes_the_alignment():
    W = torch.eye(5)[:4].expand(3000, -1, -1).double()
    turned = rotated(W, generator())
    assert torch.allclose(turned @ turned.mT, W @ W.mT)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((200_000, 5))
    expected = (np.abs(directions).max(1) / np.linalg.norm(directions, axis=1)).mean()
    assert alignment(turned).mean().item() == pytest.approx(expected, abs=0.01)


def test_bad_input_is_refused():
    W_in, W_out = exact(5, 6)
    with pytest.raises(InputError, match=r"W_in must be .* got \(5, 6\) and \(5, 6\)"):
        served(W_in, W_in)
    with pytest.raises(InputError, match="threshold must lie in"):
        served(W_in, W_out, 1.5)
    with pytest.raises(InputError, match="ratio must lie in"):
        asymmetric_motifs(W_in, W_out, ratio=1.0)
