"""The fused path: the general path's curves on the same draws, autograd's gradients, and nothing else that differs."""

import dataclasses
import itertools
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from llvmlite import binding as llvm
from llvmlite import ir
from torch.func import functional_call

from toysup import random
from toysup.checks import InputError
from toysup.ensemble import Stack, fused, initial_values, train
from toysup.features import (
    BitGroups,
    Correlated,
    ExactlyK,
    Features,
    OnePerGroup,
    PowerLaw,
    SparseBoolean,
    SparseNormal,
    SparseUniform,
)
from toysup.kernels import tiles
from toysup.measure import held_out_loss
from toysup.models import MLP, ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.random import uniforms
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.simd import LANES, Emit, Registers
from toysup.tasks import AbsoluteValue, And, Identity, Memory, XPlusRelu

TIED, LINEAR = (lambda m, relu=relu: Model(TiedAutoencoder, width=m, relu=relu) for relu in (True, False))
BENT, COMPUTING = (
    (lambda m: Model(TiedAutoencoder, width=m, hidden_relu=True)),
    (lambda m: Model(MLP, width=m, hidden_bias=False)),
)
# Kernels are compiled for each kind of network, so one case tries several things at once.
CASES = {
    "few features": (SparseUniform(5, 0.1), Identity(2.0 ** -np.arange(5)), TIED(2), 1024),
    "few, dense": (SparseUniform(5, [1.0, 0.5, 1.0, 0.7, 0.9]), Identity(), TIED(2), 200),
    "few, in pairs": (Correlated(4, 2, 0.05), Identity(), TIED(2), 1024),
    "few, always one of two": (Correlated(4, 2, 0.5, anti=True), Identity(), TIED(2), 130),
    "narrow, in sets": (Correlated(20, 10, 0.9, signed=True), Identity(2.0 ** -np.arange(20)), TIED(10), 500),
    "narrow, one of five": (Correlated(20, 5, 0.01, anti=True), Identity(), TIED(5), 1000),
    "narrow, groups of bits": (BitGroups(20, 4, 0.1), Identity(), TIED(5), 300),
    "narrow, groups of ones": (BitGroups(20, 5, 0.1, anti=True, signed=False), Identity(), TIED(5), 300),
    "narrow": (SparseUniform(20, 0.2), Identity(0.7 ** np.arange(20)), TIED(5), 512),
    "narrow, sparse": (SparseUniform(20, 0.01), Identity(), TIED(5), 1000),
    "narrow, power law": (PowerLaw(9, 1.0, 0.2), Identity(), TIED(3), 77),
    "narrow, linear, fourth power": (SparseBoolean(7, 0.1, signed=True), Identity(exponent=4.0), LINEAR(3), 130),
    "narrow, hidden layer": (SparseUniform(9, 0.1, signed=True), AbsoluteValue(), Model(MLP, width=6), 333),
    "narrow, hidden layer, linear": (SparseBoolean(9, 0.3), XPlusRelu(), Model(MLP, width=7, relu=False), 64),
    "narrow, hidden layer, no bias": (SparseUniform(9, 0.1, signed=True), AbsoluteValue(), COMPUTING(6), 333),
    "few, hidden ReLU": (SparseUniform(5, 0.1), Identity(), BENT(2), 200),
    "narrow, untied": (SparseUniform(9, 0.3), Identity(), Model(UntiedAutoencoder, width=4), 1),
    "wide": (SparseUniform(40, 0.3), Identity(0.9 ** np.arange(40)), TIED(30), 500),
    "wide, sparse": (SparseUniform(70, 0.02), Identity(), TIED(30), 1024),
    "wide, very sparse": (SparseUniform(40, 0.002), Identity(), TIED(25), 1024),
    "wide, in pairs": (Correlated(40, 2, 0.02), Identity(), TIED(25), 1024),
    "wide, hidden ReLU": (SparseUniform(40, 0.1), Identity(), BENT(25), 300),
    "wide, hidden layer, no bias": (SparseUniform(50, 0.02, signed=True), AbsoluteValue(), COMPUTING(40), 300),
    "wide, hidden layer": (SparseUniform(50, 0.05, signed=True), AbsoluteValue(), Model(MLP, width=70), 300),
}


def setting(name="few features", steps=100, **optimizer):
    features, task, model, batch = CASES[name]
    optimizer = {"lr": 3e-3, "weight_decay": 0.01, "schedule": Cosine(), **optimizer}
    return Setting(features, task, model, Adam(**optimizer), steps, batch)


def run(stack, engine="fused", **kwargs):
    return train(stack, device="cpu", engine=engine, compile=False, **kwargs)


