"""What a study reads from its table: findings, and the claims and checks that rules decide from them.

Functions of all three name what they need, and are handed it: `rows` (the group's rows), a column that the group is
split by (its value), another finding (of this group where it is split by no more than this one, else a mapping from
group to value), `table` (all rows, variants too), or what the study has beside its table (`networks`, `features`,
`rates`, `run`). Parameters with a default are left alone.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pandas as pd

from toysup import stats
from toysup.checks import InputError, check_text, in_line
from toysup.stats import Interval, Verdict

__all__ = ["Check", "Claim", "Finding", "GroupVerdict", "Judged", "Known", "record"]

OWN = ("rows", "table")
VERDICTS: tuple[str, ...] = get_args(Verdict)
MAIN = ""  # the variant that is none
# Of a group's key: which number it is, and what a check compares with. Neither is what the group is of.
NOT_ABOUT = ("column", "variant")

Where = Mapping[str, Any] | Callable[[pd.DataFrame], Any] | None


def chosen(rows: pd.DataFrame, where: Where) -> np.ndarray:
    """(row,): whether a row is meant by column -> value or values, or by a function of the table that gives a mask."""
    if callable(where):
        return np.asarray(where(rows), dtype=bool)
    mask = np.ones(len(rows), dtype=bool)
    for column, wanted in (where or {}).items():
        if column not in rows:
            raise InputError(f"where: no column {column!r}, only {', '.join(map(str, rows))}")
        several = isinstance(wanted, list | tuple | set | frozenset | range)
        mask &= (rows[column].isin(list(wanted)) if several else rows[column] == wanted).to_numpy(dtype=bool)
    return mask


def needs(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of what a function asks for."""
    usual = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = inspect.signature(function).parameters.values()
    return tuple(p.name for p in own if p.kind in usual and p.default is inspect.Parameter.empty)


def columns(by: str | Sequence[str]) -> tuple[str, ...]:
    return (by,) if isinstance(by, str) else tuple(by)


@dataclass(frozen=True)
class Finding:
    """Something computed from the table, once for each group of its rows.

    Attributes:
        of: the function; it returns an `Interval`, a mapping from column to such or to numbers, a table, or anything
            that other findings and the figure need.
        by: columns; rows that agree in them are a group. None: all rows are one.
        named: what its intervals are called among the statistics, as `str.format` has it with the group's values and
            `column` ("{task}_{column}"), or a function of these names; "" where they are none.
        where: the rows it is about: column -> value or values, or a function of the table that gives a mask.
        variant: of which training: "" the main one, None all.
        kept: whether the document keeps it as rows; not where it is large and only serves other findings.
    """

    of: Callable[..., Any]
    by: str | Sequence[str] = ()
    named: str | Callable[..., str] = ""
    where: Where = None
    variant: str | None = MAIN
    kept: bool = True


@dataclass(frozen=True)
class Claim:
    """A sentence about the world, and the rule that decides it.

    Attributes:
        name: the verdict's name on all groups together; says: the sentence, which may hold the group's values ({task}).
        of: a finding's name ("slope"), one of its columns ("law.a"), or a function like a finding's; it gives an
            interval, a verdict, or True and False.
        inside: the region where the interval must lie (`stats.decide`), or a function that gives it; column -> region
            where several columns of a finding must each lie in theirs. outside: the region where it must not.
        by, where, variant: the groups, as of a `Finding`; those of the finding that `of` names unless given.
        each: the name of each group's verdict, as `Finding.named`; groups of one name are combined. "": not kept.
        combine: what holds of all groups together, `stats.every` or `stats.some`; None if nothing is said of them all.
        otherwise: the verdict where a flag is False.
        checks: names of the checks it rests on; None: all of the study's.
        least: the smallest mode that can decide it; --smoke shows the form alone.
    """

    name: str
    says: str
    of: str | Callable[..., Any]
    inside: Any = None
    outside: Any = None
    by: str | Sequence[str] | None = None
    where: Where = None
    variant: str | None = MAIN
    each: str | Callable[..., str] = ""
    combine: Callable[..., Verdict] | None = stats.every
    otherwise: Verdict = "rejected"
    checks: Sequence[str] | None = None
    least: str = "quick"

    def __post_init__(self) -> None:
        where = f"{type(self).__name__} {self.name!r}"
        check_text(where, "says", self.says)
        if not self.says.strip() or not self.name.strip():
            raise InputError(f"{where}: expected a name and a sentence, got {self.says!r}")
        if self.inside is not None and self.outside is not None:
            raise InputError(f"{where}: give inside or outside, not both")
        if self.otherwise not in VERDICTS:
            raise InputError(f"{where}: otherwise must be one of {', '.join(VERDICTS)}, got {in_line(self.otherwise)}")

    @property
    def about_the_run(self) -> bool:
        """Whether it says something about the run, not about the world."""
        return isinstance(self, Check)


