"""How much faster is toysup than the loop everybody writes and than public packages, on one core, to the same loss?

The loop is the field's: an instance axis by hand, einsums, torch.rand, torch.optim.AdamW (`tests/oracles.py`). The
packages (`pip install -e '.[bench]' torch==2.13.0`; without them the rest runs): tms-kit 0.4.1 (`optimize`), occhio
0.2.3 (`ModelGrid.fit`: own samples; samples that all instances share, its default; that, compiled; the fastest counts).
All train at rate 1e-3, decay 0.01 (tms-kit: none), batch 1024: tied ReLU autoencoders at density 0.1 (w1 to w5), and
residual MLPs with a frozen embedding (w6), where toysup chooses its engine. Each engine trains each workload in a
fresh process (in one, toysup's allocator settings would speed the loop too) with one torch thread; they are asked in
turn, and each number is a ratio of rates from interleaved repetitions: times mean little on a shared machine. The limit
is what this core could do: 10 B n m operations an instance-step at its fused multiply-add peak, and B n draws at the
rate of xoshiro128+ in registers, both measured. On a processor with AVX-512 all of it is timed a second time in a
process that takes it for one with AVX2 only (avx2_...). Models of one's own (GELU, two layers, squares: own_model, ...)
go through the general engine. two_threads_over_one: no rule hangs on it. 15 minutes, --quick 1.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import plots, stats
from toysup.ensemble import load_compiler, one_thread, train
from toysup.random import Stream, uniforms
from toysup.study import Check, Claim, Finding, Given, Run, Study, experiment

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests")]
import _engines  # noqa: E402
import _race  # noqa: E402
from _engines import Own, Residual, Tied  # noqa: E402
from _race import TARGETS, compared, elsewhere, instructions, race, rates_of  # noqa: E402

QUESTION = "How much faster does toysup train toy models than the field's loop and packages do, to the same loss?"
WORKLOADS = {"w1": Tied(5, 2, 8), "w2": Tied(20, 5, 10), "w3": Tied(20, 5, 1000), "w4": Tied(400, 30, 10),
             "w5": Tied(2, 1, 2500)}  # fmt: skip
MORE = {"w5b": Tied(2, 1, 10_000)} | {
    f"{name}_p{p:g}": replace(WORKLOADS[name], density=p) for name in ("w2", "w4") for p in (1.0, 0.01, 0.001)
}
RESIDUAL = {f"w6_{d}_{blocks}_{instances}": Residual(d, blocks, instances)
            for d in (40, 1000) for blocks in (1, 3) for instances in (1, 100)}  # fmt: skip
NAMES = {"gelu": "own_model", "two layers": "two_layers", "squares": "squares"}
OWN = {f"{name}_{NAMES[model]}": Own(work.n, work.m, work.instances, model=model) for model in NAMES
       for name, work in WORKLOADS.items() if model == "gelu" or name in ("w1", "w2", "w5")}  # fmt: skip
THERE = {f"{target}_{name}": work for target in TARGETS for name, work in {**WORKLOADS, **OWN}.items()}
EVERY = {**WORKLOADS, **MORE, **RESIDUAL, **OWN, **THERE}
AXES = {"instances": (1, 10, 100, 1000, 10_000), "n": (5, 20, 80, 400), "m": (1, 2, 5, 10, 20),
        "batch": (64, 256, 1024, 4096)}  # fmt: skip
GROWTH = {axis: {at: replace(WORKLOADS["w2"], **{axis: at}) for at in values} for axis, values in AXES.items()}
WANTED = {
    "w1": 90,
    "w2": 40,
    "w3": 80,
    "w4": 8,
    "w5": 90,
    "avx2_w1": 50,
    "avx2_w2": 20,
    "avx2_w3": 40,
    "avx2_w4": 5.5,
    "avx2_w5": 50,
}  # times the loop's rate
GENERAL = {"w1": 4, "w2": 4, "w3": 6, "w4": 2.5, "w5": 4}  # what no kernel knows
GENERAL = {name: GENERAL[name.removeprefix("avx2_")[:2]] for name in {**OWN, **THERE} if name not in WANTED}
PAIRS = {f"{one}_over_{other}": (one, other) for one, other in (
    ("fused", "loop"), ("general", "loop"), ("eager", "loop"), ("tms_kit", "loop"), ("occhio", "loop"),
    ("fused", "occhio"), ("fused", "tms_kit"))} | {"two_threads_over_one": ("fused_twice", "fused"),
                 "over_loop": ("auto", "loop"), "uniforms_over_torch_rand": ("own_draws", "torch_rand")}  # fmt: skip
LOOKS = {  # engine: colour (of seaborn's colour-blind palette), marker, label
    "fused": ("#0173b2", "o", "fused"), "auto": ("#0173b2", "D", "toysup's own choice"),
    "general": ("#de8f05", "s", "general"), "occhio": ("#029e73", "^", "occhio"),
    "tms_kit": ("#cc78bc", "v", "tms-kit"), "loop": (plots.GREY, "x", "loop"),
}  # fmt: skip
TIMED = ["main", "there", "own", "other"]  # kinds that are raced against the loop
ROOM = 4e9  # bytes; a loop that keeps more alive (8 tensors of the batch's size) is not tried
EXACT = 1e-4  # relative difference of losses on equal draws that is rounding after 50 steps
NEAR = (0.98, 1.02)  # ratio of held-out losses on draws of their own


class Timed(NamedTuple):
    work: str
    kind: str  # main, there (taken for another processor), own, other, growth, core; gaps, losses: what is arrived at


def study(run: Run) -> Study:
    size = run.sizes(dict(works=WORKLOADS, ours=["fused", "general"], twice=["fused_twice"], aim=0.5, repetitions=7,
                          timed=race),
                     quick=dict(works={name: WORKLOADS[name] for name in ("w1", "w2", "w5")}, aim=0.1, repetitions=5),
                     smoke=dict(works={"w1": replace(WORKLOADS["w1"], batch=64)}, ours=["general"], twice=[],
                                timed=_race.race_here))  # fmt: skip
    modes = {"occhio": list(_engines.OCCHIO), "tms-kit": ["tms_kit"]}
    there = [name for name in modes if importlib.util.find_spec(name.replace("-", "_"))]
    public = [mode for name in there for mode in modes[name]] if run.mode != "smoke" else []

    def given() -> list[Given]:
        """All timings; then, because children are forks of a process that trained nothing, the losses."""
        if run.mode != "smoke":  # what children would each have to load
            load_compiler()
            uniforms(0, 0, 1, 1)
            for name in there:
                importlib.import_module(name.replace("-", "_"))
        twice = size.twice if len(os.sched_getaffinity(0)) > 1 else []
        names = ["loop", *size.ours, *twice, *public]
        found = [Given(Timed(name, "main"), size.timed(names, work, size.aim, size.repetitions), trained=work.instances)
                 for name, work in size.works.items()]  # fmt: skip
        if run.mode != "smoke":
            core = race(("flops", "xoshiro", "own_draws", "torch_rand"), None, 0.2, size.repetitions)
            found.append(Given(Timed("core", "core"), core.drop(columns="steps")))
        if run.mode in ("default", "full"):
            for name, work in {**MORE, **RESIDUAL}.items():
                rows = race(("loop", "fused" if name in MORE else "auto"), work, size.aim, 5)
                found.append(Given(Timed(name, "other"), rows, trained=work.instances))
            for name, work in OWN.items():
                found.append(
                    Given(Timed(name, "own"), race(("loop", "general"), work, 0.25, 5), trained=work.instances)
                )
            for target in TARGETS if instructions() == "avx512" else ():
                with elsewhere(target) as timed:
                    rows = timed(("flops", "xoshiro", "own_draws", "torch_rand"), None, 0.2, size.repetitions)
                    found.append(Given(Timed(f"{target}_core", "core"), rows.drop(columns="steps")))
                    for name, work in WORKLOADS.items():
                        rows = timed(("loop", "fused", "general", "eager"), work, size.aim, 5)
                        found.append(Given(Timed(f"{target}_{name}", "there"), rows, trained=work.instances))
                    for name, work in OWN.items():
                        rows = timed(("loop", "general"), work, 0.25, 5)
                        found.append(Given(Timed(f"{target}_{name}", "own"), rows, trained=work.instances))
            for work in dict.fromkeys(work for axis in GROWTH.values() for work in axis.values()):
                rows = race(["fused", *["loop"] * (work.loop_bytes < ROOM)], work, 0.2, 3)
                found.append(Given(Timed(str(work), "growth"), rows.drop(columns="steps")))
        raced = {one.cell.work for one in found}
        with one_thread():
            gaps = {
                (name, engine): difference(work, engine) for name, work in size.works.items() for engine in size.ours
            }
            gaps |= {(name, "auto"): difference(work, "auto") for name, work in RESIDUAL.items() if
                     name in raced and work.instances == 1}  # fmt: skip
            found += [Given(Timed(name, "gaps"), pd.DataFrame({"who": [engine], "gap": gap})) for (name, engine), gap in
                      gaps.items()]  # fmt: skip
            if "fused" in size.ours:  # occhio's other modes share their draws
                engines = ["fused", "loop", *(name for name in ("occhio", "tms_kit") if name in public)]
                found += [Given(Timed(name, "losses"), own_draws_losses(name)) for name in engines]
        return found

    on_core = lambda table: table["kind"].isin(["main", "there"]) & (run.mode != "smoke")  # noqa: E731
    all_of_it = run.mode in ("default", "full")
    return Study(
        given=given,
        findings={
            "packages": Finding(lambda: {name: version(name) if name in there else "not installed" for name in modes}),
            "instructions": Finding(instructions),
            "per_second": Finding(per_second, ("kind", "work"), where={"kind": [*TIMED, "growth"]}),
            "over": Finding(over, "work", "{work}_{column}", {"kind": TIMED}),
            "core": Finding(core_of, where={"kind": "core"}),
            "limit": Finding(limit, "work", where=on_core),
            "share": Finding(lambda rows, limit: {name: stats.mean(own / limit) for name, own in compared(rows).items()
                                                  if name in LOOKS}, "work", "{work}_{column}_share_of_limit", on_core),
            "draws": Finding(over, (), "{column}", {"work": "core"}),
            "draws_there": Finding(over, "work", "{work}_{column}", {"work": [f"{name}_core" for name in TARGETS]}),
            "relative_loss_difference": Finding(lambda rows: rows[["work", "who", "gap"]], where={"kind": "gaps"}),
            "losses": Finding(losses, (), "{column}_loss_over_fused", {"kind": "losses"}),
            "failed": Finding(lambda rows: rows.dropna(subset="refused")[["work", "who", "refused"]]),
        },
        claims=[
            Claim("faster_than_loop", "the fused engine is as many times faster than the loop as was aimed at",
                  lambda over: over.get("fused_over_loop", stats.UNDEFINED), lambda work: (WANTED[work], np.inf),
                  by="work", where={"work": list(WANTED), "kind": ["main", "there"]},
                  each=lambda work: f"faster_than_loop_{work}_{WANTED[work]}x"),
            *([Claim("own_models_over_loop", "the general engine is as many times faster than the loop as was aimed "
                     "at, on models that no kernel knows", lambda over: over.get("general_over_loop", stats.UNDEFINED),
                     lambda work: (GENERAL[work], np.inf), by="work", where={"kind": "own"},
                     each=lambda work: f"own_models_over_loop_{work}_{GENERAL[work]}x")] if all_of_it else []),
            Claim("ten_times_occhio", "the fused engine is over ten times faster than occhio, at w1, w2 and w5",
                  lambda over: over.get("fused_over_occhio", stats.UNDEFINED), (10, np.inf), by="work",
                  where={"work": ["w1", "w2", "w5"], "kind": "main"}),
            Check("same_loss", "all arrive at one loss: from one start, on equal draws, the loop's and our engines' "
                  "differ by less than 1e-4 after 50 steps; on own draws, after 300, all are within 2% of the fused",
                  same_loss),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def core_of(rows: pd.DataFrame) -> dict[str, float]:
    """Operations and draws a second, of this processor and as another."""
    return {f"{work.removesuffix('core')}{who}": max(rates) * _engines.SIZES[who]
            for work, own in rows.groupby("work", sort=False) for who, rates in rates_of(own).items()}  # fmt: skip


def limit(core: dict[str, float], work: str) -> float:
    """Instance-steps a second, at most."""
    target = next((f"{name}_" for name in TARGETS if work.startswith(name)), "")
    return 1 / EVERY[work].seconds_at_least(core[f"{target}flops"], core[f"{target}xoshiro"])


def per_second(rows: pd.DataFrame) -> dict[str, float | str]:
    """Each engine's median of instance-steps per second, or why it has none."""
    refused = rows.dropna(subset="refused").set_index("who")["refused"]
    return {**{who: float(np.median(rates)) for who, rates in rates_of(rows).items()}, **refused}


