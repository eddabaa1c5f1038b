"""Does depth add room for features? Identity at fixed density through d neurons, read by 0 to 8 decoder blocks.

Of Katta's question (2024): a code h = x W of d neurons is read by decoders of growing depth. If features live in the
neurons of the one layer that all must pass, capacity is F ~ d^1 L^0 ("width"); if parameters hold them, d^2 L; if
neurons anywhere do, d L. Compressed sensing says that one ReLU layer reads far less of a code than is there, and that
many steps (approximate message passing, AMP) read more: then depth adds, up to the Bayes-AMP threshold and no further.
Decoders: `stream`, residual blocks on a stream as narrow as the code; `unrolled`, the positive control, learned ISTA
with one matrix for all steps (n + 1 parameters each) whose state has all n coordinates: where it gains and the stream
does not, the stream's width was the limit, not depth. A decoder without any block still has one ReLU layer, so laws are
fitted to L = depth + 1. Loads are in units of 1/(p ln 1/p) features per neuron. Thresholds are asymptotic. Two cores:
--quick a minute, default 5.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.decoders import bayes_amp, decoded_count
from toysup.features import SparseUniform
from toysup.measure import encoding_of, recovered
from toysup.models import UnrolledDecoder, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting, set_paths
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment, moves
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, elhage_ratio, l1_ratio, one_step_r2

QUESTION = "Does a deeper decoder hold more features in the same neurons, and does it reach Bayes-AMP?"
DENSITY, SPARSER = 0.05, 0.02
DEPTHS, LOADS = (0, 1, 2, 4, 8), (0.7, 1.2, 2.0)
MORE = (1.05, np.inf)  # "more" means by 5% at least
WHAT = {"stream": "residual blocks", "unrolled": "unrolled steps"}
LAWS = {"neurons": (1, 1), "parameters": (2, 1), "width": (1, 0)}
PLAIN = {"density": [DENSITY], "times": [1]}  # the cells that differ in decoder, width and depth alone
over = partial(stats.ratio, paired=True)


class Cell(NamedTuple):
    """A decoder of `depth` blocks (stream), of `times` x `width` neurons each, or of `depth` steps (unrolled); `line`
    names those that differ in depth alone."""

    decoder: str
    width: int
    depth: int = 0
    density: float = DENSITY
    times: int = 1

    line = property(lambda own: f"{own.decoder}_d{own.width}_p{own.density:g}" + f"_h{own.times}d" * (own.times > 1))
    key = property(lambda cell: cell.line.replace("_p", f"_L{cell.depth}_p"))

    def offered(self, load: float) -> int:
        return round(load * self.width * float(elhage_ratio(self.density)))


def study(run: Run) -> Study:
    size = run.sizes(dict(stream={8: DEPTHS, 16: DEPTHS, 32: (0, 2, 8)}, unrolled={8: (2, 8), 16: (2, 8)}, loads=LOADS,
                          sparser={16: (0, 2, 8)}, blocks=((16, 4, 2), (16, 2, 4), (16, 1, 8)), seeds=8, extend=2,
                          doubled=(("stream", 16), ("unrolled", 8)), steps=2500, batch=256, samples=512),
                     quick=dict(stream={8: (0, 2, 8), 16: (0, 2, 8)}, unrolled={8: (8,)}, sparser={}, seeds=3, extend=0,
                                blocks=((16, 1, 8),), doubled=(("stream", 16),), steps=350, batch=128, samples=128),
                     smoke=dict(stream={4: (0, 8), 6: (0, 8)}, unrolled={4: (8,)}, loads=LOADS[:2], seeds=2, steps=5,
                                blocks=((6, 1, 8),), doubled=(("stream", 6),), batch=64, samples=16))  # fmt: skip
    asked = (("stream", size.stream, DENSITY), ("unrolled", size.unrolled, DENSITY), ("stream", size.sparser, SPARSER))
    cells = [Cell(name, d, depth, p) for name, depths, p in asked for d in depths for depth in depths[d]]
    cells += [Cell("stream", d, depth, times=times) for d, depth, times in size.blocks]
    d = size.blocks[0][0]  # the width at which most is shown

    def setting(cell: Cell) -> Setting:
        """At the second load, as it is searched."""
        model = Model(UntiedAutoencoder, width=cell.width, depth=cell.depth, hidden=cell.times * cell.width)
        if cell.decoder == "unrolled":
            model = Model(UnrolledDecoder, width=cell.width, depth=cell.depth, shared=True)
        features = SparseUniform(cell.offered(LOADS[1]), cell.density)
        return Setting(features, Identity(), model, Adam(beta2=0.99, schedule=Cosine()), size.steps, size.batch)

    def longer(grid: Grid) -> Grid:
        """Twice the steps, at the second load."""
        axes = {"features.n_features": [grid.setting.features.n_features], "seed": grid.axes["seed"]}
        return Grid(set_paths(grid.setting, {"steps": 2 * size.steps}), axes)

    def shared(table: pd.DataFrame) -> pd.DataFrame:
        """At depth 0 both decoders are one: trained as `stream`, it is the unrolled ones' too."""
        table = table.assign(load=table["n_features"])
        same = table[(table["decoder"] == "stream") & (table["depth"] == 0) & (table["variant"] == "")]
        same = same[(same["density"] == DENSITY) & same["width"].isin(list(size.unrolled))].assign(decoder="unrolled")
        names = {name: same[name].str.replace("stream", "unrolled") for name in ("line", "key", "cell")}
        return pd.concat([table, same.assign(**names)], ignore_index=True)

    def read(rows: pd.DataFrame, networks, key: str, depth: int) -> dict[str, stats.Interval]:
        """Features per neuron that Bayes-AMP reads, sup over offered n, from trained codes and from random ones."""
        found: dict[str, list[pd.DataFrame]] = {}
        for _, own in rows.groupby("load"):
            code = encoding_of(networks(own))
            for name, one in {f"amp_{key}": code, **({} if depth else {"amp_random_code": code.random()})}.items():
                count = decoded_count(one, bayes_amp, samples=size.samples).value.numpy()
                found.setdefault(name, []).append(own[["seed", "load"]].assign(recovered=count / d))
        return {name: stats.mean(stats.capacity(pd.concat(tables))["recovered"]) for name, tables in found.items()}

    of_counts = ["sup_reached", "training_sufficient", "learning_rates_bracketed"]
    of_gain = ["sup_reached", "training_does_not_decide", "learning_rates_bracketed"]  # of the stream, tested as such
    wide = Cell("stream", d, times=8).line
    several = [name for name in ("stream", "unrolled") if len(getattr(size, name)) > 1]
    return Study(
        cells, lambda cell: Grid(setting(cell), {"features.n_features": [*map(cell.offered, size.loads)]}),
        measures=[recovered], seeds=size.seeds, derive=shared,
        search=Search(setting, (0.005, 0.01, 0.02, 0.04), extend=size.extend),
        variants={"twice the steps": Variant(longer, lambda c: c.depth in (0, 8) and c.line in
                                             [Cell(*own).line for own in size.doubled])},
        findings={
            "held": Finding(lambda rows: stats.capacities(rows, "depth"), "line", kept=False),
            "cells": Finding(one_cell, ("key", "width", "density"), "{column}_{key}"),
            "held_out_offer": Finding(lambda rows, width: stats.mean(stats.capacity(rows)["held_out"] / width),
                                      ("key", "width")),
            "gain": Finding(lambda held: {depth: over(held[depth], held[0]) for depth in held if depth},
                            ("line", "decoder", "width"), "over_depth_0_{decoder}_d{width}_L{column}_p0.05", PLAIN),
            "law": Finding(law, "decoder", "{decoder}_{column}", {**PLAIN, "decoder": several}),
            "b": Finding(lambda held: stats.exponent(held, held.columns + 1), "line", "b_{line}",
                         lambda rows: (rows["times"] == 1) & rows["line"].isin(rows["line"][rows["depth"] == 8])),
            "over_stream": Finding(lambda held, width, depth: over(held[Cell("unrolled", width).line][depth],
                                                                   held[Cell("stream", width).line][depth]),
                                   ("key", "width", "depth"), "over_stream_{key}",
                                   lambda rows: (rows["decoder"] == "unrolled") & (rows["depth"] > 0)),
            "deep_over_wide": Finding(lambda held: over(held[Cell("stream", d).line][8], held[wide][1]), (),
                                      "deep_over_wide"),
            "read": Finding(read, ("key", "depth"), "read_by_{column}", {**PLAIN, "width": [d], "key": [
                cell.key for cell in cells if cell.depth in (0, 8)]}),
        },
        claims=[
            Claim("reaches_bayes_amp", "some decoder holds 90% of the Bayes-AMP threshold", "cells.share_of_bayes_amp",
                  (0.9, np.inf), combine=stats.some, checks=of_counts),
            Claim("never_above_bayes_amp", "none exceeds the threshold", "cells.share_of_bayes_amp", (-np.inf, 1),
                  checks=of_counts),
            *(Claim(f"depth_adds_{decoder}", f"at every width 4 or 8 {what} hold over 5% more than none",
                    lambda gain: stats.some(*(stats.decide(gain[depth], MORE) for depth in gain if depth >= 4)),
                    by=("line", "decoder", "width"), where={**PLAIN, "decoder": [decoder]},
                    checks=of_gain if decoder == "stream" else of_counts)
              for decoder, what in WHAT.items()),
            *(Claim(f"exponents_{decoder}", "capacity goes as the width, whatever the depth",
                    lambda law: stats.every(stats.decide(law["a"], (0.9, 1.1)), stats.decide(law["b"], 0.1)),
                    by="decoder", where={**PLAIN, "decoder": [decoder]}, checks=of_counts) for decoder in several),
            Claim("stream_limits", "8 unrolled steps hold over 5% more than 8 residual blocks", "over_stream", MORE,
                  where={"depth": [8]}, checks=of_counts),
            Claim("deep_beats_wide", "8 blocks of d neurons hold over 5% more than 1 of 8 d", "deep_over_wide", MORE,
                  checks=of_counts),
            Check("sup_reached", "the largest offer adds less than 3% to the rest", last_offer, (0, 1.03), by="key"),
            moves("twice the steps", lambda long, usual: over(*(own.set_index("seed")["recovered"] for own in (
                long, usual[usual["load"].isin(long["load"])]))), (1 / 1.03, 1.03), by="key",
                name="training_sufficient", says="twice the steps move no count by 3%"),
            Check("training_does_not_decide", "twice the steps move the gain of depth 8 over 0 by less than 5%", drift,
                  (1 / 1.05, 1.05), variant=None, where={"line": [Cell(*size.doubled[0]).line]}),
            bracketed("learning_rates_bracketed"),
        ],
        draw=draw, answer=answer)  # fmt: skip


