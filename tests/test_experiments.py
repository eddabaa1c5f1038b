"""Every experiment runs in its smallest form and writes what DESIGN promises; committed results fit the form too."""

import importlib.util
import json
import subprocess
import warnings
from pathlib import Path

import pytest

from toysup import report
from toysup.study import experiment

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "experiments").glob("[a-z]*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_smoke(script, tmp_path):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folders = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(Tight|constrained_)layout.*")  # tiny data, odd limits
        arguments = ["--smoke", "--workers", "1", *folders]
        document = (
            experiment(module.study, arguments)
            if hasattr(module, "study")
            else report.experiment(module.main, arguments)
        )
    written = json.loads((tmp_path / "figures" / f"{script.stem}.json").read_text())
    report.check_form(written)
    assert written == json.loads(json.dumps(document)) and written["mode"] == "smoke"
    for kind in ("png", "svg"):
        assert (tmp_path / "figures" / f"{script.stem}.{kind}").stat().st_size > 10_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_committed_result(script):
    committed = ROOT / "figures" / f"{script.stem}.json"
    document = json.loads(committed.read_text())
    report.check_form(document)
    assert document["experiment"] == script.stem and document["mode"] in ("default", "full")
    assert committed.with_suffix(".png").exists() and committed.with_suffix(".svg").exists()


# Made by changed or lost code; each is made anew from a commit of the history, and then leaves this list.
AWAITED = {"compressed_sensing_bound", "feature_geometry", "feature_lifetime", "parameters_or_neurons"}


def _git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


def test_committed_results_are_made_by_code_that_is_kept():
    """From a clean checkout of a commit in the history of this one, as far as the history is there."""
    stray = set()
    whole = _git("rev-parse", "--is-shallow-repository").stdout.strip() == "false"
    for script in SCRIPTS:
        versions = json.loads((ROOT / "figures" / f"{script.stem}.json").read_text())["versions"]
        kept = not whole or _git("merge-base", "--is-ancestor", str(versions["commit"]), "HEAD").returncode == 0
        if versions["dirty"] is not False or not kept:
            stray.add(script.stem)
    if whole:
        assert stray == AWAITED
    else:
        assert stray <= AWAITED
