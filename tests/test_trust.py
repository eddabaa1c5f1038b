"""A results folder of somebody else's runs nothing here, whatever its config says."""

import json
import os
import sys

import pytest
import torch

from toysup import store
from toysup.checks import InputError
from toysup.features import SparseUniform
from toysup.identity import importable_name
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid, load, sweep
from toysup.tasks import Identity
from toysup.trust import ACTIVATIONS, ELEMENTWISE, named

MARK = "ran"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lying_here.py").write_text(f"open({MARK!r}, 'w')\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    grid = Grid(Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=2, batch=4))
    yield sweep(grid, [], results=tmp_path, progress=False, device="cpu").path
    sys.modules.pop("lying_here", None)


def crafted(folder, change):
    """The folder with another config, in order in every other respect."""
    config = json.loads((folder / "config.json").read_text())
    change(config["identity"]["setting"]["fields"])
    config["digest"] = store.digest_of(config["identity"])
    del config["seal"]
    (folder / "config.json").write_bytes(store._sealed(store._json(config)))


def called(class_, **fields):
    return {"type": class_, "code": "x", "fields": fields}


RUNS = f"open({MARK!r}, 'w')"
CRAFTED = {
    "os.system": lambda s: s.update(features=called("os:system", command=f"touch {MARK}")),
    "subprocess": lambda s: s.update(task=called("subprocess:run", args=["touch", MARK])),
    "Popen, a class": lambda s: s.update(task=called("subprocess:Popen", args=["touch", MARK])),
    "runpy": lambda s: s.update(optimizer=called("runpy:run_path", path_name="lying_here.py")),
    "builtins": lambda s: s.update(features=called("builtins:eval", source=RUNS)),
    "a module of the folder": lambda s: s.update(features=called("lying_here:Mine")),
    "a module in a list": lambda s: s.update(steps=[called("lying_here:Mine")]),
    "a module as a model": lambda s: s["model"].update(model="lying_here:Mine"),
    "a module as a function": lambda s: s["model"]["arguments"].update(relu={"object": "lying_here:Mine", "code": ""}),
    "what a module of ours imports": lambda s: s.update(
        features=called("toysup.setting:importlib.import_module", name="x")
    ),
    "os, by way of ours": lambda s: s.update(
        features=called("toysup.setting:inspect.os.system", command=f"touch {MARK}")
    ),
    "a function of ours": lambda s: s.update(features=called("toysup.setting:describe", value=1)),
    "ours, but for nothing of a setting": lambda s: s.update(features=called("toysup.report:Run")),
    "torch.load": lambda s: s["model"]["arguments"].update(relu={"object": "torch:load", "code": ""}),
    "torch.hub": lambda s: s["model"]["arguments"].update(relu={"object": "torch.hub:load", "code": ""}),
    "a method": lambda s: s.update(steps={"method": "__class__", "of": 7}),
    "a method of a dataclass": lambda s: s.update(steps={"method": "__init__", "of": s["optimizer"]}),
    "no module class": lambda s: s["model"].update(model="toysup.features.independent:SparseUniform"),
    "no dataclass": lambda s: s.update(
        features=called("toysup.models.feedforward:TiedAutoencoder", n_in=1, n_out=1, width=1)
    ),
    "a setting that isn't one": lambda s: s.update(features=s["task"]),
    "fields that are none": lambda s: s["features"]["fields"].update(wrong=1),
    "an array that isn't there": lambda s: s["task"]["fields"].update(importance={"array": "0" * 64}),
    "nothing": lambda s: s.update(features={}),
    "a number for a name": lambda s: s.update(features=called(7)),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_config_runs_nothing_and_is_refused_in_one_line(folder, name):
    crafted(folder, CRAFTED[name])
    before = set(sys.modules)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(MARK) and "lying_here" not in set(sys.modules) - before


def test_what_is_trusted_must_still_be_what_belongs_there(folder):
    crafted(folder, CRAFTED["os.system"])
    with pytest.raises(InputError, match=r"os:system cannot stand where config.json has it; expected a dataclass"):
        load(folder, trust=True)
    assert not os.path.exists(MARK)


def test_functions_of_torch_that_act_entry_by_entry_need_no_trust():
    for owner, names in ((torch, ELEMENTWISE), (torch.nn.functional, ACTIVATIONS)):
        for name in names:
            function = getattr(owner, name)
            assert callable(function)
            if owner is torch or importable_name(function).startswith("torch.nn.functional"):
                assert named()(f"{owner.__name__}:{name}", "object") is function
    assert named()("torch.nn.modules.activation:GELU", "object") is torch.nn.GELU


def test_classes_may_be_handed_over():
    assert named(classes=[Adam])(importable_name(Adam), "type") is Adam
    with pytest.raises(InputError, match="hand it over"):
        named()("elsewhere:Adam", "type")


@pytest.mark.parametrize(
    "name", ["../escaped", "a/b", "..", ".", "", "\0", "a\nb", "x" * 300, "-", 5, None, " ", "a\\b"]
)
def test_a_name_stays_in_the_results_folder(tmp_path, name):
    grid = Grid(Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=1, batch=1))
    below = tmp_path / "in" / "deep"
    try:
        path = sweep(grid, [], results=below, name=name, progress=False).path
    except InputError as error:
        assert "\n" not in str(error) and not list(tmp_path.rglob("config.json"))
    else:
        assert path.parent == below