def one_cell(rows: pd.DataFrame, width: int, density: float) -> dict[str, stats.Interval]:
    each = stats.capacity(rows)["recovered"] / width
    return {"per_neuron": stats.mean(each), "share_of_bayes_amp": stats.mean(each / float(bayes_amp_ratio(density)))}


def law(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    """Only a and b are asked for, not which named law it is, so that any budget does."""
    groups = rows.groupby(["width", "depth"])
    table = pd.concat(stats.capacity(own).assign(width=width, depth=depth + 1) for (width, depth), own in groups)
    fit = stats.fit_exponents(table.assign(budget=table["depth"] * table["width"] ** 2 + 1))
    return {"a": fit.a, "b": fit.b, "a-2b": fit.a_minus_2b}


def last_offer(rows: pd.DataFrame) -> stats.Interval:
    """What is recovered of the largest offer, over the best of the others."""
    counts = rows.pivot(index="seed", columns="n_features", values="recovered")
    before = counts[counts.columns[:-1]]
    return over(counts.iloc[:, -1], before[before.mean().idxmax()])


def drift(rows: pd.DataFrame) -> stats.Interval:
    """By how much twice the steps change the gain of depth 8 over 0."""
    same = rows[rows["n_features"].isin(rows["n_features"][rows["variant"] != ""])]
    short, long = (own.pivot(index="seed", columns="depth", values="recovered") for _, own in same.groupby("variant"))
    return over(long[8] * short[0], short[8] * long[0])


def answer(gain: dict, cells: dict) -> str:
    said = []
    for decoder, what in WHAT.items():
        width, found = max((width, found[8].value) for (_, own, width), found in gain.items() if own == decoder)
        times = f"{found:.2f} times as many" if np.isfinite(found) else "an unknown number of"
        said.append(f"8 {what} read {times} features from {width} neurons as one layer does")
    top = max(found["share_of_bayes_amp"].value for (_, _, density), found in cells.items() if density == DENSITY)
    return f"{'; '.join(said)}; none reads over {top:.0%} of what is possible (Bayes-AMP)."


def draw(rows: pd.DataFrame, held: dict, cells: dict, law: dict, read: dict) -> plots.Figure:
    """Capacity against depth; who reads how much of the code; exponents; offers; equal parameters; sparser data."""
    figure, ((depths, bars, plane), (offers, equal, sparser)) = plots.figure(2, 3, width=13, height=4.2)
    colours, ceiling = plots.category_colours(sorted(rows["width"].unique())), float(bayes_amp_ratio(DENSITY))
    d = int(rows.loc[rows["times"] > 1, "width"].iloc[0])
    each = {key: found["per_neuron"] for (key, *_), found in cells.items()}
    plain = rows[(rows["density"] == DENSITY) & (rows["times"] == 1)]
    for (name, decoder, width), _ in plain.groupby(["line", "decoder", "width"]):
        plots.curve(depths, {depth + 1: each[Cell(decoder, width, depth).key] for depth in held[name]},
                    linestyle="--" if decoder == "unrolled" else "-", color=colours[width],
                    label=f"{decoder}, d = {width}")  # fmt: skip
    one_step = max(n / d * one_step_r2(n, d, DENSITY, frame="tight").r2 for n in (2 * d, 3 * d, 5 * d, 7 * d))
    plots.reference(depths, [1, 9], ceiling, "Bayes-AMP threshold")
    plots.reference(depths, [1, 9], float(l1_ratio(DENSITY)), "l1, non-negative")
    plots.reference(depths, [1, 9], one_step, f"one-step decoding, d = {d}")
    plots.null(depths, [1, 9], 1.0, "linear (PCA)")
    depths.set(ylabel="capacity, features per neuron", ylim=(0, 1.1 * ceiling), title="Capacity against depth")
    depths.legend(fontsize=9, loc="center", bbox_to_anchor=(0.5, 0.78), ncols=2)
    shown = {"1 ReLU layer": Cell("stream", d, 0), "8 blocks, stream": Cell("stream", d, 8),
             "2 steps, unrolled": Cell("unrolled", d, 2), "8 steps, unrolled": Cell("unrolled", d, 8)}  # fmt: skip
    amp = {name: one for found in read.values() for name, one in found.items()}
    readers = {label: each[cell.key] for label, cell in shown.items() if cell.key in each}
    readers |= {"AMP, random code": amp["amp_random_code"]} | {
                f"AMP, code of {label.split(',')[0]}": amp[f"amp_{cell.key}"] for label, cell in shown.items()
                if f"amp_{cell.key}" in amp}  # fmt: skip
    plots.forest(bars, readers, bars=True, levels={"PCA": 1, "threshold": ceiling},
                 colours={label: "0.6" if label.startswith("AMP") else colours[d] for label in readers})  # fmt: skip
    bars.set(xlabel=f"features read per neuron (d = {d})", title="Who reads how much of the code")
    for decoder, found in law.items():
        plots.interval(plane, found["a"], found["b"], label=decoder)
    for name, place in LAWS.items():
        plane.plot(*place, "+", color="black", markersize=11)
        plane.annotate(name, place, (6, 5), textcoords="offset points", fontsize=10, color=plots.GREY)
    plane.set(xlabel="a, exponent of width", ylabel="b, exponent of depth + 1", xlim=(0.5, 2.5), ylim=(-0.3, 1.3),
              title="Exponents, and what each law predicts")  # fmt: skip
    plots.legend(plane, loc="center right")
    own = plain[plain["width"] == d].assign(held=plain["recovered"] / d, offered=plain["n_features"] / d)
    plots.band(offers, own, "offered", "held", "depth", line="decoder", level=None, marker="o")
    offers.set(xlabel="features offered per neuron, n / d", ylabel="features recovered per neuron", ylim=(0, None),
               title=f"The supremum over n (d = {d})")  # fmt: skip
    plots.legend(offers, title="depth", ncols=2, loc="lower right", size=9)
    blocks = [cell for depth in DEPTHS[1:] if (cell := Cell("stream", d, depth, times=8 // depth)).key in each]
    plots.bars(equal, [f"{cell.depth} x {cell.times * d}" for cell in blocks],
               {"capacity": [each[cell.key] for cell in blocks]}, {"capacity": colours[d]})  # fmt: skip
    plots.null(equal, [-0.5, len(blocks) + 0.2], each[Cell("stream", d, 0).key].value, "no block")
    equal.set(xlabel="blocks x neurons in each", ylabel="capacity, features per neuron",
              title=f"Equal parameters in the blocks (d = {d})")  # fmt: skip
    for density in (p for p in (DENSITY, SPARSER) if Cell("stream", d, density=p).line in held):
        found = {depth + 1: cells[Cell("stream", d, depth, density).key, d, density]["share_of_bayes_amp"]
                 for depth in held[Cell("stream", d, density=density).line]}  # fmt: skip
        plots.curve(sparser, found, label=f"stream, p = {density:g}")
    plots.reference(sparser, [1, 9], 1.0, "Bayes-AMP threshold")
    sparser.set(ylabel="capacity / Bayes-AMP threshold", ylim=(0, 1.1), title=f"Sparser data (d = {d})")
    plots.legend(sparser, loc="center right")
    for ax in (depths, sparser):
        ax.set(xlabel="depth of the decoder (blocks or steps)", xlim=(0.93, 9.7))
        plots.ticks(ax, x={depth + 1: depth for depth in DEPTHS}, log="x")
    return figure


if __name__ == "__main__":
    experiment(study)
