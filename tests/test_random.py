"""Draws: published vectors, two implementations bit for bit, purity in every argument, and uniformity."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from toysup.checks import InputError
from toysup.random import Stream, _uniforms_torch, philox4x32_torch, to_uniform, uniforms

FULL = 0xFFFFFFFF
PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
KNOWN = [  # kat_vectors of Random123 (Salmon et al. 2011): rounds, counter, key, words
    (10, (0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (10, (FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (10, *PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    (7, (0,) * 4, (0,) * 2, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (7, (FULL,) * 4, (FULL,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (7, *PI, (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
]
SEEDS = np.array([0, 1, 2**31 - 1, 2**31, FULL, 123456789])
# Draws are fixed, so nothing below is flaky: a rate is the chance that a perfect generator would have failed.
ALARM = 1e-5


def torch_words(counter, key, rounds):
    return tuple(int(w) for w in philox4x32_torch(*(tuple(map(torch.tensor, part)) for part in (counter, key)), rounds))


# ------------------------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("words", [torch_words, oracles.philox4x32])
@pytest.mark.parametrize("rounds, counter, key, expected", KNOWN)
def test_known_answers(rounds, counter, key, expected, words):
    assert words(counter, key, rounds) == expected


WORD = st.integers(0, FULL)


@given(counter=st.tuples(WORD, WORD, WORD, WORD), key=st.tuples(WORD, WORD), rounds=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_torch_is_the_integer_arithmetic(counter, key, rounds):
    assert torch_words(counter, key, rounds) == oracles.philox4x32(counter, key, rounds)


def test_a_word_becomes_a_number_inside_the_open_interval():
    words = np.unique(np.concatenate([[0], 2 ** np.arange(32), 2 ** np.arange(32) - 1, [FULL, FULL - 1, FULL - 128]]))
    values = to_uniform(torch.from_numpy(words))
    assert values[0] == 2.0**-32 and values[-1] == 1 - 2.0**-24
    assert bool((values.diff() >= 0).all()) and bool(((values > 0) & (values < 1)).all())


# ---------------------------------------------------------------------------------------------- two implementations


@pytest.mark.parametrize("batch, n", [(1, 1), (3, 5), (64, 15), (65, 16), (129, 17), (1000, 1), (7, 200)])
@pytest.mark.parametrize("step", [0, 1, 2**32 - 1, 2**32, 2**40 + 12345])
def test_compiled_and_torch_draws_are_the_same_bits(batch, n, step):
    for stream in Stream:
        compiled = uniforms(SEEDS, step, batch, n, stream=stream)
        other = _uniforms_torch(torch.from_numpy(SEEDS), step, batch, n, stream)
        assert compiled.shape == other.shape == (len(SEEDS), batch, n)
        assert compiled.dtype == other.dtype == torch.float32
        assert torch.equal(compiled, other)


@given(
    seed=st.integers(0, FULL),
    stream=st.sampled_from(Stream),
    step=st.integers(0, 2**63 - 1),
    sample=st.integers(0, 300),
    feature=st.integers(0, 40),
)
@settings(max_examples=100, deadline=None)
def test_a_draw_is_the_documented_word(seed, stream, step, sample, feature):
    drawn = uniforms(seed, step, sample + 1, feature + 1, stream=stream)[0, sample, feature]
    assert drawn.item() == oracles.uniform(seed, stream, step, sample, feature)


# ---------------------------------------------------------------------------------------------------------- purity


@given(
    batch=st.integers(1, 200), n=st.integers(1, 40), more=st.integers(0, 130), wider=st.integers(0, 40), data=st.data()
)
@settings(max_examples=60, deadline=None)
def test_a_draw_depends_on_nothing_but_its_own_place(batch, n, more, wider, data):
    seeds = data.draw(st.lists(st.integers(0, FULL), min_size=1, max_size=5))
    step = data.draw(st.integers(0, 2**34))
    wide = uniforms(np.array(seeds), step, batch + more, n + wider)[:, :batch, :n]
    for i, seed in enumerate(seeds):
        assert torch.equal(wide[i : i + 1], uniforms(seed, step, batch, n))


def test_company_order_threads_and_memory_change_nothing():
    expected = uniforms(SEEDS, 5, 70, 9)
    order = np.array([3, 0, 5, 5, 1])
    assert torch.equal(uniforms(SEEDS[order], 5, 70, 9), expected[order])
    assert torch.equal(uniforms(torch.from_numpy(SEEDS), 5, 70, 9), expected)
    for threads in (1, 2, 4, 17):
        assert torch.equal(uniforms(SEEDS, 5, 70, 9, threads=threads), expected)
    out = torch.full((len(SEEDS), 70, 9), torch.nan)
    assert uniforms(SEEDS, 5, 70, 9, out=out) is out and torch.equal(out, expected)
    out = torch.full((len(SEEDS), 70, 9), torch.nan)
    assert torch.equal(uniforms(SEEDS, 5, 70, 9, threads=3, out=out), expected)
    for dtype in (np.int32, np.uint32, np.int64, np.uint64):
        assert torch.equal(uniforms(np.array([7], dtype), 5, 70, 9), uniforms(7, 5, 70, 9))
    assert torch.equal(uniforms(np.array(7), np.int32(5), 70, 9), uniforms(7, 5, 70, 9))


# ------------------------------------------------------------------------------------------------------- uniformity


def neighbours():
    """Pairs of equally many draws that differ in one coordinate of (seed, stream, step, sample, feature)."""
    base = uniforms(np.arange(9), 0, 1024, 17)
    yield "sample", base[:, :-1], base[:, 1:]
    yield "word", base[:, :-16], base[:, 16:]
    yield "block", base[:, :-64], base[:, 64:]
    yield "feature", base[..., :-1], base[..., 1:]
    yield "seed", base[:-1], base[1:]
    yield "step", base, uniforms(np.arange(9), 1, 1024, 17)
    yield "distant step", base, uniforms(np.arange(9), 2**32, 1024, 17)
    for stream in list(Stream)[1:]:
        yield f"stream {stream.name}", base, uniforms(np.arange(9), 0, 1024, 17, stream=stream)


def pair_alarm(first, second, bins=16):
    """The p-value of a chi-square test that the pairs are uniform on the square."""
    cells = (first.flatten() * bins).long() * bins + (second.flatten() * bins).long()
    return stats.chisquare(torch.bincount(cells, minlength=bins**2).numpy()).pvalue


def test_neighbouring_draws_are_independent():
    """12 p-values and 12 correlations: the chance of any false alarm is below 24 ALARM."""
    limit = stats.norm.isf(ALARM / 2)
    for name, first, second in neighbours():
        correlation = np.corrcoef(first.flatten(), second.flatten())[0, 1]
        assert abs(correlation) * first.numel() ** 0.5 < limit, name
        assert pair_alarm(first, second) > ALARM, name


def test_dependent_draws_would_be_noticed():
    """Positive control: one draw in twenty repeated, and a dependence without correlation."""
    first, second = uniforms(0, 0, 4096, 32), uniforms(1, 0, 4096, 32)
    assert pair_alarm(first, torch.where(uniforms(2, 0, 4096, 32) < 0.05, first, second)) < ALARM
    folded = (2 * first - 1).abs()
    assert abs(np.corrcoef(first.flatten(), folded.flatten())[0, 1]) < 0.02 and pair_alarm(first, folded) < ALARM


@pytest.mark.parametrize("seed", [0, 1, FULL])
@pytest.mark.parametrize("stream", Stream)
def test_draws_are_uniform_down_to_the_rare_ones(seed, stream):
    """Also given that they are below 0.001, so that magnitudes of rare features are uniform. False alarm 3 ALARM."""
    draws = uniforms(seed, 3, 1 << 14, 32, stream=stream).double().flatten().numpy()
    assert stats.kstest(draws, "uniform").pvalue > ALARM
    rare = draws[draws < 1e-3] / 1e-3
    assert abs(len(rare) - 1e-3 * draws.size) < stats.norm.isf(ALARM / 2) * (1e-3 * draws.size) ** 0.5
    assert stats.kstest(rare, "uniform").pvalue > ALARM
    assert stats.kstest(draws**1.02, "uniform").pvalue < ALARM  # positive control: a density off by up to 2 %


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments, names",
    [
        ((-1, 0, 2, 2), ["seed", "-1"]),
        ((2**32, 0, 2, 2), ["seed", str(2**32)]),
        ((2**70, 0, 2, 2), ["seed"]),
        ((np.array([0, 5, -3]), 0, 2, 2), ["seed", "-3"]),
        ((1.5, 0, 2, 2), ["seed", "1.5"]),
        ((float("nan"), 0, 2, 2), ["seed"]),
        (("one", 0, 2, 2), ["seed", "one"]),
        ((None, 0, 2, 2), ["seed", "None"]),
        ((0, -1, 2, 2), ["step", "-1"]),
        ((0, 0.5, 2, 2), ["step", "0.5"]),
        ((0, 2**63, 2, 2), ["step", str(2**63)]),
        ((0, 0, 0, 2), ["batch", "0"]),
        ((0, 0, 2.0, 2), ["batch", "2.0"]),
        ((0, 0, 2, 0), ["n ", "0"]),
        ((0, 0, 2, True), ["n ", "True"]),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, names):
    with pytest.raises(InputError) as caught:
        uniforms(*arguments)
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in names)


@pytest.mark.parametrize("out", [torch.empty(9, 4, 3), torch.empty(2, 4, 4), torch.empty(2, 4, 3, dtype=torch.float64)])
def test_memory_of_a_wrong_shape_is_refused(out):
    """Compiled loops don't check bounds: more instances than seeds would read beyond the seeds."""
    with pytest.raises(InputError, match="out"):
        uniforms(np.array([1, 2]), 0, 4, 3, out=out)
