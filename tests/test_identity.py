"""Code is told by what it does: every reachable constant, helper, default, closure and base counts, nothing else."""

import functools
import itertools
import subprocess
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from toysup import measure
from toysup.ensemble import Stack, train
from toysup.ensemble.train import code_of
from toysup.features import Features, OnePerGroup, SparseUniform
from toysup.identity import Untold, identity, importable_name
from toysup.measure import attack_radius, mcc_above_chance, recovered, recovered_at, vulnerability
from toysup.models import Embedding, ResidualMLP, SparseAutoencoder, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting, describe
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory, Reconstruction

# What a user's file may look like: {braces} are what it does, <brackets> are prose, names and layout.
SOURCE = '''
import functools
import math
from dataclasses import dataclass
import numpy as np
import torch
<blank>
LEVEL = {level}  # <comment>
TABLE = np.array([1.0, {entry}])
OPTIONS = {{"a": [1, {option}], "b": "{text}"}}
SPARE = {spare_constant}

def deepest(x):
    """<prose>"""
    return x * LEVEL + OPTIONS["a"][1] + len(OPTIONS["b"])

@functools.lru_cache
def helper(x, shift={default}, *, more={keyword}):
    <local> = deepest(x) + {inline}
    <blank>
    def inner(y):
        return y + <local>  # <comment>
    return inner(shift) + more if <local> {comparison} 2 else math.{function}(<local>)

class Base:
    """<prose>"""
    scale = {attribute}

    def method(self, x):
        <local>, unused = helper(x), None
        try:
            return <local> * self.scale
        except {error}:
            return 0

@dataclass(frozen=True)
class Child(Base):
    size: int = {field}

    @property
    def doubled(self):
        return sum(v for <local> in range(self.size) for v in (<local>, {inside}))

    def __call__(self, x: "<prose>"):
        return self.method(x) + self.doubled + TABLE.sum()

<unrelated>

def make(k):
    return lambda x: Child()(x) + k

def loop(n):  # calls itself through another
    return n if n < {recursive} else back(n - 1)

def back(n):
    return loop(n - 1)

class Uses:
    def run(self):
        return loop(3), make({cell})(1), TABLE

thing = make({cell})
'''
DOES = {
    "level": ["1.0", "1.5"], "entry": ["2.0", "np.nan"], "option": ["3", "3.0"], "text": ["p", "q"],
    "default": ["0", "1"], "keyword": ["0", "True"], "inline": ["1", "(2, 3)[0]"], "comparison": ["<", "<="],
    "function": ["sin", "cos"], "attribute": ["1", "-1"], "error": ["ValueError", "TypeError"], "field": ["2", "3"],
    "inside": ["1", "2"], "recursive": ["1", "2"], "cell": ["0.1", "0.2"],
}  # fmt: skip
SAYS = {
    "comment": ["as it was", "said better"], "prose": ["One.", "Two."], "local": ["z", "alpha", "long_name"],
    "blank": ["", "\n\n"], "unrelated": ["", "class Another(Base):\n    scale = 7\n\ndef other():\n    return LEVEL"],
    "spare_constant": ["1", "2"],
}  # fmt: skip
FIRST = {name: values[0] for name, values in DOES.items()}


def module(does, says):
    source = SOURCE.replace("{spare_constant}", says["spare_constant"])
    for name, text in says.items():
        source = source.replace(f"<{name}>", text)
    namespace = {"__name__": "a_users_file"}
    own = types.ModuleType("a_users_file")
    namespace = vars(own)
    exec(compile(source.format(**does), "<a user's file>", "exec"), namespace)
    return namespace


choices = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in DOES.items()})
prose = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SAYS.items()})


