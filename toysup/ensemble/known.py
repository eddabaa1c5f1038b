"""What fused kernels know, told by what it is: classes, methods and magnitudes as the package itself defines them.

A kernel does what certain classes did when it was written. So a setting fits one only where each part of it is proved
to do just that: every attribute that training uses is the very object that the package had when it was imported, down
to the code of functions and of the helpers they call. Anything else is unknown, whatever it is called: another
magnitude, a subclass with a method of its own, a class changed since, an attribute put on an instance, an argument of
another type. What is unknown is trained by the general path.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from torch import nn

from toysup.ensemble.stack import Stack
from toysup.features import Correlated, Features, Magnitude, OnePerGroup, PowerLaw, UnitLength, base
from toysup.features.base import Independent
from toysup.kernels import tiles
from toysup.models import MLP, ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.setting import RATES, Adam, Model, Setting
from toysup.tasks import AbsoluteValue, Identity, Memory, XPlusRelu

__all__ = [
    "Known",
    "magnitude_of",
    "unfit_features",
    "unfit_model",
    "unfit_optimizer",
    "unfit_rest",
    "unfit_setting",
    "unfit_task",
    "unfit_varying",
]

# How an object was made, is shown and is compared: nothing that training asks of one that is there.
MAKING = {
    *("__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__replace__"),
    *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__init_subclass__", "__subclasshook__"),
    *("__firstlineno__", "__static_attributes__", "__init__", "__post_init__", "__setattr__", "__delattr__"),
    *("__repr__", "__str__", "__format__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("__dir__", "__sizeof__", "__slots__", "__slotnames__"),  # the last is what copying an object writes to its class
}
HOOKS = ("__getattr__", "__copy__", "__setstate__")  # what Python asks for, whether a class has it or not
MISSING = object()


def _function(value: Any) -> Any:
    """The function behind a property, a static or class method, or a plain method."""
    kind = type(value)
    if kind is property:
        return value.fget
    if kind is functools.cached_property:
        return value.func
    return value.__func__ if kind in (staticmethod, classmethod) else value


@dataclasses.dataclass(eq=False)
class _Mark:
    """What an attribute is: the object, and for a function of this package what it does."""

    value: Any

    def __post_init__(self) -> None:
        function = _function(self.value)
        ours = type(function) is FunctionType and function.__globals__.get("__name__", "").startswith("toysup.")
        self.function = function if ours else None
        self.inside = (function.__code__, function.__defaults__, function.__kwdefaults__) if ours else ()

    def fits(self, value: Any) -> bool:
        """Whether this is what was there."""
        if value is not self.value:
            return False
        if self.function is None:
            return True
        now, (code, defaults, keywords) = self.function, self.inside
        return now.__code__ is code and now.__defaults__ is defaults and now.__kwdefaults__ is keywords


def _names_in(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names_in(part) for part in code.co_consts if isinstance(part, CodeType)))


def _found(spaces: Sequence[Mapping[str, Any]], name: str) -> Any:
    for space in spaces:
        if name in space:
            return space[name]
    return MISSING


def _spaces(kind: type) -> list[Mapping[str, Any]]:
    """Where attributes of a class are looked up, but for `nn.Module`, which torch itself changes as it compiles."""
    return [vars(c) for c in kind.__mro__ if c is not nn.Module]


def attribute(kind: type, name: str) -> Any:
    """What a class has under a name, as it stands there."""
    return _found(_spaces(kind), name)


def _native(kind: type, name: str) -> bool:
    """Whether what a class of this package has under a name was written there, not put there before this file ran."""
    owner = next((c for c in kind.__mro__ if name in vars(c) and c is not nn.Module), object)
    if not owner.__module__.startswith("toysup."):
        return True
    function = _function(vars(owner)[name])
    if type(function) is not FunctionType:
        return type(function) in (bool, int, float, str, tuple, type(None))
    return (
        function.__globals__ is vars(sys.modules[owner.__module__])
        and function.__code__.co_qualname == f"{owner.__qualname__}.{name}"
    )


@dataclasses.dataclass(eq=False)
class Known:
    """A class as it was when this package was imported, and the attributes of it that training uses.

    Args:
        kind: the class.
        free: attributes that training never uses, or that kernels, too, ask the object for.
        read: those that kernels ask once, and that must not be computed; fields always are among them.
        heirs: whether subclasses are known, where they inherit all but the free attributes.
        made: whether objects are made anew while training, so that how they are made counts.
    """

    kind: type
    free: Sequence[str] = ()
    read: Sequence[str] = ()
    heirs: bool = False
    made: bool = False

    def __post_init__(self) -> None:
        own = dataclasses.fields(self.kind) if dataclasses.is_dataclass(self.kind) else ()
        self.fields = {*(field.name for field in own), *self.read}
        names = {*dir(self.kind), *HOOKS} - MAKING - self.fields - set(self.free) | {*["__init__"] * self.made}
        self.marks = {
            name: _Mark(attribute(self.kind, name) if _native(self.kind, name) else object()) for name in names
        }
        self.helpers: dict[tuple[int, str], tuple[dict[str, Any], str, _Mark]] = {}
        for mark in self.marks.values():
            self._follow(mark.function)

    def _follow(self, function: FunctionType | None) -> None:
        """Note the functions of this package that a function calls by name."""
        space = function.__globals__ if function else {}
        for name in _names_in(function.__code__) if function else ():
            mark = _Mark(space.get(name))
            if mark.function and (id(space), name) not in self.helpers:
                self.helpers[id(space), name] = space, name, mark
                self._follow(mark.function)

    def altered(self, kind: type) -> str | None:
        """The first attribute of a class that is not what this one had; None where all are."""
        if kind is not self.kind and not (self.heirs and self.kind in kind.__mro__):
            return "class"
        spaces = _spaces(kind)
        for name, mark in self.marks.items():
            if not mark.fits(_found(spaces, name)):
                return name
        for name in self.fields:  # what is computed may differ from one reading to the next
            if hasattr(type(_found(spaces, name)), "__set__"):
                return name
        return next((name for space, name, mark in self.helpers.values() if not mark.fits(space.get(name))), None)

    def differs(self, thing: Any) -> str | None:
        """The first attribute of an object that is not what an object of this class had; None where all are."""
        altered = self.altered(type(thing))
        if altered:
            return altered
        for name in object.__getattribute__(thing, "__dict__"):  # shadows what the class has
            if name in self.marks and type(self.marks[name].value) is not functools.cached_property:
                return name
        return None


MOMENTS = (  # and checks of fields: for references and held-out scores
    *("mean", "second_moment", "mean_absolute", "positive_second_moment", "fourth_moment", "kurtosis", "variance"),
    *("expected_active", "covariance", "_check_flag", "_check_float", "_check_divides"),
)
REFERENCES = ("check", "baseline", "features_per_score", "trivial_losses", "linear_directions", "target_moments")
SCORES = (*REFERENCES, "errors", "hits")
VALUES = ("signed", "magnitude")  # `magnitude_of` looks at what they come to

INDEPENDENT = Known(Independent, ("activity", "density", *MOMENTS), read=VALUES, heirs=True)
CORRELATED = Known(Correlated, MOMENTS, read=VALUES, heirs=True)  # its samples come from density, not from activity
UNIT_LENGTH = Known(UnitLength, MOMENTS)
ONE_PER_GROUP = Known(OnePerGroup, ("activity", "transform", "given_active", "n_offered", *MOMENTS))  # indices only
TASKS = {kind: Known(kind, SCORES) for kind in (Identity, AbsoluteValue, XPlusRelu, Memory)}
SCORED = {kind: Known(kind, REFERENCES) for kind in (Identity, AbsoluteValue, XPlusRelu)}  # where errors are measured
MODELS = {kind: Known(kind, made=True) for kind in (TiedAutoencoder, MLP, UntiedAutoencoder, ResidualMLP)}
CALLING = {name: _Mark(vars(nn.Module)[name]) for name in ("__call__", "_call_impl", "__getattr__")}
ADAM, MODEL, SETTING = Known(Adam), Known(Model, made=True), Known(Setting)
DENSITY, POWER = (_Mark(attribute(kind, "activity")) for kind in (Independent, PowerLaw))
MAGNITUDES: tuple[tuple[Magnitude, int], ...] = (
    (base.UNIFORM, tiles.UNIFORM),
    (base.SIGNED, tiles.SIGNED),
    (base.BOOLEAN, tiles.BOOLEAN),
    (base.SIGN, tiles.SIGN),
)


def magnitude_of(features: Features) -> int | None:
    """A kernel's code for the law of active features; None for a law that no kernel knows."""
    try:
        given = features.given_active
    except Exception:  # whatever it was, the general path raises the user's own error
        return None
    return next((code for magnitude, code in MAGNITUDES if magnitude is given), None)


