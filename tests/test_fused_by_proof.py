"""Fast by proof: the fused path takes only what is proved to be what its kernels know, and trains that as the general
path does."""

import copy
import dataclasses
import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from toysup.checks import InputError
from toysup.ensemble import Stack, fused, known, listed, train
from toysup.ensemble.rates import multipliers
from toysup.features import (
    MAGNITUDES,
    BitGroups,
    Correlated,
    GaussianCopula,
    Magnitude,
    OnePerGroup,
    PowerLaw,
    SparseBoolean,
    SparseUniform,
    UnitLength,
    base,
)
from toysup.features.base import Independent
from toysup.models import MLP, ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.models import base as models
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.tasks import Identity, Memory, SumOfSquares, regression

N = 20  # with five neurons: not so few that each size has a kernel of its own, so one kernel serves all of these
TIED = Model(TiedAutoencoder, width=5)
CUBED = Magnitude(lambda v: v**3, 1 / 4, 1 / 7, 1 / 4, 1 / 7, 1 / 13)


def setting(features=None, task=None, model=TIED, **optimizer):
    features = SparseUniform(N, 0.2) if features is None else features
    return Setting(features, task or Identity(), model, Adam(**{"lr": 0.03, **optimizer}), steps=4, batch=70)


def stack(features=None, *parts, varying=(), **kwargs):
    return Stack(setting(features, *parts, **kwargs), np.arange(2), np.arange(2), dict(varying))


def trained(stack, engine):
    return train(stack, device="cpu", engine=engine, compile=False, threads=1)


def agree(stack):
    """float32 rounding, over a few steps (the tolerances of test_fused)."""
    ours, theirs = trained(stack, "fused"), trained(stack, "general")
    assert torch.allclose(ours.history, theirs.history, rtol=1e-4, atol=1e-7, equal_nan=True)
    for name, value in theirs.parameters.items():
        assert torch.allclose(ours.parameters[name], value, rtol=1e-4, atol=2e-5, equal_nan=True)


def subclass(kind, **body):
    """A subclass with attributes of its own, and an object of it that is like one of `kind`."""
    return type(f"Own{kind.__name__}", (kind,), {"__module__": __name__, **body})


def again(function):
    """A function that does the same and is another."""
    return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))


# ------------------------------------------------------------------------------------------------------- random parts
#
# A part is (what is built under a monkeypatch, whether the fused path must know it).


def _added(patch, power):
    patch.setitem(MAGNITUDES, "own", (Magnitude(lambda v: v**power, *5 * [0.1]), MAGNITUDES["uniform"][1]))
    return subclass(SparseUniform, magnitude="own")(N, 0.2)


def _replaced(patch, power):
    patch.setitem(MAGNITUDES, "uniform", (Magnitude(lambda v: v**power, *5 * [0.1]), MAGNITUDES["uniform"][1]))
    return SparseUniform(N, 0.2)


def _another_table(patch, power):
    patch.setattr(base, "MAGNITUDES", {"uniform": (Magnitude(lambda v: v**power, *5 * [0.1]), CUBED)})
    return SparseUniform(N, 0.2)


def _renamed(patch, _):
    patch.setitem(MAGNITUDES, "own", MAGNITUDES["uniform"])
    return subclass(SparseUniform, magnitude="own")(N, 0.2)


def _mixed_in(patch, power):
    class Mixin:
        def transform(self, uniforms):
            return super().transform(uniforms) ** power

    return type("Mixed", (Mixin, SparseUniform), {})(N, 0.2)


def _harmless_mixin(patch, power):
    class Mixin:
        spare = power

        @property
        def activity(self):
            return super().activity / power

    return type("Mixed", (Mixin, SparseUniform), {})(N, 0.2)


def _patched(kind, name, change):
    def build(patch, power):
        old = known.attribute(kind, name)
        patch.setattr(kind, name, change(old, power), raising=False)
        return SparseUniform(N, 0.2)

    return build


def _on_the_instance(patch, power):
    features = SparseUniform(N, 0.2)
    object.__setattr__(features, "transform", lambda uniforms: uniforms**power)
    return features


def _other_code(patch, power):
    def transform(self, uniforms):
        return uniforms * 2

    patch.setattr(Independent.transform, "__code__", transform.__code__)
    return SparseUniform(N, 0.2)


def _helper(patch, power):
    old = base.as_tensor
    patch.setattr(base, "as_tensor", lambda *args: old(*args) / power)
    return SparseUniform(N, 0.2)


def _modules_patched(patch, power):
    patch.setattr(nn.Module, "__call__", again(nn.Module.__call__))
    return TIED