@given(choices, choices, prose, prose)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_equal_deeds_and_only_they_are_equal(one, other, says_one, says_other):
    # both of two random files differ nearly always; so the other is as often the same, or differs in one thing
    changed = [name for name in DOES if one[name] != other[name]]
    for candidate in (one, other, {**one, changed[0]: other[changed[0]]} if changed else one):
        a, b = module(one, says_one), module(candidate, says_other)
        for name in ("thing", "Uses"):
            reached = "cell" in one
            assert reached and (identity(a[name]) == identity(b[name])) == (one == candidate), (name, changed[:1])


@pytest.mark.parametrize("name", DOES)
@pytest.mark.parametrize("says", [{name: values[-1] for name, values in SAYS.items()}], ids=["other prose"])
def test_each_thing_it_does_counts_and_no_prose(name, says):
    first = {key: values[0] for key, values in SAYS.items()}
    was = identity(module(FIRST, first)["Uses"])
    assert identity(module(FIRST, says)["Uses"]) == was
    assert identity(module({**FIRST, name: DOES[name][1]}, first)["Uses"]) != was


def test_what_is_not_reached_does_not_count():
    first = {key: values[0] for key, values in SAYS.items()}
    alone = identity(module(FIRST, first)["loop"])
    assert identity(module({**FIRST, "level": "2.0", "cell": "7"}, first)["loop"]) == alone
    assert identity(module({**FIRST, "recursive": "0"}, first)["loop"]) != alone


def test_a_change_in_memory_counts_from_then_on():
    says = {key: values[0] for key, values in SAYS.items()}
    own = module(FIRST, says)
    was = identity(own["Uses"])
    own["OPTIONS"]["a"].append(4)
    assert identity(own["Uses"]) != was
    own["OPTIONS"]["a"].pop()
    assert identity(own["Uses"]) == was
    own["Base"].scale = 9
    assert identity(own["Uses"]) != was


