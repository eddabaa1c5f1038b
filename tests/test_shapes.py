"""Shapes: counts against the modules that are built, budgets against brute force, the note's doubling move."""

import itertools

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toysup.checks import InputError
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.random import uniforms
from toysup.shapes import Shape, model_b_of, shapes_at_budget, shapes_by_halving

SIZES = st.integers(1, 9)


def built(shape, n_out, unembedding):
    """A residual MLP with its initial values, and every parameter of a block that is a weight."""
    model = ResidualMLP(11, n_out, shape=shape, unembedding=unembedding)
    for position, (name, value) in enumerate(model.state_dict(keep_vars=True).items()):
        drawn = model.initial()[name](uniforms(0, position, value.numel(), 1).reshape(value.shape))
        value.data.copy_(drawn)
    return model, {n: p for n, p in model.named_parameters() if n.startswith(("W_in", "W_out"))}


def switch_on(model):
    """Every neuron on in every sample, since a dead one has no gradient by chance."""
    with torch.no_grad():
        for weight, bias in zip(model.W_in, model.b_in, strict=True):
            weight *= 0.01
            bias += 1


# ------------------------------------------------------------------------------------------------------------- counts


@given(width=SIZES, depth=st.integers(0, 4), hidden=st.none() | SIZES)
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_the_module(width, depth, hidden):
    shape = Shape(width, depth, hidden)
    model, weights = built(shape, 11, "tied")
    assert shape.parameters == sum(p.numel() for p in weights.values())
    assert shape.biases == sum(p.numel() for n, p in model.named_parameters() if n.startswith("b_in"))
    assert sum(p.numel() for p in model.parameters()) == shape.parameters + shape.biases
    assert shape.embedding_parameters(11) == model.W_E.numel()
    assert shape.neurons == shape.biases and shape.note_neurons == width * depth
    assert shape.live_parameters() == shape.live_parameters(width) == shape.parameters
    assert shape.aspect_ratio == (width / depth if depth else float("inf"))


def test_counts_of_a_trained_embedding():
    model = UntiedAutoencoder(7, 7, width=3, depth=2, hidden=5)
    shape = model.shape
    counted = shape.parameters + shape.biases + shape.embedding_parameters(7, 7) + 7  # and an output bias
    assert counted == sum(p.numel() for p in model.parameters())


@given(width=SIZES, depth=st.integers(1, 4), hidden=SIZES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_live_parameters_are_the_weights_that_get_a_gradient(width, depth, hidden, data):
    read = data.draw(st.integers(1, width))
    shape = Shape(width, depth, hidden)
    model, weights = built(shape, read, "coordinates")
    assert shape.live_parameters(read) == oracles.live_weights(width, depth, hidden, read)
    assert shape.live_parameters(read) == sum(p.numel() for p in weights.values())
    switch_on(model)
    output = model(uniforms(1, 0, 64, 11)[0])
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert sum(int((p.grad != 0).sum()) for p in weights.values()) == shape.live_parameters(read)


def test_what_no_output_reads_is_not_live():
    """Positive control: with a full last block some weights have no gradient, exactly those not counted as live."""
    shape, read = Shape(6, 3, 4), 2
    model, weights = built(shape, 6, "coordinates")
    switch_on(model)
    model(uniforms(1, 0, 64, 11)[0])[:, :read].sum().backward()
    live = sum(int((p.grad != 0).sum()) for p in weights.values())
    assert live == shape.live_parameters(read) < shape.parameters == sum(p.numel() for p in weights.values())


def test_names_and_order():
    assert [str(s) for s in (Shape(8, 2), Shape(8, 2, 8), Shape(8, 2, 3))] == ["8x2", "8x2", "8x2h3"]
    assert Shape(8, 2) == Shape(8, 2, 8) and hash(Shape(8, 2)) == hash(Shape(8, 2, 8))
    shapes = [Shape(8, 2), Shape(4, 8), Shape(8, 1), Shape(8, 2, 3)]
    assert sorted(shapes) == [Shape(4, 8), Shape(8, 1), Shape(8, 2, 3), Shape(8, 2)]


# ------------------------------------------------------------------------------------------------------------ budgets


@given(
    budget=st.integers(1, 300),
    tolerance=st.sampled_from([0.0, 0.02, 0.2, 0.5, 1.0]),
    ratio=st.sampled_from([None, 0.01, 0.25, 0.7, 1.0, 1.5, 4.0]),
    read=st.none() | st.integers(1, 5),
    depths=st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True),
)
@settings(max_examples=100, deadline=None)
def test_every_shape_at_a_budget_is_found_and_within_tolerance(budget, tolerance, ratio, read, depths):
    expected = oracles.budgeted_shapes(budget, tolerance, depths, ratio, read)
    if not expected:
        with pytest.raises(InputError, match="nearest is"):
            shapes_at_budget(budget, tolerance=tolerance, depths=depths, hidden_ratio=ratio, read=read)
        return
    found = shapes_at_budget(budget, tolerance=tolerance, depths=depths, hidden_ratio=ratio, read=read)
    assert [(f.shape.width, f.shape.depth, f.shape.hidden) for f in found] == expected
    for shape, parameters, error in found:
        assert parameters == shape.live_parameters(read)
        assert error == parameters / budget - 1 and abs(error) <= tolerance


