"""A study: a question, cells, claims and a picture.

    cells -> search -> sweep -> one tidy table -> findings -> claims | checks -> figure, report

A cell is a NamedTuple: its fields become columns of the table. `Study` says what each cell trains, what is computed
from the table, and by which rules claims are decided; `experiment` runs it from the command line.
"""

from toysup.report import Run
from toysup.study.checks import bracketed, loads_suffice, moves
from toysup.study.rules import Check, Claim, Finding, Judged
from toysup.study.study import Outcome, Study, experiment
from toysup.study.training import Best, Given, Search, Variant

__all__ = [
    "Best",
    "Check",
    "Claim",
    "Finding",
    "Given",
    "Judged",
    "Outcome",
    "Run",
    "Search",
    "Study",
    "Variant",
    "bracketed",
    "experiment",
    "loads_suffice",
    "moves",
]
