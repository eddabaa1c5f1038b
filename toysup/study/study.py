"""`Study`: what is trained, what is found, what is claimed, what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from toysup import plots, report
from toysup.checks import InputError, check_kind, in_line
from toysup.grid import Grid
from toysup.measure import features_offered, held_out_loss, recovered
from toysup.plots import Figure
from toysup.report import MODES, SCRATCH, Run
from toysup.results import Measure
from toysup.setting import Setting
from toysup.stats import Interval
from toysup.study.rules import MAIN, Check, Claim, Finding, Judged, Known, needs
from toysup.study.training import Given, Search, Table, Variant, train

__all__ = ["Outcome", "Study", "experiment"]

BESIDE = ("networks", "features", "rates", "mode")  # what functions may ask for beside table, rows and findings


class Outcome:
    """What a study gave: `trained` (its table, networks), `known` (findings), `judged` (claims, checks by name)."""

    def __init__(self, study: Study, trained: Table, mode: str) -> None:
        self.study, self.trained, self.mode = study, trained, mode
        beside = {"networks": trained.networks, "features": trained.features, "rates": trained.rates, "mode": mode}
        self.known = Known(trained.rows, study.findings, beside)
        judged = {claim.name: self.known.judge(claim) for claim in study.declared}
        failing = {name: one for name, one in judged.items() if one.claim.about_the_run and "supported" != _whole(one)}
        self.judged = {name: self._resting(one, failing) for name, one in judged.items()}

    def _resting(self, one: Judged, failing: Mapping[str, Judged]) -> Judged:
        if one.claim.about_the_run:
            return one
        rests = failing if one.claim.checks is None else one.claim.checks
        own = [name for name, check in failing.items() if name in rests and check.bears_on(one)]
        small = MODES.index(self.mode) < MODES.index(one.claim.least)
        return Judged(one.claim, one.groups, one.verdict, own, small or (bool(own) and self.mode in SCRATCH))

    @property
    def claims(self) -> list[Judged]:
        return [one for one in self.judged.values() if not one.claim.about_the_run]

    @property
    def checks(self) -> list[Judged]:
        return [one for one in self.judged.values() if one.claim.about_the_run]

    @property
    def verdicts(self) -> dict[str, Any]:
        """All verdicts by name; "undecided" where the run is too short to tell."""
        found: dict[str, Any] = {}
        for one in self.judged.values():
            own = dict.fromkeys(one.verdicts, "undecided") if one.short else one.verdicts
            if twice := set(own) & set(found):
                raise InputError(f"Study: two verdicts are called {sorted(twice)[0]!r}")
            found |= own
        return found

    def call(self, function: Callable[..., Any]) -> Any:
        """A function handed what it asks for: `rows` (of the main training), `table` (of variants too), findings,
        `judged`, `verdicts`, and what else there is."""
        beside = {"judged": self.judged, "verdicts": self.verdicts, "rows": self.known.rows(None, MAIN)}
        beside |= {"table": self.trained.rows, **self.known.beside}
        there = {*beside, *self.known.findings}
        unknown = [name for name in needs(function) if name not in there]
        if unknown:
            name = getattr(function, "__name__", "function")
            raise InputError(f"{name}: asks for {unknown[0]!r}; there are {', '.join(sorted(there))}")
        return function(**{name: beside[name] if name in beside else self.known[name] for name in needs(function)})

    @property
    def answer(self) -> str:
        """The answer in a sentence, with what it can't be held to."""
        said = " ".join(str(self.call(self.study.answer)).split())
        short = [one for one in self.claims if one.short]
        named = {name for one in self.claims for name in one.failing}
        first, rest = [one.told for name, one in self.judged.items() if name in named][:2], max(0, len(named) - 2)
        failing = "; ".join([*first, *([f"{rest} more"] if rest else [])])
        if short:
            why = f" (checks that fail: {failing})" if failing else ""
            part = "" if len(short) == len(self.claims) else f"{len(short)} of {len(self.claims)} claims: "
            return f"{part}Too short to tell with --{self.mode}{why}. So far: {said}"
        marked = sum(bool(one.failing) for one in self.claims)
        bearing = "" if marked == len(self.claims) else f", on which {marked} of {len(self.claims)} claims rest"
        return f"{said} (Checks that fail{bearing}: {failing}.)" if failing else said

    def figure(self) -> Figure:
        """The picture, with the answer as its title unless it has one."""
        drawn: Figure = self.call(self.study.draw)
        check_kind("Study", "what draw returns", drawn, Figure)
        if drawn.get_suptitle() == "":
            plots.title(drawn, self.answer)
        return drawn


