"""Intervals, ratios, capacities, equivalence, exponents, peaks, plateaus; the rule from interval to verdict.

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
from toysup.stats.peaks import Peaks, peaks
from toysup.stats.plateaus import log_linear_stretch, stretches

__all__ = [
    "UNDEFINED",
    "Comparison",
    "Interval",
    "Peaks",
    "Verdict",
    "best_setting",
    "bootstrap",
    "capacity",
    "check_columns",
    "compare",
    "decide",
    "equivalence_by_load",
    "every",
    "exponents",
    "log_linear_stretch",
    "mean",
    "peaks",
    "quantile",
    "ratio",
    "share",
    "some",
    "stretches",
    "tost",
]
