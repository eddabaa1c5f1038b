"""Every experiment with its question, what it cost and what it found: as a list, and as a page of pictures.

Both are made from the scripts in experiments/ and the JSON documents in figures/, and from nothing else.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from toysup.checks import InputError
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
        """The hypotheses that got this verdict, in the document's order."""
        return [name for name, own in (self.document or {"verdict": {}})["verdict"].items() if own == verdict]


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
            document = json.loads(committed.read_text(encoding="utf-8"))
            check_form(document)
        found.append(Entry(script.stem, _question(script), document))
    return found


def _question(script: Path) -> str:
    """The script's QUESTION, read without running it."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["QUESTION"]:
            return str(ast.literal_eval(node.value))
    raise InputError(f"gallery: expected QUESTION = '...' in {script.name}, got none")


def listing(found: list[Entry]) -> str:
    """The experiments for a terminal: name, cost, question, and hypotheses by verdict."""
    parts = []
    for entry in found:
        lines = [f"{entry.name}: {entry.cost}", f"    {entry.question}"]
        lines += [f"    {verdict}: {', '.join(names)}" for verdict in VERDICTS if (names := entry.found(verdict))]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def page(found: list[Entry]) -> str:
    """figures/README.md: each picture with its question, cost, and hypotheses by verdict."""
    lines = [
        "# What the experiments found",
        "",
        "Made by `python -m toysup --gallery` from the JSON documents beside the pictures. They hold every statistic",
        "with its interval, the controls and the versions; each verdict's rule stands in the head of its script.",
        "",
        "| experiment | question | supported | rejected | undecided |",
        "|---|---|---|---|---|",
    ]
    shown = [entry for entry in found if entry.document is not None]
    for entry in shown:
        counts = " | ".join(str(len(entry.found(verdict))) for verdict in VERDICTS)
        lines.append(f"| [{entry.name}](#{entry.name}) | {entry.question} | {counts} |")
    for entry in shown:
        lines += ["", f"## {entry.name}", "", f"**{entry.question}**", "", f"![{entry.question}]({entry.name}.png)", ""]
        for verdict in VERDICTS:
            if names := entry.found(verdict):
                lines.append(f"- {verdict}: {', '.join(f'`{name}`' for name in names)}")
        lines += ["", f"{entry.cost}. `python experiments/{entry.name}.py`, [{entry.name}.json]({entry.name}.json)"]
    return "\n".join(lines) + "\n"
