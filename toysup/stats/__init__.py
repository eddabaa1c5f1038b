"""Intervals, ratios, capacities, equivalence, exponents, and the one rule that turns an interval into a verdict.

Samples are independent units, normally seeds: one number per seed, already averaged inside the seed.
"""

from toysup.stats.change_points import (
    Around,
    ChangePoints,
    Coincidence,
    Transition,
    around,
    change_points,
    coincidence,
    transitions,
)
from toysup.stats.comparison import (
    Comparison,
    best_setting,
    capacity,
    check_columns,
    compare,
    equivalence_by_load,
    tost,
)
from toysup.stats.exponents import (
    exponents,
)
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
from toysup.stats.peaks import (
    Peaks,
    peaks,
)
from toysup.stats.plateaus import (
    log_linear_stretch,
    stretches,
)
from toysup.stats.transitions import (
    threshold,
)

__all__ = [
    "UNDEFINED",
    "Around",
    "ChangePoints",
    "Coincidence",
    "Comparison",
    "Interval",
    "Peaks",
    "Transition",
    "Verdict",
    "around",
    "best_setting",
    "bootstrap",
    "capacity",
    "change_points",
    "check_columns",
    "coincidence",
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
    "threshold",
    "tost",
    "transitions",
]
