"""The README's examples run as printed and show what they say, and its numbers stand in the committed documents."""

import json
import re
from pathlib import Path

import pytest
import torch

from toysup import geometry
from toysup.study import experiment

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def run(code: str, scope: dict) -> dict:
    exec(compile(code, "README.md", "exec"), scope)
    return scope


def test_the_first_examples_show_pentagons_and_a_phase_diagram(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = run(BLOCKS[0], {"__name__": "readme"})
    assert set(geometry.arrangements(scope["results"].parameters("W"))) == {"pentagon"}
    table = run(BLOCKS[1], scope)["table"].groupby(["density", "importance"])["recovered"].mean().unstack()
    assert (table.loc[1.0] < 1.1).all() and table.max(axis=None) > 1.5  # dense: one feature; sparse: nearly both
    assert {path.name for path in tmp_path.iterdir()} == {"pentagon.png", "phases.png"}


def test_the_example_of_own_parts_runs_as_printed(capsys):
    code = BLOCKS[2]
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40
    scope = run(code, {"__name__": "readme"})
    table = scope["table"]
    assert len(table) == 24 and (table["diverged_step"] == -1).all()
    means = table.groupby(["density", "width"])["recovered"].mean().unstack()
    assert (means[4] > means[2]).all()  # twice the width holds more, at every density
    assert "encoder_norm" in capsys.readouterr().out
    ramp = scope["Ramp"](3, density=0.3)
    x = ramp.transform(torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)))
    # 600,000 draws of a variable below 1: five standard errors are less than .0033
    assert abs(x.mean() - ramp.mean) < 0.0033 and abs(x.square().mean() - ramp.second_moment) < 0.0033


def test_the_example_of_an_experiment_is_short_and_decides_its_claims(tmp_path):
    code = BLOCKS[3]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 60
    script = tmp_path / "sparser.py"
    script.write_text(code)
    scope = run(code, {"__name__": "sparser", "__file__": str(script)})
    document = experiment(scope["study"], ["--quick"])
    assert document["verdict"] == {"sparser": "supported", "superposition": "supported",
                                   "learning_rate_bracketed": "supported"}  # fmt: skip
    assert document["answer"].startswith("Of ten times sparser features 5 dimensions hold")


def test_the_commands_are_the_ones_ci_and_the_issue_know():
    assert "python -m pip install -e . torch==2.13.0 && python experiments/model_a_model_b.py --quick" in TEXT
    assert "python -m pip install -e '.[test]' torch==2.13.0 && python -m pytest" in TEXT


# ------------------------------------------------------------------------------------------------------------- numbers

NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:,\d{3})*(?:\.\d+)?)(%?)(?![\w])")


def numbers(value) -> set[float]:
    """All numbers of a document, those in its texts and names too."""
    if isinstance(value, dict):
        return set().union(*map(numbers, value), *map(numbers, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers, value))
    if isinstance(value, str):
        return {float(number) for number in re.findall(r"(?<![\d.])-?\d+(?:\.\d+)?", value)}
    return {float(value)} if isinstance(value, int | float) else set()


def blocks_of(section: str) -> list[str]:
    """Paragraphs, items of lists and rows of tables, without links' targets and pictures."""
    text = re.sub(
        r"!\[.*?\]\(.*?\)|\]\(.*?\)|^    .*$|```.*?```|^\|[-|]+\|$", "]", section, flags=re.MULTILINE | re.DOTALL
    )
    return [block for block in re.split(r"\n\s*\n|\n(?=- )|\n(?=\|)", text) if block.strip()]


def found_in(shown: str, percent: bool, there: set[float]) -> bool:
    """Whether a number, rounded to the places it is shown with, is among those of a document: itself, or as a
    percentage a share, a gain or a loss."""
    digits, value = len(shown.partition(".")[2]), float(shown.replace(",", ""))
    known = (
        there | {sign * 100 * (x - shift) for x in there for sign, shift in ((1, 0), (1, 1), (-1, 1))}
        if percent
        else there
    )
    half = 0.5 * 10.0**-digits * (1 + 1e-9)
    rounded = 10.0 ** (len(shown.replace(",", "")) - len(shown.replace(",", "").rstrip("0"))) if not digits else 1
    return any(abs(x - value) <= half * (rounded if abs(value) >= 100 else 1) for x in known)


@pytest.mark.parametrize("heading", ["## What was found", "## How fast it is"])
def test_every_number_stands_in_the_document_of_a_script_named_beside_it(heading):
    section = TEXT[TEXT.index(heading) + 3 :].split("\n## ")[0]
    known = {path.stem: numbers(json.loads(path.read_text())) for path in (ROOT / "figures").glob("*.json")}
    everywhere = [name for name in known if f"figures/{name}.json" in section]
    missing = []
    for block in blocks_of(section):
        named = [name for name in re.findall(r"`(\w+)`", block) if name in known] + everywhere
        there = set().union(*(known[name] for name in named)) if named else set()
        for shown, _ in NUMBER.findall(re.sub(r"`.*?`", "", block)):
            if not found_in(shown, "%" in block, there):
                missing.append((shown, " ".join(block.split())[:60], named))
    assert not missing, missing
    assert sum(len(NUMBER.findall(block)) for block in blocks_of(section)) > 20  # it does find them