def same(one, other):
    return all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters) and torch.equal(
        one.history, other.history
    )


# -------------------------------------------------------------------------------------------------- the general path


@pytest.mark.parametrize("name", CASES)
def test_the_curves_are_the_general_paths(name):
    stack = Stack.of(setting(name, steps=200 if "wide" not in name else 60), [3, 8])
    ours, theirs = run(stack, snapshots=[0, 7]), run(stack, "general", snapshots=[0, 7])
    assert (ours.engine, theirs.engine) == ("fused", "general, eager")
    assert torch.allclose(ours.history, theirs.history, rtol=1e-4, atol=0)
    for step in (0, 7):
        for key, value in theirs.snapshots[step].items():
            assert torch.allclose(ours.snapshots[step][key], value, rtol=0, atol=2e-5 if step else 0)


def test_whatever_may_differ_by_instance_does():
    rng, size = np.random.default_rng(0), 4
    varying = {
        "features.density": rng.uniform(0.02, 1.0, (size, 20)),
        "task.importance": rng.uniform(0.1, 2.0, (size, 20)),
        "optimizer.lr": np.geomspace(1e-3, 3e-2, size),
        "optimizer.weight_decay": np.linspace(0.0, 0.5, size),
        "optimizer.beta1": np.linspace(0.0, 0.95, size),
        "optimizer.beta2": np.linspace(0.9, 0.999, size),
        "optimizer.eps": np.geomspace(1e-8, 1e-4, size),
    }
    stack = Stack(setting("narrow"), *rng.integers(0, 2**32, (2, size)), varying)
    ours, theirs = run(stack), run(stack, "general")
    assert torch.allclose(ours.history, theirs.history, rtol=1e-4, atol=0)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_full_runs_end_at_the_same_loss(density):
    """Rounding grows along a run, so networks end apart; their losses must agree like those of other seeds do."""
    whole = setting(steps=1500, lr=1e-2)
    whole = dataclasses.replace(whole, features=SparseUniform(5, density), batch=128)
    stack = Stack.of(whole, range(12))
    ours, theirs = (held_out_loss(run(stack, engine))[0] for engine in ("fused", "general"))
    assert (ours - theirs).mean().abs() < 4 * theirs.std() / np.sqrt(12)
    assert (ours - theirs).abs().median() < 0.01 * theirs.mean()


# --------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    "name",
    [
        "few features",
        "few, hidden ReLU",
        "narrow, sparse",
        "narrow, in sets",
        "narrow, hidden layer",
        "narrow, hidden layer, no bias",
        "narrow, untied",
        "wide, sparse",
    ],
)
def test_gradients_are_autograds_in_float64(name):
    """One step of Adam without memory and with eps = lr = 1e12 subtracts the gradient."""
    whole = setting(name, steps=1, lr=1e12, eps=1e12, beta1=0.0, beta2=0.0, weight_decay=0.0, schedule=lambda *_: 1.0)
    stack = Stack.of(dataclasses.replace(whole, batch=150), [5])
    parameters, *_ = fused.run(stack, fused.plan_of(stack, np.float64), np.array([0, 1]))
    start = {key: value[0].double().requires_grad_() for key, value in initial_values(stack)[0].items()}
    features, task = whole.features, whole.task
    x = features.transform(uniforms(5, 0, 150, features.n_uniforms)[0]).double()
    loss = task.loss(functional_call(whole.build().double(), start, (x,)), task.target(x, {}))
    for (key, value), gradient in zip(start.items(), torch.autograd.grad(loss, list(start.values())), strict=True):
        found = value.detach() - parameters[key][0]
        assert (found - gradient).abs().max() <= 1e-10 * gradient.abs().max()
        assert gradient.abs().max() > 1e-6


# ------------------------------------------------------------------------------------------------------- as if alone


@pytest.mark.parametrize("name", ["few features", "narrow", "wide, sparse"])
def test_threads_order_and_company_change_no_bit(name):
    stack = Stack.of(setting(name, steps=30), range(7))
    whole, order = run(stack, threads=1), [4, 0, 6]
    assert same(whole, run(stack, threads=3))
    assert same(whole.take(order), run(stack.take(order)))
    assert same(whole.take([2]), run(stack.take([2])))