@dataclass(frozen=True)
class Tilted(Independent):
    """Activities that fall along a line, by a field that may differ by instance."""

    density: float = 0.3
    slope: float = 0.5

    @property
    def activity(self):
        return self.density * (1 - self.slope * torch.arange(N) / N)


FEATURES = {
    "uniform": (lambda _, power: SparseUniform(N, 0.1 * power), True),
    "each its own": (lambda _, power: SparseUniform(N, np.linspace(0.01, 0.3 * power, N)), True),
    "power law": (lambda _, power: PowerLaw(N, power / 3, 0.1), True),
    "own activity": (lambda _, power: Tilted(N, 0.1 * power), True),
    "own activity, odd": (lambda _, power: subclass(SparseUniform, activity=property(
        lambda self: torch.linspace(-0.5, power, N)))(N, 0.2), True),
    "a density that could be trained": (lambda _, power: SparseUniform(N, nn.Parameter(torch.full((N,), 0.2))), True),
    "own moments": (lambda _, power: subclass(SparseUniform, mean=power, variance=power)(N, 0.2), True),
    "a magnitude under another name": (_renamed, True),
    "a mixin that is never asked": (_harmless_mixin, True),
    "a magnitude added": (_added, False),
    "a magnitude replaced": (_replaced, False),
    "another table of magnitudes": (_another_table, False),
    "own law": (lambda _, power: subclass(SparseUniform, given_active=CUBED)(N, 0.2), False),
    "own law on the instance": (_on_the_instance, False),
    "own transform": (lambda _, power: subclass(
        PowerLaw, transform=lambda self, u: PowerLaw.transform(self, u) * power)(N, 1.0, 0.1), False),
    "own reading": (lambda _, power: subclass(
        SparseUniform, __getattribute__=lambda self, name: SparseUniform.__getattribute__(self, name))(N, 0.2), False),
    "an answer to anything": (lambda _, power: subclass(
        SparseUniform, __getattr__=lambda self, name: 1)(N, 0.2), False),
    "own copies": (lambda _, power: subclass(SparseUniform, __copy__=lambda self: SparseUniform(N, 1))(N, 0.2), False),
    "a sign that is computed": (lambda _, power: subclass(Independent, signed=property(
        lambda self: False), density=0.1, __setattr__=object.__setattr__)(N), False),
    "activity of another shape": (lambda _, power: subclass(SparseUniform, activity=torch.full((70, N), 0.1))(N, 0.2),
                                  False),
    "mixed in": (_mixed_in, False),
    "transform patched": (_patched(Independent, "transform", lambda old, p: lambda self, u: p * old(self, u)), False),
    "transform patched below": (_patched(SparseUniform, "transform", lambda old, p: lambda self, u: u), False),
    "law patched": (_patched(base.Sparse, "given_active", lambda old, p: CUBED), False),
    "other code": (_other_code, False),
    "a helper patched": (_helper, False),
    "boolean": (lambda _, power: subclass(SparseBoolean, given_active=MAGNITUDES["uniform"][0])(N, 0.2), False),
    "copula": (lambda _, power: GaussianCopula(N, 0.1 * np.ones((N, 1)), 0.2), False),
}  # fmt: skip


def _own_task(**body):
    return lambda patch, power: subclass(Identity, **body)(power)


def _patched_task(name, value):
    def build(patch, power):
        patch.setattr(Identity, name, value)
        return Identity(power)

    return build


def _task_with(name, value):
    def build(patch, power):
        task = Identity(power)
        object.__setattr__(task, name, value)
        return task

    return build


def _power_patched(patch, power):
    patch.setattr(regression, "_power", lambda difference, exponent: difference.abs())
    return Identity(power)


def _cubes(self, x, constants):
    return x**3


def _l1(self, output, target):
    return (output - target).abs().sum(-1).mean()


TASKS = {
    "identity": (lambda _, power: Identity(0.9 ** (power * np.arange(N))), True),
    "one importance": (lambda _, power: Identity([power]), True),
    "own scores patched": (_patched_task("errors", _cubes), True),
    "own target": (_own_task(target=_cubes), False),
    "own loss": (_own_task(loss=_l1), False),
    "own nothing": (_own_task(), False),
    "own errors": (_own_task(errors=_cubes), False),
    "own batch": (_own_task(batch=lambda self, f, c, u: (u, u)), False),
    "target patched": (_patched_task("target", _cubes), False),
    "loss patched": (_patched_task("loss", _l1), False),
    "loss on the instance": (_task_with("loss", lambda output, target: output.square().sum()), False),
    "the power patched": (_power_patched, False),
    "third power": (lambda _, power: Identity(power, 3.0), False),
    "each its power": (lambda _, power: Identity(power, torch.full((N,), 2.0)), False),
    "importance by sample": (lambda _, power: Identity(np.linspace(0, power, 70 * N).reshape(70, N)), False),
}


