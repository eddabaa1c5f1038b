"""Where recovered leaves offered: a known crossing, both ends, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from toysup.checks import InputError
from toysup.stats import departure


def table(*shares, offers=(10, 20, 40)):
    return pd.DataFrame(np.array(shares) * np.array(offers), columns=list(offers))


def test_departure_is_where_the_share_crosses_in_ln_n():
    """From 1 at 20 to .8 at 40 the share is .95 a quarter of the way, in ln n; .9 half the way."""
    counts = table([1, 1, 0.8])
    assert departure(counts)[0] == pytest.approx(20 * 2**0.25)
    assert departure(counts, 0.1)[0] == pytest.approx(20 * 2**0.5)


def test_departure_ends_at_the_offers_and_takes_the_last_crossing():
    found = departure(table([0.5, 0.4, 0.3], [1, 1, 0.99], [0.9, 1, 0.9]))
    assert found[:2].tolist() == pytest.approx([10, 40]) and found[2] == pytest.approx(20 * 2**0.5)


def test_departure_keeps_each_seeds_name():
    assert departure(table([1, 0, 0]).set_index(pd.Index([7], name="seed"))).index.tolist() == [7]


@pytest.mark.parametrize("offers", [(0, 1, 2), (3, 2, 1), ("a", "b", "c")])
def test_bad_offers_are_refused(offers):
    with pytest.raises(InputError, match="departure"):
        departure(pd.DataFrame([[1.0, 1.0, 1.0]], columns=list(offers)))