@pytest.mark.parametrize("name", ["few features", "narrow", "wide"])
def test_an_instance_that_diverges_is_frozen_and_marked(name):
    rates = np.array([3e-3, 1e25, 3e-3])
    stack = Stack(setting(name, steps=40), *np.array([[1, 2, 3]] * 2), {"optimizer.lr": rates})
    ours, theirs = (run(stack, engine, snapshots=[35]) for engine in ("fused", "general"))
    assert ours.diverged_step.tolist() == theirs.diverged_step.tolist()
    assert ours.diverged_step[1] > 0 and ours.diverged_step[0] == ours.diverged_step[2] == -1
    died = int(ours.diverged_step[1])
    assert torch.equal(ours.history.isnan(), theirs.history.isnan())
    assert bool(ours.history[1, died:].isnan().all())
    assert torch.equal(ours.snapshots[35]["W"][1], ours.parameters["W"][1])
    assert same(ours.take([0, 2]), run(stack.take([0, 2])))


def test_dead_features_end_in_zeros_not_in_denormals():
    """Moments of a parameter whose gradient is 0 shrink by a tenth a step; below float32's range arithmetic is slow."""
    still = Setting(SparseUniform(5, 1e-6), Identity(), TIED(2), Adam(lr=0.1), steps=1200, batch=64)
    trained = run(Stack.of(still, [0]))
    assert bool(trained.history.isfinite().all()) and trained.history[0, -1] == 0
    smallest = torch.finfo(torch.float32).tiny
    for value in trained.parameters.values():
        assert bool(((value == 0) | (value.abs() > smallest)).all())


def test_scratch_is_for_one_instance_and_stays_in_cache():
    big = Setting(SparseUniform(400, 0.1), Identity(), TIED(30), steps=1)
    plans = [fused.plan_of(Stack.of(big, range(count))) for count in (1, 50)]
    assert plans[0].floats == plans[1].floats and plans[0].ints == plans[1].ints
    assert 4 * plans[0].floats + 8 * plans[0].ints < 2 << 20


# -------------------------------------------------------------------------------------------------------- what fits


class Other(SparseUniform):
    def transform(self, uniforms):
        return uniforms


class Lagging(Correlated):
    def transform(self, uniforms):
        return super().transform(uniforms).roll(1, -1)


class Loud(TiedAutoencoder):
    pass


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"features": SparseNormal(5, 0.1)}, "features are SparseNormal"),
        ({"features": ExactlyK(5, 2)}, "features are ExactlyK"),
        ({"features": Lagging(6, 2, 0.1)}, "features are Lagging"),
        ({"features": Other(5, 0.1)}, "features are Other"),
        ({"task": And(n_pairs=5)}, "the task is And"),
        ({"task": Identity(exponent=3.0)}, "the exponent is not 2 or 4"),
        ({"model": Model(Loud, width=2)}, "the model is .*Loud"),
        ({"model": Model(MLP, width=4, depth=2)}, "the model is .*depth=2"),
    ],
)
def test_what_does_not_fit_is_trained_by_the_general_path(changed, reason):
    other = dataclasses.replace(setting(steps=2), **{"task": Identity(), **changed})
    stack = Stack.of(other, [0])
    with pytest.raises(InputError, match=reason):
        run(stack)
    assert run(stack, "auto").engine == "general, eager"
    assert isinstance(other.features, Features)


def test_the_engine_is_chosen_or_named():
    stack = Stack.of(setting(steps=2), [0])
    assert [run(stack, engine).engine for engine in ("auto", "fused", "general")] == ["fused"] * 2 + ["general, eager"]
    with pytest.raises(InputError, match="expected auto, general or fused, got 'fast'"):
        run(stack, "fast")
    with pytest.raises(InputError, match="threads"):
        run(stack, threads=0)


def one_of_each():
    """A stack for each way in which kernels are put together: sums in registers, matrices with lists, facts."""
    kinds = {
        "few": (SparseUniform(5, 0.1), Identity(), TIED(2)),
        "wide": (SparseUniform(150, 0.02), Identity(), TIED(20)),
        "facts": (OnePerGroup(32, 2), Memory(4), Model(ResidualMLP, shape=Shape(8, 2), unembedding="coordinates")),
    }
    return {name: Stack.of(Setting(*parts, Adam(1e-2), 30, 200), [3, 4]) for name, parts in kinds.items()}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86-64 processor")
def test_every_target_trains_the_same(tmp_path):
    """Bit for bit, in a process that takes this processor for one without AVX-512."""
    code = """
import sys, torch, test_fused as t
found = {name: t.train(stack, device="cpu", engine="fused", threads=1) for name, stack in t.one_of_each().items()}
torch.save({name: (own.parameters, own.history) for name, own in found.items()}, sys.argv[1])
"""
    older = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+popcnt", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "found.pt"],
        env={**os.environ, **older, "PYTHONPATH": os.path.dirname(__file__)},
        check=True,
    )
    there = torch.load(tmp_path / "found.pt")
    for name, stack in one_of_each().items():
        here = train(stack, device="cpu", engine="fused", threads=1)
        parameters, history = there[name]
        assert torch.equal(history, here.history), name
        assert all(torch.equal(parameters[own], value) for own, value in here.parameters.items()), name