def test_the_same_in_another_process(tmp_path):
    """Whatever seeds Python's hashes, and whatever else was imported before."""
    (tmp_path / "users_own.py").write_text(
        "import torch\nWORDS = {'b', 'a', 'c'}\nclass Mine(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x) * len(WORDS) * torch.relu(x).sum()\ndef f(x):\n    return Mine(2, 2)(x)\n"
    )
    code = "from toysup.identity import identity; import users_own; print(identity(users_own.f, users_own.Mine))"
    found = set()
    for seed, more in (("1", ""), ("2", "import scipy.stats, pandas, toysup.sweep; ")):
        done = subprocess.run([sys.executable, "-c", more + code], capture_output=True, text=True, cwd=tmp_path,
                              env={"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path)})  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert len(found) == 1 and len(found.pop()) == 64


# ------------------------------------------------------------------------------------------------------ kinds of things


class Counter:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x * self.n

    @functools.cached_property
    def dear(self):
        return self.n**2


class Slotted:
    __slots__ = ("n",)

    def __init__(self, n):
        self.n = n


@dataclass(frozen=True)
class Point:
    n: float


def power(x, n):
    return x**n


def closing(n):
    return lambda x: x * n


def wrapped(n):
    @functools.wraps(power)
    def around(x):
        return power(x, n)

    return around


def through_torch(n):
    @torch.no_grad()
    def measured(x):
        return x + n

    return measured


def linear(n):
    module = nn.Linear(1, 1)
    nn.init.constant_(module.weight, n)
    nn.init.zeros_(module.bias)
    return module


KINDS = {
    "closure": closing, "object": Counter, "slots": Slotted, "dataclass": Point, "wrapped": wrapped,
    "under no_grad": through_torch, "module": linear, "partial": lambda n: functools.partial(power, n=n),
    "method": lambda n: Counter(n).__call__, "array": lambda n: np.array([n]), "tensor": lambda n: torch.tensor([n]),
    "scalar": np.float32, "list": lambda n: [n], "dict": lambda n: {"n": n}, "set": lambda n: {n}, "text": str,
    "type": lambda n: type("Made", (), {"n": n}), "random state": lambda n: np.random.default_rng(int(n)),
    "nested": lambda n: {"a": [Point(n), (closing(n),)]}, "property": lambda n: property(closing(n)),
    "half": lambda n: torch.tensor([n], dtype=torch.bfloat16), "complex": lambda n: complex(n, 1),
    "compiled": lambda n: torch.compile(closing(n), backend="eager"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_inside_count_by_value(kind):
    make = KINDS[kind]
    assert identity(make(1.0)) == identity(make(1.0))
    assert identity(make(1.0)) != identity(make(2.0))


def test_kinds_are_told_apart():
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        None,
        (1,),
        [1],
        {1},
        {1: 1},
        np.int64(1),
        np.array(1),
        torch.tensor(1),
        1j,
        -0.0,
        0.0,
    ]
    assert len({identity(value) for value in values}) == len(values)


def test_what_was_computed_on_the_way_does_not_count():
    fresh, used = Counter(3), Counter(3)
    assert used.dear == 9 and identity(fresh) == identity(used)


def test_circles_end():
    one, other = [1], [2]
    one.append(other)
    other.append(one)
    assert identity(one) != identity(other) and len(identity(one)) == 64


@pytest.mark.parametrize(
    "thing", [(x for x in range(3)), open(__file__), itertools.count], ids=["generator", "file", "?"]
)
def test_what_cannot_be_told_is_refused_in_one_line(thing):
    def uses():
        return thing

    if thing is itertools.count:  # a library's class is known by its name
        assert identity(uses)
        return
    with pytest.raises(Untold, match=r"cannot tell what .* does, so its results could not be recognised") as caught:
        identity(uses)
    assert "\n" not in str(caught.value)
    if hasattr(thing, "close"):
        thing.close()


def test_imports_inside_functions_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def told(text):
        (tmp_path / "helper_of_mine.py").write_text(text)
        sys.modules.pop("helper_of_mine", None)
        sys.path_importer_cache.clear()

        def takes():
            from helper_of_mine import f

            return f

        def whole():
            import helper_of_mine

            return getattr(helper_of_mine, "f")  # noqa: B009 (a name that only running it tells)

        return identity(takes), identity(whole)

    (tmp_path / "__pycache__").write_text("")  # no cache: files change within a second here
    first = told("def f():\n    return 1\nx = 1\n")
    assert told("def f():\n    return 1  # said\nx = 1\n") == first
    changed = told("def f():\n    return 2\nx = 1\n")
    assert changed[0] != first[0] and changed[1] != first[1]
    other = told("def f():\n    return 1\nx = 2\n")
    assert other[0] == first[0] and other[1] != first[1]
    sys.modules.pop("helper_of_mine", None)


def test_a_library_that_was_patched_is_not_known_by_its_name(monkeypatch):
    def uses(x):
        return torch.nn.functional.relu(x)

    was = identity(uses)
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x: x)
    assert identity(uses) != was


def test_ufuncs_of_libraries_are_told_and_those_of_users_refused():
    from scipy.special import erfcx, ndtr

    def uses(function):
        return lambda x: function(x)

    assert identity(uses(erfcx)) == identity(uses(erfcx)) != identity(uses(ndtr))
    with pytest.raises(Untold, match="cannot tell what <ufunc"):
        identity(np.frompyfunc(lambda x: x + 1, 1, 1))


def test_names_to_import_by():
    assert importable_name(torch.relu) == "torch:relu" and importable_name(torch.tanh) == "torch:tanh"
    assert importable_name(nn.functional.gelu) == "torch.nn.functional:gelu"
    assert importable_name(TiedAutoencoder) == "toysup.models.feedforward:TiedAutoencoder"


# --------------------------------------------------------------------------------------------------- of this package


def test_parameters_of_the_packages_own_measures_are_part_of_them():
    makers = [
        lambda n: vulnerability("feature", relative=n), lambda n: vulnerability("shared", samples=int(100 * n)),
        lambda n: attack_radius(n), lambda n: recovered_at(n), lambda n: measure.separated(0.5 + n / 2),
        lambda n: measure.loss_through(int(100 * n)), lambda n: measure.through(recovered_at(n)),
    ]  # fmt: skip
    for make in makers:
        assert identity(make(0.1)) == identity(make(0.1)) != identity(make(0.2))


def test_a_measure_reaches_into_theory(monkeypatch):
    was, other = identity(mcc_above_chance), identity(recovered)
    monkeypatch.setattr("toysup.measure.dictionary.mcc_floor", lambda *_: 0.5)
    assert identity(mcc_above_chance) != was and identity(recovered) == other


def test_another_measure_or_distribution_leaves_trainings_as_they_are(monkeypatch):
    setting = Setting(SparseUniform(4, 0.2), Identity(), Model(TiedAutoencoder, width=2))
    stack = Stack.of(setting, [0])

    def told():
        return describe(setting), identity(*code_of(stack, "general"))

    was, fused = told(), identity(*code_of(stack, "fused"))
    monkeypatch.setattr("toysup.measure.recovered", lambda trained: None)
    monkeypatch.setattr("toysup.features.Another", type("Another", (Features,), {}), raising=False)
    monkeypatch.setattr("toysup.features.independent.Another", type("Another", (Features,), {}), raising=False)
    assert told() == was and identity(*code_of(stack, "fused")) == fused
    monkeypatch.setattr("toysup.models.feedforward.TiedAutoencoder.forward", lambda self, x: x)
    assert told() != was


def test_training_moves_nobodys_identity():
    setting = Setting(SparseUniform(4, 0.2), Identity(), Model(TiedAutoencoder, width=2), steps=3, batch=16)
    stack = Stack.of(setting, [0, 1])

    def told():
        return (
            describe(setting),
            [identity(*code_of(stack, engine)) for engine in ("fused", "general")],
            identity(recovered),
        )

    was = told()
    for engine in ("fused", "general"):
        recovered(train(stack, engine=engine, compile=False))
    assert told() == was


# ------------------------------------------------------------------------------------------------- told apart in memory


class Net(nn.Module):
    def __init__(self, n_in, n_out, *, width, act):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(n_in, width), nn.Linear(width, n_out), act

    def forward(self, x):
        return self.b(self.act(self.a(x)))


def leaky(slope):
    def act(x):
        return nn.functional.leaky_relu(x, slope)

    return act


def dropping(at):
    def schedule(step, steps):
        return 1.0 if step < at * steps else 0.0

    return schedule


def scaled(factor):
    class Scaled(SparseUniform):
        def transform(self, uniforms):
            return factor * super().transform(uniforms)

    return dataclass(frozen=True)(Scaled)


def class_of_networks(power):
    class Own(TiedAutoencoder):
        def forward(self, x, record=False):
            return super().forward(x, record) ** power

    return Own


BASE = Setting(SparseUniform(4, 0.3), Identity(), Model(Net, width=3, act=torch.relu), Adam(0.01), 12, 16)
AXES = {
    "model.act": {"a": leaky(0.9), "b": leaky(0.0)},
    "optimizer.schedule": {"a": dropping(0.1), "b": dropping(0.9)},
    "features": {"a": scaled(1.0)(4, 0.3), "b": scaled(3.0)(4, 0.3)},
    "model": {"a": Model(class_of_networks(1), width=2), "b": Model(class_of_networks(3), width=2)},
    "task.network": {"a": Model(class_of_networks(1), width=2), "b": Model(class_of_networks(3), width=2)},
}


@pytest.mark.parametrize("path", AXES)
def test_labels_are_trained_with_what_they_stand_for(path, tmp_path):
    base, measures = BASE, []
    if path == "task.network":
        task = Reconstruction(Model(Embedding, width=4), of="stream")
        base = replace(BASE, task=task, model=Model(SparseAutoencoder, latents=4))
        AXES[path] = {"a": Model(Embedding, width=2), "b": Model(class_of_embeddings(5.0), width=2)}
    options = {"progress": False, "workers": 1, "compile": False}
    together = sweep(Grid(base, {path: AXES[path]}), measures, results=tmp_path, **options).table["train_loss"]
    alone = [
        sweep(Grid(base, {path: [value]}), measures, **options).table["train_loss"][0] for value in AXES[path].values()
    ]
    assert together.tolist() == alone and alone[0] != alone[1]
    # nor is one answered from the other's folder
    for value, expected in zip(AXES[path].values(), alone, strict=True):
        assert (
            sweep(Grid(base, {path: [value]}), measures, results=tmp_path, **options).table["train_loss"][0] == expected
        )


def class_of_embeddings(factor):
    class Own(Embedding):
        def forward(self, x, record=False):
            h, activations = super().forward(factor * x, record=True)
            return (h, activations) if record else h

    return Own


OFFSET = 0.0


class Offset(nn.Module):
    """Reads a constant of its module as it is built, and another as it runs."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear, self.offset = nn.Linear(n_in, n_out), OFFSET

    def forward(self, x):
        return self.linear(x) + self.offset


def test_a_constant_that_changed_between_two_trainings(monkeypatch):
    setting = replace(BASE, model=Model(Offset))

    def loss():
        return train(Stack.of(setting, [0]), compile=False).history[0, -1].item()

    before = loss()
    monkeypatch.setitem(globals(), "OFFSET", 2.0)
    assert loss() != before
    monkeypatch.setitem(globals(), "OFFSET", 0.0)
    assert loss() == before


SEEN = []


def counts_its_calls(trained):
    SEEN.append(len(trained))
    return torch.full((len(trained),), float(len(SEEN)))


def test_code_that_changes_as_it_runs_is_said(tmp_path):
    with pytest.warns(UserWarning, match=r"its code changed as it ran .* will not be found again"):
        sweep(Grid(BASE), [counts_its_calls], results=tmp_path, progress=False, compile=False)


def test_cosines_are_told_by_their_fields():
    assert identity(Cosine(0.1)) != identity(Cosine(0.2)) == identity(Cosine(0.2))


def test_what_runs_here_is_told_not_what_stands_in_the_file(tmp_path):
    path = Path(tmp_path / "edited.py")
    path.write_text("def f():\n    return 1\n")
    namespace = {"__name__": "edited"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    was = identity(namespace["f"])
    path.write_text("def f():\n    return 2\n")  # edited, and not imported again
    assert identity(namespace["f"]) == was


class _Told:
    """Stands for a hash, and keeps what it is told."""

    parts: list[bytes] = []  # noqa: RUF012

    def update(self, part):
        self.parts.append(bytes(part))

    def hexdigest(self):
        return "0" * 64


def test_where_the_package_lies_is_not_told(monkeypatch):
    """Results made in one checkout are found from another: no trainer's or measure's code mentions a folder."""
    monkeypatch.setattr("toysup.identity.walk.hashlib.sha256", _Told)
    facts = Model(ResidualMLP, shape=Shape(8, 1), unembedding="coordinates", row_norm=1.0)
    settings = [
        Setting(SparseUniform(5, 0.1), Identity(), Model(TiedAutoencoder, width=2), steps=1, batch=8),
        Setting(SparseUniform(1000, 0.001), Identity(), Model(TiedAutoencoder, width=2), steps=1, batch=8),
        Setting(OnePerGroup(8, 1), Memory(2), facts, steps=1, batch=8),
    ]
    stacks = [Stack.of(setting, [0]) for setting in settings]
    functions = [function for stack in stacks for engine in ("fused", "general") for function in code_of(stack, engine)]
    measures = [one for one in map(measure.__dict__.get, measure.__all__) if isinstance(one, types.FunctionType)]
    assert len({code_of(stack, "fused")[-1] for stack in stacks}) > 1 and len(measures) > 20
    for thing in (*functions, *measures, *settings):
        _Told.parts = []
        identity(thing)
        folder = str(Path(measure.__file__).parents[1]).encode()
        assert len(_Told.parts) > 10 and folder not in b"".join(_Told.parts)
