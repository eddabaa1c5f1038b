"""Intervals, ratios, capacities, equivalence, exponents, and the one rule that turns an interval into a verdict.

Samples are independent units, normally seeds: one number per seed, already averaged inside the seed.
"""

from toysup.stats.agreement import (
    Agreement,
    agreement,
)
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
    capacities,
    capacity,
    check_columns,
    compare,
    equivalence_by_load,
    tost,
)
from toysup.stats.departure import (
    departure,
)
from toysup.stats.descent import (
    DoubleDescent,
    double_descent,
)
from toysup.stats.equivalence import (
    Equivalence,
    equivalence,
)
from toysup.stats.exponents import (
    ExponentFit,
    exponent,
    fit_exponents,
    misfit,
    slopes,
)
from toysup.stats.intervals import (
    UNDEFINED,
    Interval,
    Verdict,
    bootstrap,
    decide,
    every,
    mean,
    mean_share,
    quantile,
    quotient,
    ratio,
    share,
    some,
)
from toysup.stats.levels import (
    busiest_levels,
    near_levels,
)
from toysup.stats.matching import (
    nearest_pairs,
)
from toysup.stats.peaks import (
    Peaks,
    peaks,
)
from toysup.stats.plateaus import (
    log_linear_stretch,
    stretches,
)
from toysup.stats.sudden import (
    SuddenMoves,
)
from toysup.stats.supremum import (
    supremum,
)
from toysup.stats.switching import (
    crossing,
    holds_up_to,
    threshold,
)

__all__ = [
    "UNDEFINED",
    "Agreement",
    "Around",
    "ChangePoints",
    "Coincidence",
    "Comparison",
    "DoubleDescent",
    "Equivalence",
    "ExponentFit",
    "Interval",
    "Peaks",
    "SuddenMoves",
    "Transition",
    "Verdict",
    "agreement",
    "around",
    "best_setting",
    "bootstrap",
    "busiest_levels",
    "capacities",
    "capacity",
    "change_points",
    "check_columns",
    "coincidence",
    "compare",
    "crossing",
    "decide",
    "departure",
    "double_descent",
    "equivalence",
    "equivalence_by_load",
    "every",
    "exponent",
    "fit_exponents",
    "holds_up_to",
    "log_linear_stretch",
    "mean",
    "mean_share",
    "misfit",
    "near_levels",
    "nearest_pairs",
    "peaks",
    "quantile",
    "quotient",
    "ratio",
    "share",
    "slopes",
    "some",
    "stretches",
    "supremum",
    "threshold",
    "tost",
    "transitions",
]