def over(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    """Ratios of rates, paired by repetition, of the engines that took part."""
    rates = compared(rows)
    return {name: stats.ratio(rates[one], rates[other], paired=True) for name, (one, other) in PAIRS.items() if
            {one, other} <= set(rates)}  # fmt: skip


def difference(work: Tied | Residual, engine: str, steps: int = 50) -> float:
    """Largest relative difference of the last loss, same start and same draws, over at most eight instances."""
    few = replace(work, instances=min(8, work.instances))
    stack = few.stack(steps)
    features, batch = stack.setting.features, stack.setting.batch
    data = lambda step: features.transform(uniforms(stack.data_seed, step, batch, features.n_uniforms))  # noqa: E731
    *_, losses = few.loop(steps, data=data, start=few.start())
    history = train(stack, device="cpu", engine=engine, compile=False).history[:, -1]  # 50 stretches: the last step's
    return float(((history - losses[:, -1]) / losses[:, -1]).abs().max())


def own_draws_losses(name: str) -> pd.DataFrame:
    """Each instance's loss on the same 16,384 samples after 300 steps, from the same start, on draws of its own."""
    work = Tied(5, 2, 100)
    try:
        W, b = _engines.ENGINES[name](work, _race.clocked([300], lambda _: None))
    except Exception as error:
        return pd.DataFrame({"who": [name], "refused": repr(error)[:200]})
    x = work.stack(1).setting.features.transform(uniforms(0, 0, 16_384, work.n, stream=Stream.HELD_OUT))
    loss = (x - torch.relu(x @ W @ W.mT + b[:, None])).square().sum(-1).mean(-1).double().numpy()
    return pd.DataFrame({"who": name, "loss": loss})


def losses(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    own = rows.dropna(subset="loss") if len(rows) else rows.assign(loss=0.0)  # a smoke run makes none
    found = {who: own.to_numpy() for who, own in own.groupby("who", sort=False)["loss"]}
    return {who: stats.ratio(own, found["fused"], paired=True) for who, own in found.items() if who != "fused"}


def same_loss(relative_loss_difference: pd.DataFrame, losses: dict) -> str:
    equal = relative_loss_difference["gap"].max() < EXACT
    return stats.every("supported" if equal else "rejected", *(stats.decide(one, NEAR) for one in losses.values()))


def answer(over: Mapping[str, Mapping[str, stats.Interval]]) -> str:
    best = next(
        engine for engine in LOOKS if all(f"{engine}_over_loop" in over[name] for name in WANTED if name in over)
    )
    values = [over[name][f"{best}_over_loop"].value for name in WANTED if name in over]
    return (f"On one core the {best} engine trains toy models {min(values):.3g} to {max(values):.3g} times as fast as "
            "the loop that everybody writes, to the same loss.")  # fmt: skip


def draw(over: dict, share: dict, per_second: dict, core: dict) -> plots.Figure:
    """Rates over the loop's, by workload; shares of the limit; the cost of an instance-step as a workload grows."""
    names = [name for name in over if name not in MORE or name == "w5b"]
    growth = {work: rates for (kind, work), rates in per_second.items() if kind == "growth"}
    heights = [1.8 + 0.2 * len(names), *[3.2] * bool(growth)]
    figure = plots.Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    left, *right = parts[0].subplots(1, 2, width_ratios=[3, 1]) if share else [parts[0].subplots()]
    pairs = {f"{engine}_over_loop".removeprefix("auto_"): label for engine, (*_, label) in LOOKS.items()}
    rows = {f"{name[:2] if name in RESIDUAL else name}: {EVERY[name]}": {
        pairs[pair]: one for pair, one in over[name].items() if pair in pairs} for name in names}  # fmt: skip
    left.set_xscale("log")
    plots.forest(left, rows, colours={label: colour for colour, _, label in LOOKS.values()},
                 markers={label: marker for _, marker, label in LOOKS.values()})  # fmt: skip
    aims = [WANTED.get(name, np.nan) for name in names]
    left.plot(aims, range(len(names)), "|", color=plots.GREY, markersize=13, label="aim")
    plots.level(left, 1, upright=True)
    left.set(xlabel="rate over the einsum loop's on one core (dotted: equal)")
    left.tick_params(axis="y", labelsize=9)
    for ax in right:
        for row, one in ((row, share[name]["fused"].value) for row, name in enumerate(names) if name in share):
            ax.barh(row, 100 * one, color=LOOKS["fused"][0])
            ax.text(100 * one + 2, row, f"{100 * one:.0f}%", va="center", fontsize=9)
        plots.level(ax, 100, upright=True)
        ax.set(xlabel="% of the limit", xlim=(0, 135), ylim=left.get_ylim(), yticks=[], title="fused engine")
    plots.legend(parts[0], size=9)
    for ax, (axis, works) in zip(parts[-1].subplots(1, 4) if growth else (), GROWTH.items(), strict=False):
        for engine in ("fused", "loop"):
            costs = {at: 1e6 / growth[str(work)][engine] for at, work in works.items() if
                     isinstance(growth[str(work)].get(engine), float)}  # fmt: skip
            ax.plot(list(costs), list(costs.values()), color=LOOKS[engine][0], marker=LOOKS[engine][1], label=engine)
            if engine == "fused":
                rise = costs[max(costs)] / costs[min(costs)]
                ax.set_title(f"{max(costs) / min(costs):,.0f} x {axis}:\ncost x {rise:.3g}", fontsize=10)
        limit = [1e6 * work.seconds_at_least(core["flops"], core["xoshiro"]) for work in works.values()]
        ax.plot(list(works), limit, color=plots.GREY, linestyle="--", label="limit")
        plots.ticks(ax, x=list(works), log="x", turn=45)
        ax.set(yscale="log", xlabel={"instances": "I"}.get(axis, axis))
        if axis == "instances":
            ax.set_ylabel("µs an instance-step")
            plots.legend(ax, size=9)
    return figure


if __name__ == "__main__":
    experiment(study)
