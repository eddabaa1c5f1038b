"""The frame of an experiment, from its command line to its files, and the helpers that draw."""

import html
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toysup import plots, report, whole
from toysup.checks import InputError
from toysup.stats import Interval

SCRIPT = '''"""Is a toy experiment run? (Nobody 1900)

Predictions: yes.
"""
import numpy as np

from toysup import plots, report, stats
from toysup.checks import InputError

QUESTION = "Is a toy experiment run?"


def main(run):
    points = run.pick(smoke=2, default=5)
    if points == FAIL:
        raise InputError("main: nothing to do")
    figure, axes = plots.figure()
    plots.reference(axes[0, 0], np.arange(points), 1.0, "one")
    share = stats.share(points, 5)
    report.write(run, figure, statistics={"share": share}, verdict={"all": stats.decide(share, inside=(0.5, 1))},
                 controls={"null": {"undefined": np.nan, "ends": np.arange(2), "share": stats.share(0, 0)}},
                 instances=points, steps=1, engine="none")


if __name__ == "__main__":
    report.experiment(main)
'''


@pytest.fixture
def script(tmp_path):
    """A repository with one experiment, as (root, call); call("--smoke") runs it in this process."""
    path = tmp_path / "experiments" / "toy.py"
    path.parent.mkdir()

    def call(*argv, fail=None, source=SCRIPT):
        path.write_text(source)
        names = {"__file__": str(path), "__name__": "toy", "FAIL": fail}
        exec(compile(source, path, "exec"), names)  # importing it runs nothing: __name__ is not "__main__"
        return report.experiment(names["main"], list(argv))

    return tmp_path, call