def _whole(one: Judged) -> str:
    if one.verdict is not None:
        return one.verdict
    return "supported" if all(group.verdict == "supported" for group in one.groups) else "undecided"


class Study:
    """What is trained, what is found in it, what is claimed of it, and what is drawn.

    Args:
        cells: NamedTuples; their fields (and properties that the class adds) become columns.
        grid: cell -> the `Grid` (or `Setting`) that it trains; with a second argument `best` it is handed what the
            search found (`Best`: lr, score, bracketed). The learning rate found is set, and an axis of seeds added.
        measures: functions of trained networks, each a column or several; or cell -> such. seeds: how many, or which.
        search: how each cell's learning rate is searched; None: it is that of its setting.
        variants: the same cells trained otherwise, by name, which the column `variant` holds ("": the main training).
        given: networks built by hand, untrained ones or published values, as `Given` rows; or a function that makes
            them. A `Table` is what an earlier study trained (`study.train(...).trained`), of which this one goes on.
        derive: table -> table, with further columns; with a second argument `networks` it is handed what gives the
            networks of some rows.
        findings: by name, what is computed from the table once for each group of rows.
        claims: `Claim`s about the world and `Check`s of the run.
        draw: a function that names what it needs (`table`, findings, `networks`, `features`, `rates`, `judged`,
            `verdicts`) and returns the figure. answer: likewise, the answer to the question in a sentence.
        snapshots, engine, compile: as `sweep`, but for --smoke, which compiles nothing unless `engine` is named.
        workers: processes, unless whoever trains says; give them where measuring is the work, not training.

    In a notebook: `study = Study(...)`, then `study.table()`, `study.claims()`, `study.figure()`; options of `train`
    (results, device, workers) are those of the first call.
    """

    def __init__(
        self,
        cells: Sequence[Any] = (),
        grid: Callable[..., Grid | Setting] | None = None,
        *,
        measures: Sequence[Measure] | Callable[[Any], Sequence[Measure]] = (held_out_loss, recovered, features_offered),
        seeds: int | Iterable[int] = 8,
        search: Search | None = None,
        variants: Mapping[str, Variant] | None = None,
        given: Sequence[Given | Table] | Callable[[], Sequence[Given | Table]] = (),
        derive: Callable[..., pd.DataFrame] | None = None,
        findings: Mapping[str, Finding] | None = None,
        claims: Sequence[Claim] = (),
        draw: Callable[..., Figure] | None = None,
        answer: Callable[..., str] | None = None,
        snapshots: Sequence[int] = (),
        engine: str = "auto",
        compile: bool | None = None,
        workers: int | None = None,
    ) -> None:
        self.cells, self.grid, self.workers = tuple(cells), grid, workers
        self.seeds = seeds if isinstance(seeds, int) else tuple(seeds)  # asked for by every cell
        self.measures = measures if callable(measures) else tuple(measures)
        self.search, self.variants, self.given, self.derive = search, dict(variants or {}), given, derive
        self.findings, self.declared = dict(findings or {}), tuple(claims)
        self.draw, self.answer = draw or board, answer or said
        self.snapshots, self.sweeping = tuple(snapshots), {"engine": engine, "compile": compile}
        self._outcome: Outcome | None = None
        for name, finding in self.findings.items():
            check_kind("Study", f"finding {name!r}", finding, Finding)
        for claim in self.declared:
            check_kind("Study", "a claim", claim, Claim)
        names = [claim.name for claim in self.declared]
        if len(set(names)) < len(names):
            raise InputError(f"Study: two claims are called {max(names, key=names.count)!r}")
        checks = {claim.name for claim in self.declared if isinstance(claim, Check)}
        for claim in self.declared:
            for name in claim.checks or ():
                if name not in checks:
                    raise InputError(f"Study: claim {claim.name!r} rests on {name!r}, which is no check")
            if claim.least not in MODES:
                raise InputError(f"Study: claim {claim.name!r}: least must be one of {', '.join(MODES)}")

    def train(
        self,
        *,
        results: Path | str | None = None,
        device: str | torch.device = "auto",
        workers: int | None = None,
        mode: str = "default",
    ) -> Outcome:
        """Train what is not in the folder `results` yet, and find and judge what the study asks for."""
        options = {"results": results, "device": device, "workers": workers or self.workers}
        eager = {"engine": "general", "compile": False}  # a few steps: compiling takes longer than they do
        sweeping = eager if mode == "smoke" and self.sweeping["engine"] == "auto" else self.sweeping
        trained = train(
            self.cells,
            self.grid,
            self.measures,
            seeds=self.seeds,
            search=self.search,
            variants=self.variants,
            given=list(self.given() if callable(self.given) else self.given),
            snapshots=self.snapshots,
            options=options,
            sweeping=sweeping,
        )
        if self.derive:
            more = {"networks": trained.networks} if "networks" in needs(self.derive)[1:] else {}
            derived = self.derive(trained.rows, **more)
            if not isinstance(derived, pd.DataFrame):
                raise InputError(f"Study: derive must return the table with its new columns, got {in_line(derived)}")
            trained.rows = derived
        self._outcome = Outcome(self, trained, mode)
        return self._outcome

    @property
    def outcome(self) -> Outcome:
        """What it gave, trained now unless it was."""
        return self._outcome or self.train()

    def table(self) -> pd.DataFrame:
        """One row per network."""
        return self.outcome.trained.rows

    def claims(self) -> pd.DataFrame:
        """One row per claim and check: what it says, the verdict in a word, and which checks it rests on fail."""
        rows = [{"name": one.claim.name, "says": one.claim.says, "verdict": one.words,
                 "kind": "check" if one.claim.about_the_run else "claim"} for one in
                self.outcome.judged.values()]  # fmt: skip
        return pd.DataFrame(rows, columns=["name", "says", "verdict", "kind"]).set_index("name")

    def figure(self) -> Figure:
        """The picture."""
        with plots.style():
            return self.outcome.figure()

    def report(self, run: Run) -> dict[str, Any]:
        """Train, judge, draw, write the picture and the document (`report.write`), and end with the answer."""
        found = self.train(results=run.results, device=run.device, workers=run.workers, mode=run.mode)
        rows = found.trained.rows
        statistics = found.known.statistics()
        engines = sorted({str(engine) for engine in rows["engine"].dropna()}) if "engine" in rows else []
        return report.write(
            run,
            found.figure(),
            statistics=statistics or _of_claims(found),
            verdict=found.verdicts,
            answer=found.answer,
            claims=[entry(one) for one in found.claims],
            checks=[entry(one) for one in found.checks],
            findings=found.known.records(),
            rates=found.trained.rates,
            instances=found.trained.instances,
            steps=int(rows["steps"].max()) if "steps" in rows and len(rows) else 0,
            engine=", ".join(name for name in engines if name != "given") or "none",
            seconds=found.trained.seconds if found.trained.answers else None,
        )