class Bent(TiedAutoencoder):
    def forward(self, x, record=False):
        return torch.tanh(super().forward(x))


class Late(TiedAutoencoder):
    def initial(self):
        return {"W": models.normal(0.1), "b": models.ones}


class Own(nn.Module):
    def __init__(self, n_in, n_out, *, act=torch.relu):
        super().__init__()
        self.W, self.act = nn.Parameter(torch.zeros(n_in, n_out)), act

    def initial(self):
        return {"W": models.normal(0.1)}

    def forward(self, x):
        return self.act(x @ self.W)


class Doubled(Model):
    def __call__(self, n_in, n_out):
        return super().__call__(n_in, n_out).requires_grad_(False)


def _patched_model(name, change):
    def build(patch, power):
        patch.setattr(TiedAutoencoder, name, change(known.attribute(TiedAutoencoder, name)))
        return TIED

    return build


def _model_called(patch, power):
    patch.setattr(Model, "__call__", again(Model.__call__))
    return TIED


MODELS = {
    "tied": (lambda _, power: Model(TiedAutoencoder, width=4 + power), True),
    "tied, as by default": (lambda _, power: Model(TiedAutoencoder, width=np.int64(5), relu=True, hidden_relu=False),
                            True),
    "a number for a flag": (lambda _, power: Model(TiedAutoencoder, width=5, relu=1), False),
    "a larger number": (lambda _, power: Model(TiedAutoencoder, width=5, relu=2), False),
    "a function for a flag": (lambda _, power: Model(TiedAutoencoder, width=5, relu=torch.tanh), False),
    "text for a flag": (lambda _, power: Model(TiedAutoencoder, width=5, hidden_relu="False"), False),
    "own forward": (lambda _, power: Model(Bent, width=5), False),
    "own start": (lambda _, power: Model(Late, width=5), False),
    "own class": (lambda _, power: Model(Own), False),
    "own activation": (lambda _, power: Model(Own, act=torch.tanh), False),
    "own building": (lambda _, power: Doubled(TiedAutoencoder, width=5), False),
    "two layers": (lambda _, power: Model(MLP, width=5, depth=2), False),
    "forward patched": (_patched_model("forward", again), False),
    "start patched": (_patched_model("initial", again), False),
    "made another way": (_patched_model("__init__", again), False),
    "building patched": (_model_called, False),
    "all modules patched": (_modules_patched, False),
}  # fmt: skip