def files(folder):
    """Every file below a folder, relative to it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".py")


def refusal(capsys, call, *argv, **options):
    """The one line with which a call ends in exit code 2."""
    with pytest.raises(SystemExit) as stop:
        call(*argv, **options)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


# --- the command line and the folders


@pytest.mark.parametrize(("flags", "folder"), [
    ([], "figures"), (["--full"], "figures"), (["--quick"], "results/figures"), (["--smoke"], "results/figures"),
])  # fmt: skip
def test_each_mode_writes_into_its_folder_alone(script, flags, folder):
    root, call = script
    document = call(*flags)
    assert document["mode"] == (flags[0].strip("-") if flags else "default")
    assert files(root) == [f"{folder}/toy.{kind}" for kind in ("json", "png", "svg")]  # and no temporary file
    assert json.loads((root / folder / "toy.json").read_text()) == document
    report.check_form(document)


def test_a_smoke_run_never_replaces_a_committed_figure(script, capsys):
    root, call = script
    call()
    before = {name: (root / name).read_bytes() for name in files(root)}
    call("--smoke")
    call("--quick")
    capsys.readouterr()
    assert "of a run in mode default" in refusal(capsys, call, "--smoke", "--figures", str(root / "figures"))
    assert {name: (root / name).read_bytes() for name in before} == before
    (root / "figures" / "toy.json").write_text("cut off {")
    assert "in mode unknown" in refusal(capsys, call, "--quick", "--figures", str(root / "figures"))
    call("--smoke", "--figures", str(root / "elsewhere"))
    call("--quick", "--figures", str(root / "elsewhere"))  # scratch may replace scratch
    assert json.loads((root / "elsewhere" / "toy.json").read_text())["mode"] == "quick"


def test_bad_input_ends_in_one_line(script, capsys, tmp_path):
    root, call = script
    file = tmp_path / "file"
    file.touch()
    assert "at most one of --smoke, --quick and --full" in refusal(capsys, call, "--smoke", "--full")
    assert "--workers must be a whole number >= 1, got 0" in refusal(capsys, call, "--workers", "0")
    assert "got 'nowhere'" in refusal(capsys, call, "--device", "nowhere")
    assert "--results: expected a folder" in refusal(capsys, call, "--results", str(file))
    assert files(root) == ["file"]
    assert refusal(capsys, call, fail=5) == "toy.py: main: nothing to do\n"
    assert "expected QUESTION" in refusal(capsys, call, source=SCRIPT.replace("QUESTION =", "Q ="))
    wrote_nothing = SCRIPT.replace("    report.write(", "    dict(").replace("dict(run, figure, ", "dict(")
    assert "wrote nothing" in refusal(capsys, call, source=wrote_nothing)


def test_help_shows_the_docstring(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script[1]("--help")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "Nobody 1900" in out and "--workers N" in out


def test_the_script_as_a_process_needs_no_display(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(SCRIPT.replace("FAIL", "None"))
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    done = subprocess.run([sys.executable, path, "--smoke"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and not done.stderr and "all    undecided" in done.stdout
    assert files(tmp_path) == [f"results/figures/toy.{kind}" for kind in ("json", "png", "svg")]


def test_pick_takes_the_neighbours_choice():
    def pick(mode, **choices):
        return report.Run("a", "a?", mode, "cpu", None, Path(), Path(), {}).pick(**choices)

    assert [pick(mode, default=1) for mode in report.MODES] == [1, 1, 1, 1]
    assert [pick(mode, default=1, quick=2) for mode in report.MODES] == [2, 2, 1, 1]
    assert [pick(mode, default=1, quick=2, smoke=None, full=4) for mode in report.MODES] == [None, 2, 1, 4]


def test_versions_name_the_commit_and_whether_code_differs(tmp_path):
    assert report.versions(tmp_path)["commit"] is None
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a.py").touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "figure.png").touch()
    clean = report.versions(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False and clean["device"] == "cpu"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.py").touch()
    assert report.versions(tmp_path / "sub")["dirty"] is True


# --- the document


def a_run(folder):
    return report.Run("toy", "Why?", "default", "cpu", None, folder, folder, {"python": "3"})


def written(folder, **changes):
    figure, axes = plots.figure()
    plots.band(axes[0, 0], pd.DataFrame({"x": [1, 1, 2, 2], "y": [1, 2, 3, 4]}), "x", "y")
    parts = {"statistics": {"s": Interval(1, 0, 2)}, "verdict": {"h": "supported"}, "controls": {"c": {}}} | changes
    return report.write(a_run(folder), figure, **{"instances": 1, "steps": 1, "engine": "none", **parts})


@given(st.lists(st.floats(), min_size=3, max_size=3).map(lambda x: sorted(x, key=lambda v: (v != v, v))))
def test_any_interval_survives_json_with_null_for_what_is_not_finite(tmp_path_factory, ends):
    low, value, high = ends
    plain = report._plain({"s": Interval(value, low, high)})["s"]
    back = json.loads(json.dumps(plain, allow_nan=False))
    for key, before in (("low", low), ("value", value), ("high", high)):
        assert back[key] == (before if np.isfinite(before) else None)


def test_write_is_deterministic_and_whole(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        written(folder)
    for kind in ("png", "svg"):
        assert (first / f"toy.{kind}").read_bytes() == (second / f"toy.{kind}").read_bytes()
    assert files(first) == ["toy.json", "toy.png", "toy.svg"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    written(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(InputError, match="low <= value <= high"):
        written(tmp_path, statistics={"s": Interval(3, 0, 2)})
    with pytest.raises(InputError, match="got object"):
        written(tmp_path, controls={"c": {"x": object()}})
    with pytest.raises(ZeroDivisionError):  # a figure that cannot be drawn
        monkeypatch.setattr(mpl.figure.Figure, "savefig", lambda *a, **k: 1 / 0)
        written(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


# --- labels


ODD = [
    "<script>1</script>", "&amp; \" ' >", "$x$", "$unclosed \\frac", r"\$5 to $6", "a|b\n# h", "]]>", "<!--", "-->",
    "a--", "-", "\u00e9\u2603", "../x", "_hidden", "x" * 300, "nan", "\u202eabc", "a\u2028b",
]  # fmt: skip


def test_odd_labels_come_out_as_they_are(tmp_path):
    figure, axes = plots.figure(height=8)
    table = pd.DataFrame({"x": 1.0, "y": 2.0, "hue": ODD})
    plots.band(axes[0, 0], table, "x", "y", "hue", colours=dict.fromkeys(ODD, "red"))
    assert len(axes[0, 0].legend(fontsize=4).texts) == len(ODD)  # matplotlib leaves out what begins with _
    statistics = {label: Interval(1.0, -np.inf, np.nan) for label in ODD}
    controls = {label: {label: [label, np.inf, -np.inf, np.nan]} for label in ODD}
    parts = {"statistics": statistics, "verdict": dict.fromkeys(ODD, "supported"), "controls": controls}
    document = report.write(a_run(tmp_path), figure, instances=1, steps=1, engine="e|<b>", **parts)
    text = (tmp_path / "toy.json").read_bytes().decode()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == document
    assert list(document["statistics"]) == ODD and document["controls"]["<!--"]["<!--"] == ["<!--", None, None, None]
    comments = xml.etree.ElementTree.TreeBuilder(insert_comments=True)
    svg = xml.etree.ElementTree.parse(tmp_path / "toy.svg", xml.etree.ElementTree.XMLParser(target=comments))
    drawn = {html.unescape(node.text).strip() for node in svg.iter(xml.etree.ElementTree.Comment)}
    assert {"<script>1</script>", "]]>", "a|b", "../x", "\u200b_hidden", "x" * 300} <= drawn
    assert not [node for node in svg.iter() if isinstance(node.tag, str) and node.tag.endswith("script")]


@pytest.mark.parametrize("label", ["\x00", "a\x07", "\x1b[2J", "\x9b", "a\rb", "\ud800", "\udcff.csv", "\uffff"])
def test_what_neither_xml_nor_a_terminal_holds_is_refused_before_anything_is_written(tmp_path, label):
    figure, axes = plots.figure()
    good = {"statistics": {"s": Interval(1, 0, 2)}, "verdict": {"h": "supported"}, "controls": {"c": {}}}
    wrong = [
        {"statistics": {label: Interval(1, 0, 2)}}, {"verdict": {label: "supported"}}, {"engine": label},
        {"controls": {"c": {"deep": [{label: 1}]}}}, {"controls": {"c": {"deep": [(label,)]}}},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(InputError, match="control characters") as error:
            report.write(a_run(tmp_path), figure, **{"instances": 1, "steps": 1, "engine": "e", **good, **change})
        assert "\n" not in str(error.value) and str(error.value).isprintable()
    axes[0, 0].set_title(label)
    with pytest.raises(InputError, match="figure: a label"):
        report.write(a_run(tmp_path), figure, instances=1, steps=1, engine="e", **good)
    assert files(tmp_path) == []


def spoilt(how):
    figure, axes = plots.figure()
    how(axes[0, 0])
    return figure


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(("how", "said"), [
    (lambda ax: ax.xaxis.set_major_formatter(lambda x, _: "\x07"), "without control characters"),
    (lambda ax: ax.xaxis.set_major_formatter(lambda x, _: "\ud800"), "without control characters"),
    (lambda ax: ax.plot([1], gid="\x07"), "names of artists"),
    (lambda ax: ax.set_title("$\\nonsense$"), "math in"),
    (lambda ax: ax.set_title("x" * 100_000), "at most 1000 characters"),
], ids=["tick", "tick that can't be drawn", "gid", "math", "long"])  # fmt: skip
def test_figures_that_cannot_be_drawn_or_read_are_refused(tmp_path, how, said):
    with pytest.raises(InputError, match=said) as error:
        report.write(a_run(tmp_path), spoilt(how), statistics={"s": Interval(1, 0, 2)}, verdict={"h": "supported"},
                     controls={"c": {}}, instances=1, steps=1, engine="e")  # fmt: skip
    assert "\n" not in str(error.value) and files(tmp_path) == []


def test_keys_that_json_would_merge_are_refused(tmp_path):
    with pytest.raises(InputError, match="keys that differ as text"):
        written(tmp_path, controls={"c": {1: "a", "1": "b"}})
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "..", "", " ", ".x", "x\x00", "x\udcff"])
def test_an_experiment_is_called_what_a_file_can_be_called(tmp_path, name):
    (tmp_path / "figures").mkdir()
    run = report.Run(name, "Why?", "default", "cpu", None, tmp_path, tmp_path / "figures", {"python": "3"})
    with pytest.raises(InputError, match=r"^report: .*(name|experiment)"):
        report.write(run, plots.figure()[0], statistics={"s": Interval(1, 0, 2)}, verdict={"h": "supported"},
                     controls={"c": {}}, instances=1, steps=1, engine="e")  # fmt: skip
    assert files(tmp_path) == []


def test_an_output_of_few_letters_gets_escapes(monkeypatch):
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii"))
    report.say("caf\u00e9 \u2603")
    sys.stdout.flush()
    assert held.getvalue() == b"caf\\xe9 \\u2603\n"
    monkeypatch.setattr(sys, "stdout", None)
    report.say("nobody listens")


# --- files


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("after", [0, 1])
def test_files_that_belong_together_are_written_whole_or_not_at_all(tmp_path, monkeypatch, stop, after):
    places = {tmp_path / name: name.encode() for name in ("a", "b")}
    whole.write_whole(places)
    before, sync, done = {path: path.read_bytes() for path in places}, os.fsync, []

    def full(descriptor):
        if len(done) == after:
            raise stop
        done.append(sync(descriptor))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((InputError, KeyboardInterrupt)) as error:
        whole.write_whole(dict.fromkeys(places, b"new"))
    if isinstance(stop, OSError):
        assert str(error.value) == f"cannot write {list(places)[after]}: No space left on device"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_process_left_is_swept_up_later(tmp_path):
    old, fresh = tmp_path / ".toysup-0.part", tmp_path / ".toysup-1.part"
    for file in (old, fresh):
        file.touch()
    os.utime(old, (0, 0))
    whole.write_whole({tmp_path / "a": b"a"})
    assert files(tmp_path) == [".toysup-1.part", "a"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="a folder is there"):
        whole.write_whole({tmp_path / "a": b"new", tmp_path / "folder": b"new"})
    assert (tmp_path / "a").read_bytes() == b"a"


# --- the form


GOOD = {
    "experiment": "toy", "question": "Why?", "mode": "quick",
    "statistics": {"s": {"value": 1.0, "low": 0.5, "high": None}, "t": {"value": None, "low": None, "high": None}},
    "verdict": {"h": "undecided"}, "controls": {"c": {"x": 1}}, "instances": 3, "steps": 0, "seconds": 1,
    "engine": "none", "versions": {"python": "3"},
}  # fmt: skip


def test_check_form_accepts_the_form():
    report.check_form(GOOD)
    almost = {"value": 1.0, "low": 1.0 + 1e-12, "high": 2.0}  # out of order by rounding only
    report.check_form(GOOD | {"statistics": {"s": almost}})


@pytest.mark.parametrize("wrong", [
    {"mode": "fast"}, {"question": ""}, {"statistics": {}}, {"verdict": {}}, {"controls": {}}, {"instances": 1.5},
    {"steps": -1}, {"seconds": None}, {"engine": None}, {"versions": []}, {"more": 1},
    {"experiment": "../x"}, {"question": "a\x07"}, {"verdict": {" ": "supported"}},
    {"verdict": {"h": "true"}}, {"verdict": {"h": []}}, {"controls": {"c": 1}}, {"statistics": {"s": 1.0}},
    {"statistics": {"s": {"value": 1, "low": 2, "high": 3}}},
    {"statistics": {"s": {"value": 1, "low": 0, "high": 0.5}}},
    {"statistics": {"s": {"value": "1", "low": 0, "high": 2}}}, {"statistics": {"s": {"value": 1, "low": 0}}},
    {"statistics": {"s": {"value": None, "low": 2, "high": 1}}},
    {"statistics": {"s": {"value": float("nan"), "low": 0, "high": 1}}},
])  # fmt: skip
def test_check_form_refuses_everything_else_in_one_line(wrong):
    with pytest.raises(InputError) as error:
        report.check_form(GOOD | wrong)
    assert "\n" not in str(error.value)
    for key in GOOD:
        with pytest.raises(InputError):
            report.check_form({k: v for k, v in GOOD.items() if k != key})
