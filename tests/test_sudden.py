"""Sudden moves on curves made by hand: a jump with a drop, a jump without, and nothing."""

import numpy as np
import pytest

from toysup.checks import InputError
from toysup.stats import SuddenMoves

TIME = np.arange(200)


def step(middle, height):
    return height / (1 + np.exp(-(TIME - middle) / 2))


def made(begin=20):
    flat = np.full(200, 0.5)
    series = np.stack([
        np.stack([flat - step(60, 0.3), flat - step(130, 0.4)], 1),
        np.stack([flat, flat + step(90, 0.4)], 1),
        np.stack([flat, flat], 1),
    ])  # fmt: skip
    decay = np.exp(-TIME / 15.0)
    loss = np.stack([decay + 2 - step(62, 0.5) - step(131, 0.2), decay + 2, decay + 2 - step(150, 0.3)])
    return SuddenMoves(series, loss, 0.1, 0.05, begin, 10)


def test_events_and_their_meetings():
    moves = made()
    assert [len(times) for times in moves.jump_times] == [2, 1, 0]
    assert [len(times) for times in moves.drop_times] == [2, 0, 1]
    np.testing.assert_allclose(moves.jump_times[0], [60, 130], atol=2)
    assert moves.jumps_met.rows.tolist() == [0, 1] and moves.jumps_met.share.tolist() == [1, 0]
    assert moves.drops_met.rows.tolist() == [0, 2] and moves.drops_met.share.tolist() == [1, 0]


def test_only_what_comes_after_begin_counts():
    moves = made(begin=100)
    assert [len(times) for times in moves.jump_times] == [1, 0, 0]
    assert [len(times) for times in moves.drop_times] == [1, 0, 1]
    assert [len(row) for row in moves.drops] == [2, 0, 1]


def test_windows_hold_the_drops_of_the_first():
    moves = made()
    fall = -np.diff(moves.loss, axis=1)
    assert fall[0, moves.windows[0]].sum() > 0.9 * 0.7
    assert moves.windows.sum(1).tolist() == [pytest.approx(40, abs=2), pytest.approx(20, abs=1), 0]


def test_fall_around_jumps_peaks_there():
    found = made().fall_around_jumps(30)
    assert found.rows.tolist() == [0, 1] and abs(int(found.own[0].argmax()) - 30) <= 3
    assert found.own[0].max() > 10 * found.own[1, 30:].max()


def test_rests_are_levels_before_the_last_jump():
    moves = made()
    resting = moves.rests()
    assert not resting[2].any() and not resting[:, :20].any()
    values = moves.series[0][resting[0]]
    assert (np.abs(values[:, None] - [0.5, 0.2]).min(1) < 0.1).all()
    assert (np.abs(values - 0.5) < 0.01).sum() > 100 and (np.abs(values - 0.2) < 0.05).sum() > 40
    assert not resting[0, 128:].any()


def test_numbers_hold_what_goes_together_beside_what_others_do():
    found = made().numbers()
    assert found["seeds_that_jump"].value == pytest.approx(2 / 3) and found["jumps_per_series"].value == 0.5
    assert found["jumps_with_a_drop"].value == 0.5 and found["drops_with_a_jump"].value == 0.5
    assert found["jumps_with_another_seeds_drop"].value == 0  # nobody drops when another jumps
    assert found["fall_at_jumps"].value > 5 * found["fall_of_other_seeds_then"].value > 0
    scaled = made().numbers(unit=1000, every=50)
    assert scaled["fall_at_jumps"].value == pytest.approx(20 * found["fall_at_jumps"].value)
    assert made().controls()["jumps_per_seed_in_the_last_fifth"].value == 0
    assert made().typical() in (0, 1)
    still = SuddenMoves(np.full((2, 200, 1), 0.5), np.ones((2, 200)), 0.1, 0.05, 20, 10)
    assert np.isnan(still.numbers()["jumps_with_a_drop"].value) and still.typical() in (0, 1)


def test_bad_input_is_refused():
    good = made()
    for bad in (
        lambda: SuddenMoves(good.series[0], good.loss, 0.1, 0.1, 0, 1),
        lambda: SuddenMoves(good.series, good.loss[:, 1:], 0.1, 0.1, 0, 1),
        lambda: SuddenMoves(good.series, good.loss, 0.1, 0.1, 199, 1),
        lambda: SuddenMoves(good.series, good.loss, 0.1, 0.1, 0, 0),
    ):
        with pytest.raises(InputError) as refused:
            bad()
        assert "\n" not in str(refused.value)