def _of_claims(found: Outcome) -> dict[str, Interval]:
    """The intervals that claims were decided from, where no finding has a name."""
    return {group.name or one.claim.name: group.interval for one in found.judged.values() for group in one.groups
            if group.interval is not None}  # fmt: skip


def entry(one: Judged) -> dict[str, Any]:
    """A claim or check as the document keeps it."""
    groups = []
    for group in one.groups:
        row = {**group.key, "verdict": group.verdict}
        if "{" in one.claim.says:
            row["says"] = one.claim.says.format(**group.key)
        if group.name:
            row["name"] = group.name
        if group.interval is not None:
            row |= group.interval.asdict() | {"region": group.region}
        groups.append(row)
    kept: dict[str, Any] = {"name": one.claim.name, "says": one.claim.says, "verdict": one.verdict, "shown": one.words}
    if one.claim.about_the_run:
        del kept["shown"]
    else:
        kept["failing_checks"] = one.failing
    kept["rule"] = "inside" if one.claim.inside is not None else "outside" if one.claim.outside is not None else "flag"
    return kept | {"groups": groups}


def said(judged: Mapping[str, Judged]) -> str:
    """Which claims hold, where a study gives no answer of its own."""
    claims = [one for one in judged.values() if not one.claim.about_the_run]
    held = [one.claim.says for one in claims if _whole(one) == "supported"]
    return "; ".join(held) if held else "None of the claims is supported"


def board(judged: Mapping[str, Judged]) -> Figure:
    """The claims and their verdicts, where a study draws nothing of its own."""
    figure, axes = plots.figure(1, 1, height=0.5 + 0.35 * max(1, len(judged)))
    axes[0, 0].set_axis_off()
    if judged:
        plots.claims(axes[0, 0], {one.claim.says: _whole(one) for one in judged.values()})
    return figure


def experiment(make: Callable[[Run], Study], argv: list[str] | None = None) -> dict[str, Any]:
    """Run a script's study under the common command line (`report.experiment`); return the document it wrote.

    Args:
        make: run -> `Study`, defined in a file with a docstring and QUESTION.
        argv: the arguments, without the script's name; the command line's by default.
    """

    def main(run: Run) -> None:
        study = make(run)
        check_kind("experiment", "what the script's function returns", study, Study)
        study.report(run)

    return report.experiment(main, argv, script=make.__globals__)
