"""The README's example runs as printed, is short, and its distribution is right."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def test_the_example_runs_as_printed(capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40
    scope: dict = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), scope)
    table = scope["table"]
    assert len(table) == 24 and (table["diverged_step"] == -1).all()
    means = table.groupby(["density", "width"])["recovered"].mean().unstack()
    assert (means[4] > means[2]).all()  # twice the width holds more, at every density
    assert "encoder_norm" in capsys.readouterr().out
    ramp = scope["Ramp"](3, density=0.3)
    x = ramp.transform(torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)))
    # 600,000 draws of a variable below 1: five standard errors are less than .0033
    assert abs(x.mean() - ramp.mean) < 0.0033 and abs(x.square().mean() - ramp.second_moment) < 0.0033


def test_the_commands_are_the_ones_ci_and_the_issue_know():
    text = (ROOT / "README.md").read_text()
    assert "python -m pip install -e . torch==2.13.0 && python experiments/model_a_model_b.py --quick" in text
    assert "python -m pip install -e '.[test]' torch==2.13.0 && python -m pytest" in text
