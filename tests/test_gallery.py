"""The list of experiments and the page of pictures say what the scripts and the JSON documents say."""

import json
import re
from pathlib import Path

import pytest

from toysup.__main__ import main
from toysup.checks import InputError
from toysup.gallery import Entry, entries, listing, page

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path):
    """Two scripts, one of them with a result."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "figures").mkdir()
    for name in ("alpha", "beta", "_shared"):
        (tmp_path / "experiments" / f"{name}.py").write_text(
            f'QUESTION = (\n    "What about "\n    "{name}?"\n)\nraise 1\n'
        )
    document = json.loads((ROOT / "figures" / "phase_diagram.json").read_text())
    document |= {"experiment": "beta", "instances": 12345, "seconds": 150.0}
    document["verdict"] = {"one": "supported", "two": "rejected", "three": "supported"}
    (tmp_path / "figures" / "beta.json").write_text(json.dumps(document))
    return tmp_path


def test_questions_and_verdicts(checkout, capsys):
    main(["--root", str(checkout)])
    said = capsys.readouterr().out
    first, second = said.split("\n\n")
    assert first == "alpha: not run yet\n    What about alpha?"
    assert second.splitlines() == [
        "beta: 12,345 networks, 2.5 min (default)",
        "    What about beta?",
        "    supported: one, three",
        "    rejected: two",
    ]


def test_the_page_shows_what_has_a_result(checkout, capsys):
    main(["--root", str(checkout), "--gallery"])
    text = (checkout / "figures" / "README.md").read_text()
    assert text == page(entries(checkout)) and "alpha" not in text
    assert "![What about beta?](beta.png)" in text and "- supported: `one`, `three`\n- rejected: `two`\n" in text
    assert "| [beta](#beta) | What about beta? | 2 | 1 | 0 |" in text


CLAIMS = [
    {"name": "one", "says": "it holds", "verdict": "supported", "groups": []},
    {"name": "two", "says": "it grows as {law}", "verdict": None, "groups": [
        {"law": "n", "says": "it grows as n", "verdict": "rejected"},
        {"law": "m", "says": "it grows as m", "verdict": "supported"}]},
    {"name": "three", "says": "so it does", "verdict": None,
     "groups": [{"task": "and", "verdict": "rejected", "value": 1.0}]},
]  # fmt: skip
CHECKS = [{"name": "c", "says": "training is long enough", "verdict": "undecided", "groups": []},
          {"name": "d", "says": "rates are bracketed", "verdict": "supported", "groups": []}]  # fmt: skip


def test_a_study_is_told_in_sentences():
    document = {"verdict": {"one": "supported"}, "instances": 1, "seconds": 1.0, "mode": "default",
                "answer": "It is so.", "claims": CLAIMS, "checks": CHECKS}  # fmt: skip
    entry = Entry("x", "Is it?", document)
    assert listing([entry]).splitlines()[1:] == [
        "    Is it?",
        "    It is so.",
        "    supported: it holds; it grows as m",
        "    rejected: it grows as n; so it does (task = and)",
        "    checks that fail: training is long enough",
    ]
    shown = page([entry])
    assert "\nIt is so.\n\n![Is it?](x.png)\n" in shown and "- supported: it holds; it grows as m\n" in shown
    assert "- checks of the run that fail: training is long enough\n" in shown and "| 2 | 2 | 0 |" in shown


ODD = [
    "a|b",
    "<script>alert(1)</script>",
    "`x` <b>",
    "a\\nb",
    "a\n# b",
    "[x](y)",
    "*x*",
    "_x_",
    "$x$",
    "&lt;",
    "-->",
    "]]>",
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_names_and_questions_are_shown_as_they_are(odd):
    document = {"verdict": {odd: "supported", "plain": "supported"}, "instances": 1, "seconds": 1.0, "mode": "quick"}
    text = page([Entry(odd.replace("/", ""), odd, document)])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}  # five cells each
    assert len(text.splitlines()) == len(page([Entry("a", "b", document)]).splitlines())
    assert not re.search("<[a-z/!]", text)  # no HTML
    markup = re.sub(r"\\.|`[^`]*`|\*\*", "", text)  # what is escaped or code is none, what is bold is ours
    assert not any(sign in markup for sign in ("[x](y)", "*", "$", " _x"))


def test_the_list_is_a_line_for_each_thing():
    document = {"verdict": {"a\nb": "supported"}, "instances": 1, "seconds": 1.0, "mode": "quick"}
    assert listing([Entry("x", "c\nd", document)]).splitlines()[1:] == ["    c d", "    supported: a b"]


def test_no_checkout_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--root", str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_document_and_a_script_without_a_question(checkout):
    (checkout / "figures" / "beta.json").write_text("{}")
    with pytest.raises(InputError, match="keys"):
        entries(checkout)
    (checkout / "figures" / "beta.json").unlink()
    (checkout / "experiments" / "alpha.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"alpha\.py"):
        entries(checkout)


@pytest.mark.parametrize("damage", [b"{", b"\xff", b"[" * 100_000, b"", b"NaN"])
def test_documents_that_cannot_be_read_are_named_in_one_line(checkout, capsys, damage):
    (checkout / "figures" / "beta.json").write_bytes(damage)
    refused(capsys, checkout, "beta.json")


@pytest.mark.parametrize(
    "damage", [b"def", b"\xff", b"\0", b"QUESTION = f'{x}'", b"QUESTION = '\\x1b'", b"QUESTION = 1"]
)
def test_scripts_that_cannot_be_read_are_named_in_one_line(checkout, capsys, damage):
    (checkout / "experiments" / "alpha.py").write_bytes(damage)
    refused(capsys, checkout, "alpha.py")


def test_a_page_that_cannot_be_written_is_one_line(checkout, capsys):
    (checkout / "figures" / "README.md").mkdir()
    refused(capsys, checkout, "README.md", "--gallery")
    assert sorted(path.name for path in (checkout / "figures").iterdir()) == ["README.md", "beta.json"]


def refused(capsys, checkout, named, *flags):
    with pytest.raises(SystemExit) as end:
        main(["--root", str(checkout), *flags])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_the_committed_page_is_up_to_date():
    """Whoever commits a result writes the page anew: `python -m toysup --gallery`."""
    found = entries(ROOT)
    assert (ROOT / "figures" / "README.md").read_text(encoding="utf-8") == page(found)
    assert all(entry.name in listing(found) for entry in found)