@dataclass(frozen=True)
class Check(Claim):
    """A sentence about the run that claims rest on: rates bracketed, training long enough, a control that holds."""


@dataclass(frozen=True)
class GroupVerdict:
    """The verdict on one group: its values by column, its name, the interval it was decided from and the region."""

    key: dict[str, Any]
    name: str
    verdict: Verdict
    interval: Interval | None = None
    region: Any = None


@dataclass(frozen=True)
class Judged:
    """A claim or check with its verdicts. `verdict` is None where nothing is said of all groups together."""

    claim: Claim
    groups: list[GroupVerdict]
    verdict: Verdict | None
    failing: list[str] = field(default_factory=list)  # checks that it rests on and that don't hold
    short: bool = False  # the run is too small to decide it

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """All by name, as the document keeps them."""
        said: dict[str, list[Verdict]] = {}
        for group in self.groups:
            if group.name:
                said.setdefault(group.name, []).append(group.verdict)
        found = {name: (self.claim.combine or stats.every)(*own) for name, own in said.items()}
        if self.verdict is not None:
            found[self.claim.name] = self.verdict
        return found

    def bears_on(self, other: Judged) -> bool:
        """Whether this check, which fails, does so in a group of some group of a claim: both agree in the columns that
        split both (a check that fails with 8 facts at once says nothing against a claim about one at a time)."""
        ours = [group.key for group in self.groups if group.verdict != "supported"] or [{}]
        theirs = [group.key for group in other.groups] or [{}]
        return any(
            all(key[name] == value for name, value in mine.items() if name in key and name not in NOT_ABOUT)
            for mine in ours
            for key in theirs
        )

    @property
    def told(self) -> str:
        """The sentence, with the values of the groups where it fails where they agree, and in how many it fails."""
        failing = [group for group in self.groups if group.verdict != "supported"]
        each = [self.claim.says.format(**group.key) for group in failing] or [self.claim.says]
        general = self.claim.says.format(**{name: f"every {name}" for group in self.groups for name in group.key})
        says = each[0] if len(set(each)) == 1 else general
        return f"{says} (not in {len(failing)} of {len(self.groups)})" if len(self.groups) > 1 else says

    @property
    def words(self) -> str:
        """The verdict on all groups as a reader is told it."""
        if self.short:
            return "too short to tell"
        held = self.verdict or (stats.every(*(g.verdict for g in self.groups)) if self.groups else "undecided")
        told = {"supported": "yes", "rejected": "no", "undecided": "undecided"}[held]
        if self.verdict is None and len({group.verdict for group in self.groups}) > 1:
            told = "see groups"
        return f"{told}, but checks fail: {', '.join(self.failing)}" if self.failing else told


