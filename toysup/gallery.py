"""Every experiment with its question, what it cost and what it found: as a list, and as a page of pictures.

Both are made from the scripts in experiments/ and the JSON documents in figures/, and from nothing else.
"""

from __future__ import annotations

import ast
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from toysup.checks import InputError, check_text
from toysup.report import check_form
from toysup.stats import Verdict

__all__ = ["Entry", "entries", "listing", "page"]

VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Entry:
    """One experiment: its script's name and QUESTION, and the document of its latest committed run, if there is one."""

    name: str
    question: str
    document: Mapping[str, Any] | None

    @property
    def cost(self) -> str:
        """What was trained, how long that took and in which mode; "not run yet" without a document."""
        if self.document is None:
            return "not run yet"
        networks, seconds = self.document["instances"], self.document["seconds"]
        long = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
        return f"{networks:,} networks, {long} ({self.document['mode']})"

    def found(self, verdict: str) -> list[str]:
        """What got this verdict, in the document's order: claims as sentences, or names where it has no sentences."""
        document = self.document or {"verdict": {}}
        if "claims" not in document:
            return [name for name, own in document["verdict"].items() if own == verdict]
        return [sentence for claim in document["claims"] for sentence, own in told(claim) if own == verdict]

    @property
    def answer(self) -> str:
        """The answer in a sentence; "" where the document has none."""
        return (self.document or {}).get("answer", "")

    @property
    def failing(self) -> list[str]:
        """What checks of the run say that does not hold, or could not be told."""
        checks = (self.document or {}).get("checks", [])
        return [sentence for check in checks for sentence, own in told(check) if own != "supported"]


def told(claim: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(sentence, verdict) of a claim in a document: one for all its groups, or where nothing is said of them together
    one for each, with what tells it apart."""
    if claim["verdict"] is not None:
        return [(claim["says"], claim["verdict"])]
    about = {"verdict", "name", "value", "low", "high", "region", "says"}
    found = []
    for group in claim["groups"]:
        own = ", ".join(f"{name} = {value}" for name, value in group.items() if name not in about)
        found.append((group.get("says") or (f"{claim['says']} ({own})" if own else claim["says"]), group["verdict"]))
    return found


def entries(root: Path) -> list[Entry]:
    """All experiments below a checkout, by name. InputError where there is no experiments folder or a JSON is not of
    the form that experiments write."""
    folder = root / "experiments"
    if not folder.is_dir():
        raise InputError(f"gallery: expected a checkout of toysup with a folder experiments, got {root}")
    found = []
    for script in sorted(folder.glob("[a-z]*.py")):
        committed, document = root / "figures" / f"{script.stem}.json", None
        if committed.exists():
            document = _document(committed)
        found.append(Entry(script.stem, _question(script), document))
    return found


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
        check_form(document)
    except InputError as error:
        raise InputError(f"gallery: {file.name}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"gallery: expected JSON in {file.name}, got {_line(error)}") from None
    return document


def _question(script: Path) -> str:
    """The script's QUESTION, read without running it."""
    try:
        for node in ast.parse(script.read_bytes()).body:
            if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["QUESTION"]:
                question = ast.literal_eval(node.value)
                check_text(f"gallery: {script.name}", "QUESTION", question)
                return question
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"gallery: cannot read QUESTION in {script.name}: {_line(error)}") from None
    raise InputError(f"gallery: expected QUESTION = '...' in {script.name}, got none")


def _line(text: Any) -> str:
    """In one line."""
    return " ".join(str(text).split())


def listing(found: list[Entry]) -> str:
    """The experiments for a terminal: name, cost, question, and hypotheses by verdict."""
    parts = []
    for entry in found:
        lines = [f"{entry.name}: {entry.cost}", f"    {_line(entry.question)}"]
        lines += [f"    {_line(entry.answer)}"] if entry.answer else []
        for verdict in VERDICTS:
            if names := entry.found(verdict):
                lines.append(f"    {verdict}: {('; ' if entry.answer else ', ').join(map(_line, names))}")
        lines += [f"    checks that fail: {'; '.join(map(_line, entry.failing))}"] if entry.failing else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Markdown that shows a text as it is, in one line: no markup, no HTML, no cell that ends."""
    line = _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*\[\]|~$#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def _code(text: str) -> str:
    """A text in a code span, or plain where a span might not hold it."""
    line = _line(text)
    return _text(line) if re.search("[`<>|&]", line) else f"`{line}`"


def _anchor(heading: str) -> str:
    """What GitHub calls a heading."""
    return re.sub(r"[^\w\- ]", "", _line(heading).lower()).replace(" ", "-")


def page(found: list[Entry]) -> str:
    """figures/README.md: each picture with its question, cost, and hypotheses by verdict."""
    lines = [
        "# What the experiments found",
        "",
        "Made by `python -m toysup --gallery` from the JSON documents beside the pictures. They hold every statistic",
        "with its interval, the checks of the run and the versions; each verdict's rule stands in its script.",
        "",
        "| experiment | question | supported | rejected | undecided |",
        "|---|---|---|---|---|",
    ]
    shown = [entry for entry in found if entry.document is not None]
    for entry in shown:
        counts = " | ".join(str(len(entry.found(verdict))) for verdict in VERDICTS)
        lines.append(f"| [{_text(entry.name)}](#{_anchor(entry.name)}) | {_text(entry.question)} | {counts} |")
    for entry in shown:
        name, question, file = _text(entry.name), _text(entry.question), urllib.parse.quote(entry.name)
        lines += ["", f"## {name}", "", f"**{question}**", ""]
        lines += [_text(entry.answer), ""] if entry.answer else []
        lines += [f"![{question}]({file}.png)", ""]
        for verdict in VERDICTS:
            if names := entry.found(verdict):
                said = "; ".join(map(_text, names)) if entry.answer else ", ".join(map(_code, names))
                lines.append(f"- {verdict}: {said}")
        lines += [f"- checks of the run that fail: {'; '.join(map(_text, entry.failing))}"] if entry.failing else []
        lines += ["", f"{entry.cost}. {_code(f'python experiments/{entry.name}.py')}, [{name}.json]({file}.json)"]
    return "\n".join(lines) + "\n"
