"""Intervals, ratios, capacities, equivalence, exponents, and the one rule that turns an interval into a verdict.

Samples are independent units, normally seeds: one number per seed, already averaged inside the seed.
"""

from toysup.stats.comparison import (
    Comparison,
    best_setting,
    capacity,
    check_columns,
    compare,
    equivalence_by_load,
    tost,
)
from toysup.stats.descent import DoubleDescent, double_descent
from toysup.stats.exponents import exponents
from toysup.stats.intervals import (
    UNDEFINED,
    Interval,
    Verdict,
    bootstrap,
    decide,
    every,
    mean,
    quantile,
    ratio,
    share,
    some,
)

__all__ = [
    "UNDEFINED",
    "Comparison",
    "DoubleDescent",
    "Interval",
    "Verdict",
    "best_setting",
    "bootstrap",
    "capacity",
    "check_columns",
    "compare",
    "decide",
    "double_descent",
    "equivalence_by_load",
    "every",
    "exponents",
    "mean",
    "quantile",
    "ratio",
    "share",
    "some",
    "tost",
]