def unfit_features(features: Features, kinds: Sequence[Known]) -> str | None:
    """Why a kernel that knows distributions of some kinds cannot draw these; None where it can."""
    name = type(features).__name__
    kind = next((kind for kind in kinds if kind.kind in type(features).__mro__), None)
    if kind is None or (not kind.heirs and type(features) is not kind.kind):
        return f"features are {name}"
    differs = kind.differs(features)
    if differs:
        return f"features are {name}, whose {differs} no kernel knows"
    if kind in (INDEPENDENT, CORRELATED) and magnitude_of(features) is None:
        return f"features are {name}, whose magnitude no kernel knows"
    if kind is CORRELATED and not (isinstance(features.anti, bool) and shape_of(features.density) in ((), (1,))):
        return f"features are {name} of unknown groups"
    shape = _activity_shape(features) if kind is INDEPENDENT else ()
    if shape not in ((), (1,), (features.n_features,)):
        return f"features are {name}, whose activity has shape {shape}"
    return None


def _activity_shape(features: Features) -> tuple[int, ...] | None:
    """The shape of an activity, found without computing those that are known; None where it cannot be computed."""
    own = attribute(type(features), "activity")
    if POWER.fits(own):
        return (features.n_features,)
    try:
        return shape_of(features.density if DENSITY.fits(own) else features.activity)
    except Exception:  # as above
        return None