SCHEDULES = {
    "constant": lambda step, steps: 1.0,
    "cosine": Cosine(0.5),
    "steps": lambda step, steps: 1 if step < steps // 2 else 0.1,
    "zero": lambda step, steps: 0,
    "negative": lambda step, steps: -1.0,
    "numpy": lambda step, steps: np.float32(0.5),
    "no axis": lambda step, steps: np.array(0.5),
    "torch": lambda step, steps: torch.tensor(0.5, requires_grad=True),
    "fraction": lambda step, steps: Fraction(step, steps),
}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(FEATURES)),
    st.sampled_from(sorted(TASKS)),
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 3),
    st.sampled_from(["features", "task", "model", "any", "none", "none"]),
)
def test_fused_and_general_agree_on_whatever_fused_takes(features, task, model, schedule, power, odd):
    """At most one part is unknown unless `odd` is "any", so that each is refused for its own sake."""
    parts = [(FEATURES, features, "uniform"), (TASKS, task, "identity"), (MODELS, model, "tied")]
    chosen = [
        name if table[name][1] or odd in (kind, "any") else plain
        for kind, (table, name, plain) in zip(("features", "task", "model"), parts, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        built = [table[name][0](patch, power) for (table, *_), name in zip(parts, chosen, strict=True)]
        here = stack(*built, schedule=SCHEDULES[schedule])
        reason = fused.unfit(here)
        assert (reason is None) == all(table[name][1] for (table, *_), name in zip(parts, chosen, strict=True)), chosen
        if reason is None:
            agree(here)
        else:
            with pytest.raises(InputError, match="no fused kernel fits, because"):
                trained(here, "fused")


@pytest.mark.parametrize("table", [FEATURES, TASKS, MODELS], ids=["features", "task", "model"])
def test_every_part_is_known_or_not_for_its_own_sake(table):
    for name, (build, fits) in table.items():
        with pytest.MonkeyPatch.context() as patch:
            part = build(patch, 2)
            place = {id(FEATURES): (part,), id(TASKS): (None, part), id(MODELS): (None, None, part)}[id(table)]
            assert (fused.unfit(stack(*place)) is None) == fits, name
        assert fused.unfit(stack()) is None, name  # and nothing is left of it


# ----------------------------------------------------------------------------------------------- every attribute counts

KNOWN = [known.INDEPENDENT, known.CORRELATED, known.UNIT_LENGTH, known.ONE_PER_GROUP, known.ADAM, known.MODEL,
         known.SETTING, *known.TASKS.values(), *known.MODELS.values()]  # fmt: skip


@pytest.mark.parametrize("one", KNOWN, ids=lambda one: one.kind.__name__)
def test_a_class_is_known_only_as_it_was(one, monkeypatch):
    assert one.altered(one.kind) is None
    heir = type("Heir", (one.kind,), {})
    assert one.altered(heir) == (None if one.heirs else "class")
    for name in one.marks:
        assert one.altered(type("Odd", (one.kind,), {name: object()})) == (name if one.heirs else "class")
    own = [name for name in one.marks if name in vars(one.kind) and callable(getattr(one.kind, name))]
    assert own or not one.heirs
    for name in own:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one.kind, name, again(getattr(one.kind, name)))
            assert one.altered(one.kind) == name
        assert one.altered(one.kind) is None
    for space, name, _ in one.helpers.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(space, name, again(space[name]))
            assert one.altered(one.kind) == name


def test_what_was_changed_before_kernels_were_loaded_is_unknown_too(monkeypatch):
    copy.copy(Identity())  # which writes __slotnames__ to the class, and changes nothing
    monkeypatch.setattr(Identity, "loss", again(Identity.loss))
    monkeypatch.setattr(Independent, "given_active", property(lambda self: MAGNITUDES["uniform"][0]))
    assert known.Known(Identity).altered(Identity) == "loss"
    assert known.Known(Independent, known.INDEPENDENT.free, known.VALUES, True).altered(SparseUniform) == "given_active"
    assert known.Known(Memory).altered(Memory) is None


def test_what_torch_does_to_its_own_modules_does_not_make_ours_unknown(monkeypatch):
    """torch.compile replaces these two and adds a third."""
    for name in ("__init__", "__setstate__"):
        monkeypatch.setattr(nn.Module, name, again(getattr(nn.Module, name)))
    monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", False, raising=False)
    assert fused.unfit(stack()) is None


def test_a_class_that_is_not_there_is_not_taken_for_one_that_is():
    """Two classes may have one name, module and text."""
    copy = type("SparseUniform", (Independent,), {**vars(SparseUniform), "transform": lambda self, u: u})
    assert "transform" in fused.unfit(stack(copy(N, 0.2)))
    other = type("Identity", (Identity,), {"__module__": Identity.__module__})
    assert "the task is Identity" in fused.unfit(stack(None, other()))
    own = type("TiedAutoencoder", (TiedAutoencoder,), {"__module__": TiedAutoencoder.__module__})
    assert "the model is" in fused.unfit(stack(None, None, Model(own, width=5)))


# ------------------------------------------------------------------------------------------------ other kernels, others


class Shifted(OnePerGroup):
    def indices(self, uniforms):
        return super().indices(uniforms) * 0


FACTS = Model(ResidualMLP, shape=Shape(9, 2), unembedding="coordinates", row_norm=3.0)
FITS = {
    "facts": Setting(OnePerGroup(16, 2), Memory(3), FACTS),
    "facts, signed": Setting(OnePerGroup(16, 2, signed=True), Memory(3), FACTS),
    "residual": Setting(SparseUniform(N, 0.1), Identity(), Model(UntiedAutoencoder, width=8, depth=1)),
    "untied": Setting(SparseUniform(N, 0.1), Identity(), Model(UntiedAutoencoder, width=8)),
    "one hidden layer": Setting(PowerLaw(N, 1.0, 0.1), Identity(), Model(MLP, width=5, open_start=0.5)),
    "in groups": Setting(Correlated(N, 4, 0.1, anti=True), Identity(), TIED),
    "bits": Setting(BitGroups(N, 4, 0.1), Identity(), TIED),
    "unit length": Setting(UnitLength(N, 0.1), Identity(), Model(TiedAutoencoder, width=2)),
}
UNFIT = {
    "a subclass of facts": ("facts", {"features": Shifted(16, 2)}, "features are Shifted"),
    "facts with a list": ("facts", {"features.offered": np.array([[0.5, 1.0]] * 2)}, "offered has shape"),
    "facts of another kind": ("facts", {"task": subclass(Memory)(3)}, "the task is OwnMemory"),
    "a shape of one's own": ("facts", {"model": Model(ResidualMLP, shape=subclass(Shape)(9, 2), row_norm=3.0,
                                                      unembedding="coordinates")}, "the model is"),
    "groups with own activity": ("in groups", {"features": subclass(Correlated, activity=torch.tensor(0.2))(N, 4, 0.1)},
                                 "activity"),
    "groups with more densities": ("in groups", {"features.density": np.full((2, N), 0.1)}, "density has shape"),
    "unit length, hidden ReLU": ("unit length", {"model": Model(TiedAutoencoder, width=2, hidden_relu=True)}, "hidden"),
    "unit length, linear": ("unit length", {"model": Model(TiedAutoencoder, width=2, relu=False)}, "relu=False"),
    "unit length, own transform": ("unit length", {"features": subclass(UnitLength, transform=CUBED)(N, 0.1)}, "Own"),
    "unit length, dense": ("unit length", {"features.density": np.array([0.1, 2.0])}, "outside"),
    "one number": ("one hidden layer", {"task": SumOfSquares(), "features": SparseUniform(N, 0.1, signed=True)},
                   "SumOfSquares"),
    "a law's axis": ("untied", {"features.given_active": np.array([0.1, 0.9])}, "given_active differs"),
    "the features' axis": ("untied", {"features": np.array([0.1, 0.9])}, "features differs"),
    "powers": ("untied", {"task.exponent": np.array([2.0, 4.0])}, "exponent"),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_each_kernel_is_chosen_where_all_is_known(name):
    assert fused.unfit(Stack.of(FITS[name], [0, 1])) is None


@pytest.mark.parametrize("name", UNFIT)
def test_each_kernel_is_refused_what_it_does_not_know(name):
    which, changes, reason = UNFIT[name]
    varying = {path: value for path, value in changes.items() if isinstance(value, np.ndarray)}
    parts = {path: value for path, value in changes.items() if path not in varying}
    here = Stack(dataclasses.replace(FITS[which], **parts), np.arange(2), np.arange(2), varying)
    assert reason in fused.unfit(here)
    assert listed.unfit(here) is not None  # measures ask this one alone


def test_a_field_that_only_moves_the_activity_may_differ_by_instance():
    varying = {"features.slope": np.array([0.1, 0.9]), "features.density": np.array([0.1, 0.4])}
    here = stack(Tilted(N), varying=varying)
    assert fused.unfit(here) is None
    agree(here)
    assert not torch.allclose(*trained(here, "fused").history)  # the control: it matters


class Scheduled(Setting):
    def draw_of(self, step):
        return 0


def test_a_setting_or_an_optimizer_of_ones_own_is_unknown():
    own = Scheduled(SparseUniform(N, 0.2), Identity(), TIED, steps=4, batch=70)
    assert "Scheduled" in fused.unfit(Stack.of(own, [0]))
    mine = dataclasses.replace(setting(), optimizer=subclass(Adam)())
    assert "OwnAdam" in fused.unfit(Stack.of(mine, [0]))


# ---------------------------------------------------------------------------------------------------------- schedules

NAN = float("nan")
WRONG = [None, NAN, float("inf"), "1", b"1", True, np.True_, 1j, [1.0], np.ones(1), np.ones(3), torch.ones(2), 10**400,
         torch.tensor(True), {}]  # fmt: skip


@pytest.mark.parametrize("engine", ["fused", "general"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:12])
def test_a_schedule_gives_one_finite_number_a_step(wrong, engine):
    here = stack(schedule=lambda step, steps: wrong if step == 2 else 1.0)
    with pytest.raises(InputError, match=r"schedule\(2, 4\) must be one finite real number, got") as raised:
        trained(here, engine)
    assert "\n" not in str(raised.value)


def test_a_schedule_is_asked_once_for_each_step_in_order():
    asked = []
    found = multipliers(Adam(schedule=lambda step, steps: asked.append((step, steps)) or step / 2), 5)
    assert asked == [(step, 5) for step in range(5)]
    np.testing.assert_array_equal(found, np.arange(5) / 2)


def test_a_schedule_is_asked_about_the_steps_of_its_setting_only(monkeypatch):
    """Compiling before workers are forked trains one step of nothing."""
    monkeypatch.setattr(fused, "_PREPARED", set())
    fused.prepare([stack(schedule=lambda step, steps: [4, 3, 2, 1][step] / (steps - 1))])