TARGETS = {  # triple, processor, features as numba tells them, what numba's settings need beside the processor
    "avx512": ("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl"),
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", "+avx,+avx2,+fma,-avx512f"),
    "sse": ("x86_64-unknown-linux-gnu", "nehalem", "+ssse3,+sse4.2,-avx"),
    "neon": ("aarch64-unknown-linux-gnu", "cortex-a76", "+neon"),
}


def assembly(target, element, body, numbers):
    """What LLVM makes of `body(e, s, t, *numbers)` for a processor that need not be here."""
    triple, processor, features = TARGETS[target]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    whole = ir.IntType(64)
    module = ir.Module("kernel")
    module.triple = triple
    kind = ir.FunctionType(whole, [element.as_pointer(), whole.as_pointer()] + [whole] * numbers)
    function = ir.Function(module, kind, "kernel")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    found = body(Emit(builder, element, Registers.of(triple, features)), *function.args)
    builder.ret(ir.Constant(whole, 0) if found is None else found)
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=processor, features=features, opt=3)
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(compiled, passes)
    return machine.emit_assembly(compiled)


def spilled(text):
    """Vector registers that are put on the stack and fetched from there."""
    return re.findall(
        r"^.*(?:[xyz]mm.*\(%rsp\)|\(%rsp\).*[xyz]mm|st[rp]\tq.*\[sp|ld[rp]\tq.*\[sp).*$", text, re.MULTILINE
    )


def multiplied(e, s, t, out, ld, a, ar, ak, x, xk, rows, depth, columns):
    def finish(r, c, height, width, sums):
        for place, value in zip(itertools.product(range(height), range(width)), sums, strict=True):
            e.store(value, s, e.add(out, e.times(e.add(r, place[0]), ld), c, LANES * place[1]))

    tiles.contract(e, s, a, ar, ak, x, xk, rows, depth, columns, lambda r, c: e.constant(0.0), finish)


def drawn(e, s, t, keys, feature, lanes, at):
    for sample, word in random.words(e, t, keys, feature, lanes):
        e.store(random.uniform(e, word), s, e.add(at, sample))


def squeezed(e, s, t, bits, at, to):
    return tiles.keep(e, e.load(s, at), e.b.trunc(bits, ir.IntType(LANES)), s, to)


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon"])
def test_no_sum_leaves_the_registers(target):
    """Cross-compiled, so that it is seen for processors that are not here. (The draws' four chains of 64-bit products
    are a few values more than the sixteen registers of AVX2 hold.)"""
    product, draws = (assembly(target, ir.FloatType(), *own) for own in ((multiplied, 10), (drawn, 4)))
    assert not spilled(product) and (target == "avx2" or not spilled(draws))
    assert len(re.findall("fmla" if target == "neon" else "vfmadd", product)) > 50
    products = {"avx512": ("vpmuludq", 16), "avx2": ("vpmuludq", 32), "neon": ("umull", 64)}[target]
    assert len(re.findall(products[0], draws)) == products[1]
    packed = assembly(target, ir.FloatType(), squeezed, 3)
    assert len(re.findall({"avx512": "vcompressps", "avx2": "vperm(?:d|ps)", "neon": r"tbl\t"}[target], packed)) == {
        "avx512": 1, "avx2": 2, "neon": 4}[target]  # fmt: skip


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("element", [ir.FloatType(), ir.DoubleType()])
def test_tiles_fit_into_the_registers_of_each_target(target, element):
    triple, _, features = TARGETS[target]
    e = Emit(None, element, Registers.of(triple, features))
    each, room = LANES // e.lanes, e.registers.number - 1
    assert [first for first, _ in e.halves()] == list(range(0, LANES, e.lanes))
    for tall in (0, 1):
        rows = tiles.heights(e, tall)
        assert rows[-1] == 1 and rows == sorted(rows, reverse=True)
        for height in rows:
            along = tiles.widths(e, height)
            assert (height * along[0] + along[0]) * each <= room or height * along[0] == 1
            assert along[-1] == 1 and along == sorted(set(along), reverse=True)
    for height, breadth, copies in itertools.product(range(1, 5), range(1, 7), range(1, 5)):
        tall, wide = tiles.divided(e, height, breadth, copies)
        assert tall <= height and wide <= breadth
        assert tall * wide * copies + tall <= room or tall * wide == 1