def unfit_task(task: Any, kinds: Iterable[type], known: Mapping[type, Known] = TASKS) -> str | None:
    """Why a kernel that knows tasks of some classes cannot train this one (or do what else is `known`); None where it
    can."""
    if type(task) not in kinds:
        return f"the task is {type(task).__name__}"
    differs = known[type(task)].differs(task)
    return f"the task is {type(task).__name__}, whose {differs} no kernel knows" if differs else None


Arguments = Mapping[str, Callable[[Any], bool]]


def unfit_model(model: Model, known: Mapping[type, Arguments]) -> str | None:
    """Why a kernel that knows networks of some classes cannot train this one; None where it can.

    `known` says of each class which values of which arguments are known; those that aren't given have their defaults.
    """
    build = next((kind for kind in known if kind is model.build), None) if type(model) is Model else None
    if build is None:
        return f"the model is {model!r}"
    differs = MODEL.differs(model) or MODELS[build].altered(build)
    differs = differs or next((name for name, mark in CALLING.items() if not mark.fits(vars(nn.Module)[name])), None)
    if differs:
        return f"the model is {model!r}, whose {differs} no kernel knows"
    arguments, given = known[build], model.arguments
    if not all(name in arguments and arguments[name](value) for name, value in given.items()):
        return f"the model is {model!r}"
    missing = [name for name in ("width", "shape") if name in arguments and name not in given]
    return f"the model is {model!r}, without a {missing[0]}" if missing else None


def unfit_rest(setting: Setting) -> str | None:
    """Why a kernel cannot train with a setting's own kind or its optimizer; None where it can."""
    return unfit_optimizer(setting) or unfit_setting(setting)


def unfit_optimizer(setting: Setting) -> str | None:
    """Why a kernel cannot train with a setting's optimizer; None where it can."""
    if type(setting.optimizer) is not Adam:
        return f"the optimizer is {type(setting.optimizer).__name__}"
    differs = ADAM.differs(setting.optimizer)
    return f"the optimizer is Adam, whose {differs} no kernel knows" if differs else None


def unfit_setting(setting: Setting) -> str | None:
    """Why a kernel cannot serve a setting's own kind; None where it can."""
    differs = SETTING.differs(setting)
    return f"the setting is {type(setting).__name__}, whose {differs} no kernel knows" if differs else None


def unfit_varying(stack: Stack, paths: Mapping[str, int]) -> str | None:
    """Why a kernel cannot serve what differs by instance; None where it can.

    `paths` are those a kernel reads, with how many numbers each instance may have there beside one. Other fields of
    independent features may differ too: nothing but their activity can depend on them, and that is asked of each
    instance.
    """
    known = {**{f"optimizer.{name}": 0 for name in RATES}, **paths}
    features = stack.setting.features
    for path, values in stack.varying.items():
        if path in known:
            shape = shape_of(values)[1:]
            if shape not in ((), *(((1,), (known[path],)) if known[path] else ())):
                return f"{path} has shape {shape} for each instance"
            continue
        part, _, name = path.partition(".")
        head = name.partition(".")[0]
        if part != "features" or not head or not isinstance(features, Independent):
            return f"{path} differs by instance"
        if head in INDEPENDENT.marks or head in INDEPENDENT.fields or head in VALUES:
            return f"{path} differs by instance"
    return None


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def is_flag(value: Any) -> bool:
    return type(value) is bool


def is_whole(value: Any, at_least: int = 1) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= at_least


def is_text(value: Any) -> bool:
    return type(value) is str


def anything(_: Any) -> bool:
    return True