def test_the_default_depths_and_order():
    found = shapes_at_budget(2 * 32 * 32 * 8)
    assert [(f.shape.width, f.shape.depth) for f in found if f.rounding_error == 0] == [(64, 2), (32, 8), (16, 32)]
    depths = [f.shape.depth for f in found]
    assert depths == sorted(depths) and max(depths) <= 64
    assert max(f.shape.depth for f in shapes_at_budget(2**14, max_depth=4)) <= 4


def test_free_hidden_sizes_bring_every_width_near_the_budget():
    found = shapes_at_budget(4096, hidden_ratio=None, depths=[1, 2, 4], tolerance=0.01)
    assert all(f.shape.width <= 4 * f.shape.hidden and f.shape.hidden <= 4 * f.shape.width for f in found)
    exact = {(f.shape.width, f.shape.depth, f.shape.hidden) for f in found if f.rounding_error == 0}
    assert {(64, 1, 32), (32, 1, 64), (32, 2, 32), (16, 4, 32)} <= exact


def test_a_large_budget_with_free_hidden_sizes_is_quick():
    """Widths beyond 4 hidden are not tried one by one: 16 depths times 10^7 widths would take minutes."""
    found = shapes_at_budget(10**7, hidden_ratio=None, depths=range(1, 17), tolerance=1e-6)
    assert any(f.rounding_error == 0 for f in found)


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: Shape(0, 1), ["width", "0"]),
        (lambda: Shape(2.0, 1), ["width", "2.0"]),
        (lambda: Shape(2, -1), ["depth", "-1"]),
        (lambda: Shape(2, 1, 0), ["hidden", "0"]),
        (lambda: Shape(4, 1).live_parameters(0), ["read", ">= 1", "0"]),
        (lambda: Shape(4, 1).live_parameters(5), ["read", "4", "5"]),
        (lambda: shapes_at_budget(0), ["budget", "0"]),
        (lambda: shapes_at_budget(100, tolerance=-0.1), ["tolerance", "-0.1"]),
        (lambda: shapes_at_budget(100, hidden_ratio=0), ["hidden_ratio", "0"]),
        (lambda: shapes_at_budget(100, depths=[0]), ["depth", "0"]),
        (lambda: shapes_at_budget(100, read=0), ["read", "0"]),
        (lambda: shapes_at_budget(7, depths=[1], tolerance=0.05), ["7", "5.0%", "2x1 with 8"]),
        (lambda: shapes_at_budget(7, depths=[]), ["none at all"]),
        (lambda: shapes_at_budget(7, read=100), ["nearest is"]),
        (lambda: model_b_of(Shape(8, 2)), ["depth", "4", "2"]),
        (lambda: model_b_of(Shape(8, 0)), ["depth", "0"]),
        (lambda: shapes_by_halving(Shape(8, 4), [1, 3]), ["[4, 2, 1]", "2"]),
        (lambda: shapes_by_halving(Shape(8, 2), [1, 0]), ["factors"]),
    ],
)
def test_bad_input_is_refused_in_one_line(make, names):
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in names), message


# ------------------------------------------------------------------------------------------------- the doubling move


@given(width=st.integers(1, 200), quarter=st.integers(1, 20), hidden=st.none() | st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_model_b_has_the_same_parameters_and_half_the_neurons(width, quarter, hidden):
    """Katta 2024: twice the width, a quarter of the depth."""
    a = Shape(width, 4 * quarter, hidden)
    b = model_b_of(a)
    assert (b.width, b.depth) == (2 * width, quarter)
    assert b.parameters == a.parameters
    assert b.aspect_ratio == 8 * a.aspect_ratio
    assert 2 * b.note_neurons == a.note_neurons and 2 * b.neurons == a.neurons


@given(width=st.integers(1, 60), quarter=st.integers(1, 8), hidden=st.none() | st.integers(1, 60), data=st.data())
@settings(max_examples=100, deadline=None)
def test_model_b_of_a_partly_read_shape_is_the_nearest(width, quarter, hidden, data):
    a = Shape(width, 4 * quarter, hidden)
    read = data.draw(st.integers(1, width))
    b = model_b_of(a, read)
    target = a.live_parameters(read)
    errors = [abs(Shape(b.width, b.depth, h).live_parameters(read) - target) for h in range(1, 4 * a.hidden + 4)]
    assert abs(b.live_parameters(read) - target) == min(errors)
    assert b.hidden >= 2 * a.hidden  # B leaves more of its last block unread than A


def test_the_move_can_be_repeated():
    shapes = [Shape(16, 64)]
    while shapes[-1].depth % 4 == 0:
        shapes.append(model_b_of(shapes[-1]))
    assert [str(s) for s in shapes] == ["16x64", "32x16", "64x4", "128x1"]
    assert len({s.parameters for s in shapes}) == 1
    assert all(b in [f.shape for f in shapes_at_budget(s.parameters)] for s, b in itertools.pairwise(shapes))


def test_halved_depths_keep_the_parameters_and_come_near_the_aspect_ratios_asked_for():
    assert shapes_by_halving(Shape(8, 4), (1, 4, 16)) == [Shape(8, 4), Shape(16, 2, 8), Shape(32, 1, 8)]
    deep, factors = Shape(12, 16, 11), [1, 8 / 3, 8, 64 / 3, 64]
    found = shapes_by_halving(deep, factors, tolerance=0.005, read=4)
    assert [shape.depth for shape in found] == [16, 8, 4, 2, 1] and found[0] == deep
    for shape, factor in zip(found, factors, strict=True):
        assert abs(shape.live_parameters(4) / deep.live_parameters(4) - 1) <= 0.005
        assert 0.8 < shape.aspect_ratio / (factor * deep.aspect_ratio) < 1.25
