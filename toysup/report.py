"""The frame of an experiment: its command line, its folders, and the picture and JSON it ends with.

A script states QUESTION, defines `main(run: Run)`, and ends with

    if __name__ == "__main__":
        experiment(main)
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import numbers
import os
import sys
import time
import xml.parsers.expat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib import cbook
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from toysup import plots
from toysup.checks import InputError, check_text, check_whole
from toysup.ensemble import resolve_device
from toysup.plots import saving
from toysup.stats import Interval, Verdict
from toysup.store import versions
from toysup.whole import write_whole

__all__ = ["Mode", "Run", "check_form", "experiment", "say", "write"]

Mode = Literal["smoke", "quick", "default", "full"]
MODES: tuple[str, ...] = get_args(Mode)
SCRATCH = ("smoke", "quick")  # modes whose pictures are for looking at, not for committing

KINDS = ("json", "png", "svg")
LONGEST = 1000  # characters of one text in a figure: ten lines that fill its width, and 2 s to draw

Choice = TypeVar("Choice")
ABSENT: Any = object()


@dataclass(frozen=True)
class Run:
    """One run of one experiment, as `main` receives it.

    Attributes:
        name: the script's stem; question: its QUESTION; mode: how much to do.
        device: where to train, resolved ("cpu", "cuda", ...); workers: CPU threads, None for all.
        results: folder for sweeps; figures: folder for the picture and the JSON. Both exist.
        versions: what ran (`versions()`), taken before anything was written.
        started: `time.perf_counter()` at the start.
        written: the documents that `write` has written.
    """

    name: str
    question: str
    mode: Mode
    device: str
    workers: int | None
    results: Path
    figures: Path
    versions: Mapping[str, Any]
    started: float = field(default_factory=time.perf_counter)
    written: list[dict[str, Any]] = field(default_factory=list)

    def pick(self, *, default: Choice, quick: Choice = ABSENT, smoke: Choice = ABSENT, full: Choice = ABSENT) -> Choice:
        """The choice for this mode. Left out, smoke takes quick's choice, and quick and full take default's."""
        quick = default if quick is ABSENT else quick
        smoke = quick if smoke is ABSENT else smoke
        full = default if full is ABSENT else full
        return {"smoke": smoke, "quick": quick, "default": default, "full": full}[self.mode]

    def sizes(
        self,
        default: Mapping[str, Any],
        *,
        quick: Mapping[str, Any] | None = None,
        smoke: Mapping[str, Any] | None = None,
        full: Mapping[str, Any] | None = None,
    ) -> SimpleNamespace:
        """Everything that depends on the mode, declared once:
        `run.sizes(dict(steps=2000, seeds=8), quick=dict(steps=500), smoke=dict(steps=4, seeds=2)).steps`.
        What a mode leaves out is as in `pick`: smoke takes quick's, quick and full take the default's."""
        chosen = dict(default)
        layers = {"quick": [quick], "smoke": [quick, smoke], "full": [full]}.get(self.mode, [])
        for given in (quick, smoke, full):
            unknown = [name for name in given or {} if name not in chosen]
            if unknown:
                raise InputError(f"sizes: {unknown[0]!r} is not among the default's {', '.join(default)}")
        for given in layers:
            chosen |= given or {}
        return SimpleNamespace(**chosen)


@dataclass(frozen=True)
class Options:
    smoke: Annotated[bool, tyro.conf.arg(help="the form only, in seconds")] = False
    quick: Annotated[bool, tyro.conf.arg(help="a picture worth looking at, within a minute")] = False
    full: Annotated[bool, tyro.conf.arg(help="everything; see the cost above")] = False
    device: Annotated[str, tyro.conf.arg(metavar="NAME", help="cpu, cuda, ...; auto takes cuda if it can")] = "auto"
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help="CPU threads; all unless given")] = None
    results: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help="trained sweeps; results/ unless given")] = None
    figures: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help="picture and JSON; figures/, or results/figures/ with --smoke and --quick"),
    ] = None


def experiment(
    main: Callable[[Run], None], argv: list[str] | None = None, *, script: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run a script's `main` under the common command line and in the common style; return the document it wrote.

    Folders sit beside the script, or one up where its folder is called experiments. Pictures of --smoke and --quick go
    to results/figures unless --figures says otherwise, and never replace those of a default or full run.

    Args:
        main: defined in a file that also defines QUESTION and has a docstring, which is the text of --help.
        argv: the arguments, without the script's name; the command line's by default.
        script: the globals of that file, where `main` was made elsewhere.

    Raises:
        SystemExit: code 2 after one line on standard error, if anything raised `InputError`.
    """
    script = main.__globals__ if script is None else script
    path = Path(script["__file__"]).resolve()
    options = tyro.cli(
        Options,
        prog=path.name,
        description=script.get("__doc__") or "",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        run = _prepare(path, script.get("QUESTION"), options)
        with plots.style():
            main(run)
        if not run.written:
            raise InputError("expected main to end with report.write(...), it wrote nothing")
    except InputError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return run.written[-1]


def _prepare(path: Path, question: Any, options: Options) -> Run:
    """Check everything that can be checked before training."""
    check_name(path.stem)
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"expected QUESTION = '...' in {path.name}, got {question!r}")
    check_text(path.name, "QUESTION", question)
    asked = [mode for mode in ("smoke", "quick", "full") if getattr(options, mode)]
    if len(asked) > 1:
        raise InputError(f"expected at most one of --smoke, --quick and --full, got --{' --'.join(asked)}")
    mode = asked[0] if asked else "default"
    if options.workers is not None:
        check_whole("command line", "--workers", options.workers)
    root = path.parent.parent if path.parent.name == "experiments" else path.parent
    try:
        results = (options.results or root / "results").expanduser()
        figures = (options.figures or (results / "figures" if mode in SCRATCH else root / "figures")).expanduser()
    except RuntimeError:
        raise InputError("--results, --figures: there is no home folder to put in place of ~") from None
    if mode in SCRATCH:
        _spare(figures, path.stem, mode)
    for flag, folder in (("--results", results), ("--figures", figures)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{flag}: expected a folder, got {folder} ({error.strerror})") from None
        if not os.access(folder, os.W_OK):
            raise InputError(f"{flag}: expected a folder that can be written, got {folder}")
    device = str(resolve_device(options.device))
    return Run(path.stem, question, mode, device, options.workers, results, figures, versions(path.parent, device))


def _spare(figures: Path, name: str, mode: str) -> None:
    """Refuse to replace what a default or full run left, or what nobody can tell."""
    there = [figures / f"{name}.{kind}" for kind in KINDS]
    if not any(file.exists() for file in there):
        return
    try:
        before = json.loads(there[0].read_text(encoding="utf-8"))["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        before = "unknown"
    if before not in SCRATCH:
        raise InputError(f"--{mode} would replace {figures / name}.* of a run in mode {before}; give another --figures")


def write(
    run: Run,
    figure: Figure,
    *,
    statistics: Mapping[str, Interval],
    verdict: Mapping[str, Verdict],
    controls: Mapping[str, Mapping[str, Any]] | None = None,
    answer: str | None = None,
    claims: Sequence[Mapping[str, Any]] = (),
    checks: Sequence[Mapping[str, Any]] = (),
    findings: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    rates: pd.DataFrame | None = None,
    instances: int,
    steps: int,
    engine: str,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Write NAME.png, NAME.svg and NAME.json into `run.figures`, print them as a table, and return the document.

    Everything is drawn before anything is written, and an interrupted run leaves whole files (`write_whole`). The same
    figure gives the same bytes.

    Args:
        figure: its texts may hold what `check_text` allows, math between two $ as matplotlib has it, and at most
            1,000 characters each.
        statistics: name -> interval; a number that is not finite (undefined, unbounded) becomes null.
        verdict: hypothesis -> "supported", "rejected" or "undecided" (`stats.decide`).
        controls: name -> anything JSON can hold; intervals and arrays are converted (of scripts that are no `Study`).
        answer: the answer to the question, in a sentence. claims, checks: what `Study` says of each, with its groups.
        findings: name -> rows with columns. rates: learning rates searched, a row per cell.
        instances: networks trained; steps: optimiser steps each took (the most, where they differ).
        engine: what trained them, such as "general, compiled".
        seconds: spent on training, where that was kept (`Results.seconds`), so that redrawing does not look like
            training; the time since the script started unless given.

    Raises:
        InputError: the document does not fit the form (`check_form`), the figure holds a text that cannot be drawn, or
            the files cannot be written; then what was there stays.
    """
    told: dict[str, Any] = {"controls": controls}
    if controls is None:
        told = {"claims": claims, "checks": checks, "findings": dict(findings or {})}
        if rates is not None and len(rates):
            told["findings"]["learning_rates"] = rates.to_dict("records")
        told = {"answer": answer, **told}
    document = _plain(
        {
            "experiment": run.name,
            "question": run.question,
            "mode": run.mode,
            "statistics": statistics,
            "verdict": verdict,
            **told,
            "instances": instances,
            "steps": steps,
            "seconds": round(time.perf_counter() - run.started if seconds is None else seconds, 2),
            "engine": engine,
            "versions": run.versions,
        }
    )
    check_form(document)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    written = {"json": text.encode(), **_drawn(figure, run.name)}  # JSON first: it says whose pictures may be replaced
    write_whole({run.figures / f"{run.name}.{kind}": content for kind, content in written.items()})
    run.written.append(document)
    say(_table(document))
    say(f"{run.figures / run.name}.png, .svg, .json")
    if "answer" in document:
        say(f"\n{document['answer']}")
    return document


def say(text: str) -> None:
    """Print, with escapes for what the encoding of standard output doesn't have."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # None: no output, or one kept in memory
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _drawn(figure: Figure, name: str) -> dict[str, bytes]:
    """The figure as PNG and SVG, each below 500 kB."""
    _check_texts(figure)
    try:
        drawn = saving.files(figure, name)
    except (TypeError, ValueError):  # what matplotlib says to a text that it can't draw
        _check_texts(figure, math=True)
        raise
    _check_texts(figure)  # ticks know theirs by now
    try:
        xml.parsers.expat.ParserCreate().Parse(drawn["svg"], True)
    except xml.parsers.expat.ExpatError as error:  # an artist's gid or url
        raise InputError(f"figure: expected names of artists that XML can hold ({error})") from None
    return drawn


def _check_texts(figure: Figure, math: bool = False) -> None:
    for artist in figure.findobj(Text):
        text = artist.get_text()
        check_text("figure", "a label", text)
        if len(text) > LONGEST:
            raise InputError(f"figure: expected labels of at most {LONGEST} characters, got {len(text)}: {text!r:.60}")
        if math and artist.get_parse_math() and cbook.is_math_text(text):
            try:
                MathTextParser("path").parse(text)
            except ValueError:
                raise InputError(f"figure: matplotlib cannot draw the math in {text!r:.80}") from None


def _table(document: dict[str, Any]) -> str:
    """The document for a terminal."""
    estimates = pd.DataFrame.from_dict(document["statistics"], orient="index").astype(float)
    size = f"{document['instances']} instances, {document['steps']} steps, {document['seconds']:g} s"
    head = f"{document['question']}\n{document['mode']}: {size}, engine {document['engine']}"
    numbers_of = estimates.to_string(float_format="{:.4g}".format, na_rep="-")
    if "controls" in document:
        return "\n\n".join(["", head, numbers_of, pd.Series(document["verdict"]).to_string()]) + "\n"
    told = [f"{one['shown']:>10}  {one['says']}" for one in document["claims"]]
    ran = [f"{one['verdict'] or 'see file':>10}  {one['says']}" for one in document["checks"]]
    parts = [head, numbers_of, "\n".join(["Claims", *told]), *(["\n".join(["Checks of the run", *ran])] if ran else [])]
    return "\n\n".join(["", *parts]) + "\n"


def _plain(value: Any) -> Any:
    """The value in JSON's own types; numbers that are not finite become null."""
    if isinstance(value, Interval):
        value = value.asdict()
    if isinstance(value, Mapping):
        plain = {str(key): _plain(item) for key, item in value.items()}
        if len(plain) < len(value):
            raise InputError(f"report: expected keys that differ as text, got {list(value)!r:.80}")
        return plain
    if isinstance(value, np.ndarray | np.generic | torch.Tensor | pd.Series):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("records"))
    if dataclasses.is_dataclass(value):  # a shape, features: as they call themselves
        return str(value)
    got = " ".join(repr(value).split())[:60]
    raise InputError(f"report: expected numbers, text, lists and mappings, got {type(value).__name__}: {got}")


FORM: dict[str, type] = {
    "experiment": str,
    "question": str,
    "mode": str,
    "statistics": dict,
    "verdict": dict,
    "controls": dict,
    "instances": int,
    "steps": int,
    "seconds": float,
    "engine": str,
    "versions": dict,
}


TOLD: dict[str, type] = {"answer": str, "claims": list, "checks": list, "findings": dict}  # in place of controls


def check_name(name: Any) -> None:
    """Refuse the name of an experiment that is no name of a file: its files would be written elsewhere."""
    check_text("report", "an experiment's name", name)
    if name != PureWindowsPath(name).name or not name.strip() or name.startswith("."):
        raise InputError(f"report: expected an experiment's name without /, \\ and a leading dot, got {name!r:.80}")


def _texts(value: Any) -> Iterator[Any]:
    """All keys and texts, at any depth."""
    if isinstance(value, Mapping):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def check_form(document: Mapping[str, Any]) -> None:
    """Refuse a document that is not of the form every experiment writes.

    Exactly the keys of FORM, none empty: at least one statistic, verdict and control, each with a name. A statistic is
    {value, low, high} with low <= value <= high to a relative 1e-9 (rounding), null where undefined or unbounded. Text
    is what `check_text` allows.
    """

    def refuse(where: str, expected: str, got: Any) -> None:
        raise InputError(f"report: {where} must be {expected}, got {' '.join(repr(got).split())[:80]}")

    if not isinstance(document, Mapping):
        refuse("the document", "a mapping", document)
    form = dict(FORM)
    if "controls" not in document:
        form = {key: kind for key, kind in FORM.items() if key != "controls"} | TOLD
    if set(document) != set(form):
        refuse("the document", f"a mapping with the keys {', '.join(form)}", [*document])
    for key, kind in form.items():
        value = document[key]
        if kind in (int, float):
            kind = numbers.Integral if kind is int else numbers.Real
            if isinstance(value, bool) or not isinstance(value, kind) or not float(value) >= 0:
                refuse(key, "a number >= 0" if kind is numbers.Real else "a whole number >= 0", value)
        elif not isinstance(value, kind) or not (value or key in ("checks", "findings")):
            refuse(key, f"a filled {kind.__name__}", value)
    check_name(document["experiment"])
    for text in _texts(document):
        check_text("report", "a name or text", text)
    for key in ("statistics", "verdict", "controls"):
        if not all(map(str.strip, document.get(key, {}))):
            refuse(key, "named by filled text", list(document[key]))
    if document["mode"] not in MODES:
        refuse("mode", f"one of {', '.join(MODES)}", document["mode"])
    for name, statistic in document["statistics"].items():
        if not isinstance(statistic, Mapping) or set(statistic) != {"value", "low", "high"}:
            refuse(f"statistic {name!r}", "{value, low, high}", statistic)
        ends = [statistic[key] for key in ("low", "value", "high")]
        if any(isinstance(x, bool) or not (x is None or isinstance(x, numbers.Real)) for x in ends):
            refuse(f"statistic {name!r}", "three numbers or nulls", statistic)
        known = [x for x in ends if x is not None]
        slack = 1e-9 * max(map(abs, known), default=0)
        ordered = all(a <= b + slack for a, b in itertools.pairwise(known))
        if not (ordered and all(map(math.isfinite, known))):
            refuse(f"statistic {name!r}", "finite with low <= value <= high", statistic)
    for name, found in document["verdict"].items():
        if found not in get_args(Verdict):
            refuse(f"verdict {name!r}", f"one of {', '.join(get_args(Verdict))}", found)
    for name, control in document.get("controls", {}).items():
        if not isinstance(control, Mapping):
            refuse(f"control {name!r}", "a mapping", control)
    for part in ("claims", "checks"):
        for one in document.get(part, []):
            if not isinstance(one, Mapping) or not {"name", "says", "verdict", "groups"} <= set(one):
                refuse(part, "mappings with name, says, verdict and groups", one)
            if one["verdict"] is not None and one["verdict"] not in get_args(Verdict):
                refuse(f"the verdict of {one['name']!r}", f"one of {', '.join(get_args(Verdict))}", one["verdict"])
    for name, rows in document.get("findings", {}).items():
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            refuse(f"finding {name!r}", "a list of rows", rows)