class Known:
    """Findings of a table, each computed once when it is first asked for."""

    def __init__(self, table: pd.DataFrame, findings: Mapping[str, Finding], beside: Mapping[str, Any] | None = None):
        self.table, self.findings, self.beside = table, dict(findings), dict(beside or {})
        self._values: dict[str, dict[Hashable, Any]] = {}
        self._busy: list[str] = []
        for name, finding in self.findings.items():
            if name in OWN or name in self.beside:
                raise InputError(f"finding {name!r}: expected another name, this one means something else")
            self.check(f"finding {name!r}", finding.of, columns(finding.by))

    def check(self, where: str, function: Callable[..., Any], by: tuple[str, ...]) -> None:
        """Refuse a function that asks for what nobody has, and groups by columns that aren't there."""
        missing = [name for name in by if name not in self.table]
        if missing:
            raise InputError(f"{where}: no column {missing[0]!r} to group by, only {', '.join(self.table)}")
        there = {*OWN, *by, *self.findings, *self.beside}
        unknown = [name for name in needs(function) if name not in there]
        if unknown:
            raise InputError(f"{where}: asks for {unknown[0]!r}; there are {', '.join(sorted(there))}")

    def rows(self, where: Where, variant: str | None) -> pd.DataFrame:
        """The rows that a finding or claim is about."""
        rows = self.table
        if variant is not None and "variant" in rows:
            rows = rows[rows["variant"] == variant]
        return rows[chosen(rows, where)]

    def groups(self, rows: pd.DataFrame, by: tuple[str, ...]) -> Iterator[tuple[Hashable, pd.DataFrame]]:
        """(key, rows): keys are values, or tuples of them where there are several columns."""
        if not by:
            yield (), rows
            return
        for key, own in rows.groupby(list(by), sort=False):
            yield (key[0] if len(by) == 1 else key), own

    def call(self, function: Callable[..., Any], by: tuple[str, ...], key: Hashable, rows: pd.DataFrame) -> Any:
        """The function's value on one group, handed what it asks for."""
        own = self.key_of(by, key)
        beside = {"rows": rows, "table": self.table, **self.beside, **own}
        given = {name: beside[name] if name in beside else self.seen_from(name, own) for name in needs(function)}
        return function(**given)

    def told(
        self, where: str, function: Callable[..., Any], by: tuple[str, ...], key: Hashable, rows: pd.DataFrame
    ) -> Any:
        """`call`, whose errors say of what they are."""
        try:
            return self.call(function, by, key, rows)
        except InputError as error:
            group = ", ".join(f"{name} = {value}" for name, value in self.key_of(by, key).items())
            said = str(error) if str(error).startswith("finding") else f"{where}{f' ({group})' * bool(by)}: {error}"
            raise InputError(said) from None

    def seen_from(self, name: str, own: Mapping[str, Any]) -> Any:
        """A finding as a group sees it: its own value where that is told by the group, else all values by group."""
        by, values = columns(self.findings[name].by), self.values(name)
        if set(by) <= set(own):
            key = () if not by else own[by[0]] if len(by) == 1 else tuple(own[column] for column in by)
            if key not in values:
                raise InputError(f"finding {name!r}: there is none for {in_line(dict(own))}")
            return values[key]
        return values

    def values(self, name: str) -> dict[Hashable, Any]:
        """A finding's values by group; its one value under () where it isn't split."""
        if name not in self.findings:
            raise InputError(f"no finding {name!r}, only {', '.join(self.findings)}")
        if name in self._busy:
            raise InputError(f"findings go in a circle: {' -> '.join([*self._busy, name])}")
        if name not in self._values:
            finding, by = self.findings[name], columns(self.findings[name].by)
            self._busy.append(name)
            try:
                rows = self.rows(finding.where, finding.variant)
                self._values[name] = {
                    key: self.told(f"finding {name!r}", finding.of, by, key, own) for key, own in self.groups(rows, by)
                }
            finally:
                self._busy.pop()
        return self._values[name]

    def __getitem__(self, name: str) -> Any:
        """A finding: its value, or its values by group where it is split."""
        values = self.values(name)
        return values if columns(self.findings[name].by) else values[()]

    def key_of(self, by: tuple[str, ...], key: Hashable) -> dict[str, Any]:
        """Column -> value of a group."""
        values = key if isinstance(key, tuple) and len(by) > 1 else (key,)
        return dict(zip(by, values, strict=True)) if by else {}

    def statistics(self) -> dict[str, Interval]:
        """All intervals that have names."""
        found: dict[str, Interval] = {}
        for name, finding in self.findings.items():
            if not finding.named:
                continue
            by = columns(finding.by)
            for key, value in self.values(name).items():
                several = value if isinstance(value, Mapping) else {name: value}
                for column, one in several.items():
                    if isinstance(one, Interval):
                        called = _named(finding.named, {**self.key_of(by, key), "column": column})
                        if called in found:
                            raise InputError(f"finding {name!r}: two statistics are called {called!r}")
                        found[called] = one
        return found

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """The findings that are kept, as rows with columns: the group's, then the value's."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name, finding in self.findings.items():
            if not finding.kept:
                continue
            by = columns(finding.by)
            found[name] = [
                {**self.key_of(by, key), **row} for key, value in self.values(name).items() for row in record(value)
            ]
        return found

    # ------------------------------------------------------------------------------------------------------- verdicts

    def judge(self, claim: Claim) -> Judged:
        """A claim's verdicts, by its rule."""
        groups = [group for found in self._of(claim) for group in self._by_column(claim, *found)]
        said = [group.verdict for group in groups]
        whole = None if claim.combine is None else claim.combine(*said) if said else "undecided"
        return Judged(claim, groups, whole)

    def _of(self, claim: Claim) -> Iterator[tuple[tuple[str, ...], Hashable, pd.DataFrame, Any]]:
        """(by, key, rows, value) of each of a claim's groups."""
        where = f"{type(claim).__name__.lower()} {claim.name!r}"
        if not isinstance(claim.of, str):
            by = columns(claim.by or ())
            self.check(where, claim.of, by)
            asked = self.rows(claim.where, claim.variant)
            for key, rows in self.groups(asked, by) if len(asked) or claim.where is None else ():
                yield by, key, rows, self.told(where, claim.of, by, key, rows)
            return
        name, *path = claim.of.split(".")
        if name not in self.findings:
            raise InputError(f"{where}: no finding {name!r}, only {', '.join(self.findings)}")
        finding = self.findings[name]
        by = columns(finding.by)
        rows = self.rows(finding.where, finding.variant)
        wanted = rows if claim.where is None else self.rows(claim.where, finding.variant)
        values = self.values(name)
        for key, own in self.groups(rows.loc[rows.index.intersection(wanted.index)], by):
            value = values[key]
            for step in path:
                if isinstance(value, Mapping) and step not in value:
                    raise InputError(f"{where}: finding {name!r} has no {step!r}, only {', '.join(map(str, value))}")
                value = value[step] if isinstance(value, Mapping) else getattr(value, step)
            yield by, key, own, value

    def _by_column(self, claim: Claim, by: tuple[str, ...], key: Hashable, rows: pd.DataFrame, value: Any
                   ) -> Iterator[GroupVerdict]:  # fmt: skip
        """A group's verdict, or one for each column that has a region of its own."""
        if not isinstance(claim.inside, Mapping):
            yield self._judge_group(claim, by, key, rows, value)
            return
        for column, region in claim.inside.items():
            if not isinstance(value, Mapping) or column not in value:
                has = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
                raise InputError(f"claim {claim.name!r}: expected a column {column!r}, got {has}")
            one = dataclasses.replace(claim, inside=region)
            group = self._judge_group(one, by, key, rows, value[column])
            yield dataclasses.replace(group, key={**group.key, "column": column})

    def _judge_group(self, claim: Claim, by: tuple[str, ...], key: Hashable, rows: pd.DataFrame, value: Any
                     ) -> GroupVerdict:  # fmt: skip
        own = self.key_of(by, key)
        called = _named(claim.each, own) if claim.each else ""
        region, out = (claim.inside, False) if claim.outside is None else (claim.outside, True)
        if callable(region):
            region = self.call(region, by, key, rows)
        if isinstance(value, Interval):
            if region is None:
                raise InputError(f"claim {claim.name!r}: expected the region where its interval must lie (inside)")
            verdict = stats.decide(value, region)
            if out:
                turned: dict[str, Verdict] = {"supported": "rejected", "rejected": "supported"}
                verdict = turned.get(verdict, verdict)
            return GroupVerdict(own, called, verdict, value, region)
        if isinstance(value, bool | np.bool_):
            return GroupVerdict(own, called, "supported" if value else claim.otherwise)
        if value not in VERDICTS:
            raise InputError(f"claim {claim.name!r}: expected an interval, a verdict or a flag, got {in_line(value)}")
        return GroupVerdict(own, called, value)


def _named(template: str | Callable[..., str], values: Mapping[str, Any]) -> str:
    if isinstance(template, str):
        try:
            return template.format(**values)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"name {template!r}: {error!r} is none of {', '.join(values)}") from None
    return template(**{name: values[name] for name in needs(template)})


def record(value: Any) -> list[dict[str, Any]]:
    """A finding's value as rows with columns."""
    if isinstance(value, pd.DataFrame):
        named = value if isinstance(value.index, pd.RangeIndex) else value.reset_index()
        return [{str(k): v for k, v in row.items()} for row in named.to_dict("records")]
    if isinstance(value, Interval):
        return [value.asdict()]
    if isinstance(value, Mapping):
        return [{_text(key): one for key, one in value.items()}]
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return [value._asdict()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [{f.name: getattr(value, f.name) for f in dataclasses.fields(value)}]
    return [{"value": value}]


def _text(key: Any) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
