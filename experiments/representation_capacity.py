"""Does depth add room for features? Identity at fixed density through d neurons, read by 0 to 8 decoder blocks.

Issue 6, experiment 3, of Katta's question (2024): a code h = x W of d neurons is read by decoders of growing depth.
If features live in the neurons of the one layer that all must pass, capacity is F ~ d^1 L^0 ("width"); if parameters
hold them, d^2 L; if neurons anywhere do, d L. Compressed sensing says that one ReLU layer reads far less of a code than
is there, and that a decoder of many steps (approximate message passing, AMP) reads more: then depth adds, up to the
Bayes-AMP threshold and no further.

Decoders: `stream`, UntiedAutoencoder: residual blocks on a stream that is as narrow as the code (d dimensions, h = d).
`unrolled`, the positive control: learned ISTA with one matrix for all its steps, so that a step costs n + 1 parameters,
but its state has all n coordinates. Where it gains and the stream does not, the stream's width was the limit, not
depth. Depth counts blocks or steps after the first reading; a decoder without any still has one ReLU layer, so laws
in the depth are fitted to L_eff = depth + 1, the ReLU layers a feature passes on its way out.

Capacity: sup over offered n of F_eff = sum max(0, R^2), at loads of .7, 1.2 and 2 in units of 1/(p ln 1/p) features per
neuron. Each shape is trained at its own rate (best_rates, at load 1.2). References, per neuron: Bayes-AMP and
non-negative l1 thresholds (asymptotic), one-step decoding of a tight frame, 1 (PCA); and, at d = 16, Bayes-AMP reading
random codes and the trained codes.

Rules, over 8 seeds. `depth_adds_*`: at every d the capacity at depth 4 or 8 exceeds that at depth 0 by more than 5%.
`exponents_*`: a within 1 +- .1 and b within 0 +- .1 (width law). `reaches_bayes_amp`: some cell has 90% of the
threshold; `never_above_bayes_amp`: none exceeds it. `stream_limits`: at depth 8 unrolled holds more than 5% above
stream at every d both have. `deep_beats_wide`: at equal parameters (16 d^2 in the blocks) 8 blocks of d neurons hold
more than 5% above 1 block of 8 d. `sup_reached`: in every cell the largest offer adds less than 3% to the rest.
`training_sufficient`: twice the steps move F_eff by less than 3%, at depths 0 and 8. `training_does_not_decide`: nor
the gain of depth 8 over 0 by more than 5%. `learning_rates_bracketed`: each cell's best rate lies between worse ones.

Two cores: --quick about a minute, default about 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.decoders import bayes_amp, decoded_count
from toysup.features import SparseUniform
from toysup.measure import encoding_of, recovered
from toysup.models import UnrolledDecoder, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, elhage_ratio, l1_ratio, one_step_r2

QUESTION = "Does a deeper decoder hold more features in the same neurons, and does it reach Bayes-AMP?"
DENSITY, SPARSER, READ = 0.05, 0.02, 16
MORE = 1.05  # "more" means by 5% at least
DEPTHS = (0, 1, 2, 4, 8)
LAWS = {"neurons": (1, 1), "parameters": (2, 1), "width": (1, 0)}
LOADS = (0.7, 1.2, 2.0)


class Cell(NamedTuple):
    """One decoder: `hidden` neurons in each of `depth` blocks (stream), or `depth` steps (unrolled)."""

    decoder: str
    width: int
    depth: int
    density: float = DENSITY
    times: int = 1  # hidden = times x width

    def __str__(self) -> str:
        wide = f"_h{self.times}d" if self.times > 1 else ""
        return f"{self.decoder}_d{self.width}_L{self.depth}_p{self.density:g}{wide}"

    def offered(self, load: float) -> int:
        return round(load * self.width * float(elhage_ratio(self.density)))

    def model(self) -> Model:
        if self.decoder == "unrolled":
            return Model(UnrolledDecoder, width=self.width, depth=self.depth, shared=True)
        return Model(UntiedAutoencoder, width=self.width, depth=self.depth, hidden=self.times * self.width)


def cells_of(run: report.Run) -> list[Cell]:
    """At depth 0 the decoders are one and the same, trained once as `stream`."""
    stream = run.pick(default={8: DEPTHS, 16: DEPTHS, 32: (0, 2, 8)}, quick={8: (0, 2, 8), 16: (0, 2, 8)},
                      smoke={4: (0, 8), 6: (0, 8)})  # fmt: skip
    unrolled = run.pick(default={8: (2, 8), 16: (2, 8)}, quick={8: (8,)}, smoke={4: (8,)})
    sparser = run.pick(default={16: (0, 2, 8)}, quick={})
    blocks = run.pick(default=((16, 4, 2), (16, 2, 4), (16, 1, 8)), quick=((16, 1, 8),), smoke=((6, 1, 8),))
    found = [Cell("stream", d, depth) for d, depths in stream.items() for depth in depths]
    found += [Cell("unrolled", d, depth) for d, depths in unrolled.items() for depth in depths]
    found += [Cell("stream", d, depth, SPARSER) for d, depths in sparser.items() for depth in depths]
    return found + [Cell("stream", d, depth, times=times) for d, depth, times in blocks]


def setting_of(run: report.Run, cell: Cell, lr: float = 0.02) -> Setting:
    optimizer = Adam(lr, beta2=0.99, schedule=Cosine())
    features = SparseUniform(cell.offered(LOADS[1]), cell.density)
    steps = run.pick(default=2500, quick=800, smoke=5)
    return Setting(features, Identity(), cell.model(), optimizer, steps, run.pick(default=256, smoke=64))


def main(run: report.Run) -> None:
    cells, options = cells_of(run), {"results": run.results, "device": run.device, "workers": run.workers}
    searched = {str(cell): Grid(setting_of(run, cell), {"seed": SEARCH_SEEDS}) for cell in cells}
    rates = best_rates(searched, (0.005, 0.01, 0.02, 0.04), extend=run.pick(default=2, quick=0), **options)
    seeds, loads = range(run.pick(default=8, quick=4, smoke=2)), run.pick(default=LOADS, smoke=LOADS[:2])
    settings = {cell: setting_of(run, cell, float(rates.loc[str(cell), "lr"])) for cell in cells}
    grids = {
        f"capacity_{cell}": Grid(setting, {"features.n_features": [*map(cell.offered, loads)], "seed": seeds})
        for cell, setting in settings.items()
    }
    doubled = run.pick(default=[Cell("stream", 16, 0), Cell("stream", 16, 8), Cell("unrolled", 8, 8)],
                       quick=[Cell("stream", 16, 0), Cell("stream", 16, 8)],
                       smoke=[Cell("stream", 6, 0), Cell("stream", 6, 8)])  # fmt: skip
    for cell in doubled:
        grids[f"longer_{cell}"] = Grid(settings[cell], {"steps": [2 * settings[cell].steps], "seed": seeds})
    answers = sweep(grids, [recovered], **options)
    tables = {cell: answers[f"capacity_{cell}"].table for cell in cells}
    held = {cell: stats.capacity(table, load="n_features") for cell, table in tables.items()}
    for width in {c.width for c in cells if c.decoder == "unrolled"}:
        held[Cell("unrolled", width, 0)] = held[Cell("stream", width, 0)]

    statistics, verdict, shares = {}, {}, {}
    controls: dict = {"cross_validated_offer": {}, "last_offer_adds": {}, "learning_rates": rates.to_dict("index")}
    for cell, capacity in held.items():
        statistics[f"per_neuron_{cell}"] = stats.mean(capacity["recovered"] / cell.width)
        shares[cell] = stats.mean(capacity["recovered"] / cell.width / float(bayes_amp_ratio(cell.density)))
        controls["cross_validated_offer"][str(cell)] = stats.mean(capacity["held_out"] / cell.width)
    statistics |= {f"share_of_bayes_amp_{cell}": share for cell, share in shares.items()}
    verdict["reaches_bayes_amp"] = stats.some(*(stats.decide(share, (0.9, np.inf)) for share in shares.values()))
    verdict["never_above_bayes_amp"] = stats.every(*(stats.decide(share, (-np.inf, 1)) for share in shares.values()))
    reached = []
    for cell, table in tables.items():
        counts = table.pivot(index="seed", columns="n_features", values="recovered")
        before = counts[counts.columns[:-1]]
        adds = stats.ratio(counts.iloc[:, -1], before[before.mean().idxmax()], paired=True)
        controls["last_offer_adds"][str(cell)] = adds
        reached.append(stats.decide(adds, (0, 1.03)))

    fits = {}
    for decoder in ("stream", "unrolled"):
        own = [c for c in held if (c.decoder, c.density, c.times) == (decoder, DENSITY, 1)]
        gains = {c: over(held, c, Cell("stream", c.width, 0)) for c in own if c.depth}
        statistics |= {f"over_depth_0_{cell}": gain for cell, gain in gains.items()}
        adds = {d: [stats.decide(gain, (MORE, np.inf)) for c, gain in gains.items() if c.width == d and c.depth >= 4]
                for d in {c.width for c in own}}  # fmt: skip
        verdict[f"depth_adds_{decoder}"] = stats.every(*(stats.some(*found) for found in adds.values()))
        if len(adds) > 1:
            rows = [held[c].reset_index().assign(width=c.width, depth=c.depth + 1) for c in own]
            table = pd.concat(rows)
            fit = stats.fit_exponents(table.assign(budget=table["depth"] * table["width"] ** 2 + 1))
            fits[decoder] = {"a": fit.a, "b": fit.b, "a-2b": fit.a_minus_2b}
            statistics |= {f"{decoder}_{name}": interval for name, interval in fits[decoder].items()}
            verdict[f"exponents_{decoder}"] = stats.every(
                stats.decide(fits[decoder]["a"], (0.9, 1.1)), stats.decide(fits[decoder]["b"], 0.1)
            )
    for cell in [cell for cell in cells if cell.depth == 8 and cell.times == 1]:
        statistics[f"b_{cell.decoder}_d{cell.width}_p{cell.density:g}"] = slope_of(held, cell)
    rivals = {c: Cell("stream", c.width, c.depth) for c in cells if c.decoder == "unrolled"}
    better = {c: over(held, c, rival) for c, rival in rivals.items() if rival in held}
    statistics |= {f"over_stream_{cell}": ratio for cell, ratio in better.items()}
    limits = [stats.decide(ratio, (MORE, np.inf)) for cell, ratio in better.items() if cell.depth == 8]
    verdict["stream_limits"] = stats.every(*limits)
    wide = next(cell for cell in cells if cell.times == 8)
    statistics["deep_over_wide"] = over(held, Cell("stream", wide.width, 8), wide)
    verdict["deep_beats_wide"] = stats.decide(statistics["deep_over_wide"], (MORE, np.inf))
    verdict["sup_reached"] = stats.every(*reached)
    longer_into(controls, verdict, answers, doubled)
    verdict["learning_rates_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"

    readings = readings_of(run, answers, cells)
    statistics |= {f"read_by_{name}": interval for name, interval in readings.items()}
    engine = ", ".join(sorted({engine for answer in answers.values() for engine in answer.table["engine"]}))
    report.write(run, draw(tables, held, fits, readings, shares, wide), statistics=statistics, verdict=verdict,
                 controls=controls, engine=engine, instances=sum(len(answer.table) for answer in answers.values()),
                 steps=2 * max(setting.steps for setting in settings.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def over(held: dict, cell: Cell, other: Cell) -> stats.Interval:
    """Capacity over another cell's, paired by seed."""
    return stats.ratio(held[cell]["recovered"], held[other]["recovered"], paired=True)


def slope_of(held: dict, cell: Cell) -> stats.Interval:
    """b at one width and density: the slope of ln capacity in ln L_eff, one for each seed."""
    same = [c for c in held if (c.decoder, c.width, c.density, c.times) == (cell.decoder, cell.width, cell.density, 1)]
    logs = np.log(np.stack([held[c]["recovered"] for c in same]))  # depth seed
    return stats.mean(np.polyfit(np.log([c.depth + 1 for c in same]), logs, 1)[0])


def longer_into(controls: dict, verdict: dict, answers: dict[str, Results], cells: list[Cell]) -> None:
    """What twice the steps move, in F_eff at load 1.2 and in the gain of the deepest stream over depth 0."""
    short, long = {}, {}
    for cell in cells:
        long[cell] = answers[f"longer_{cell}"].table.set_index("seed")["recovered"]
        rows = answers[f"capacity_{cell}"].table
        short[cell] = rows[rows["n_features"] == cell.offered(LOADS[1])].set_index("seed")["recovered"]
    moved = {str(cell): stats.ratio(long[cell], short[cell], paired=True) for cell in cells}
    flat, deep = cells[:2]
    drift = stats.ratio(long[deep] * short[flat], short[deep] * long[flat], paired=True)
    controls["twice_the_steps"] = moved | {"gain_of_depth": drift}
    verdict["training_sufficient"] = stats.every(*(stats.decide(one, (1 / 1.03, 1.03)) for one in moved.values()))
    verdict["training_does_not_decide"] = stats.decide(drift, (1 / 1.05, 1.05))


def readings_of(run: report.Run, answers: dict[str, Results], cells: list[Cell]) -> dict[str, stats.Interval]:
    """Features per neuron that Bayes-AMP reads, sup over offered n, from random codes and from trained ones."""
    width = run.pick(default=READ, smoke=6)
    found: dict[str, list[pd.DataFrame]] = {}
    for cell in cells:
        if (cell.width, cell.density, cell.times) != (width, DENSITY, 1) or cell.depth not in (0, 8):
            continue
        answer = answers[f"capacity_{cell}"]
        for trained in answer:
            code = encoding_of(trained)
            codes = {f"amp_{cell}": code} | ({"amp_random_code": code.random()} if cell.depth == 0 else {})
            for name, encoding in codes.items():
                count = decoded_count(encoding, bayes_amp, samples=run.pick(default=512, smoke=16)).value
                rows = {"seed": trained.stack.data_seed, "load": trained.setting.features.n_features,
                        "recovered": count.numpy() / width}  # fmt: skip
                found.setdefault(name, []).append(pd.DataFrame(rows))
    return {name: stats.mean(stats.capacity(pd.concat(rows))["recovered"]) for name, rows in found.items()}


def draw(tables: dict, held: dict, fits: dict, readings: dict, shares: dict, wide: Cell) -> plots.Figure:
    """Capacity against depth; who reads how much of the code; exponents; offers; equal parameters; sparser data."""
    figure, axes = plots.figure(2, 3, width=13, height=4.2)
    (depth_ax, read_ax, plane_ax), (offer_ax, equal_ax, sparse_ax) = axes
    widths = sorted({c.width for c in tables})
    colours = plots.category_colours(widths)
    d, ceiling = wide.width, float(bayes_amp_ratio(DENSITY))

    def curve(ax: plots.Axes, cells: list[Cell], values: list[stats.Interval], **style) -> None:
        x, y = [c.depth + 1 for c in cells], np.array([(i.value, i.low, i.high) for i in values])
        ax.plot(x, y[:, 0], marker="o", markersize=5, **style)
        if np.isfinite(y).all():
            ax.fill_between(x, y[:, 1], y[:, 2], color=style["color"], alpha=0.2, linewidth=0)

    def ordered(decoder: str, width: int, density: float = DENSITY) -> list[Cell]:
        same = [c for c in held if (c.decoder, c.width, c.density, c.times) == (decoder, width, density, 1)]
        return sorted(same, key=lambda c: c.depth)

    for width in widths:
        for decoder, line in (("stream", "-"), ("unrolled", "--")):
            if len(cells := ordered(decoder, width)) > 1:
                values = [stats.mean(held[c]["recovered"] / width) for c in cells]
                curve(depth_ax, cells, values, color=colours[width], linestyle=line, label=f"{decoder}, d = {width}")
    one_step = max(n / d * one_step_r2(n, d, DENSITY, frame="tight").r2 for n in (2 * d, 3 * d, 5 * d, 7 * d))
    for level, label in ((ceiling, "Bayes-AMP threshold"), (float(l1_ratio(DENSITY)), "l1, non-negative"),
                         (one_step, f"one-step decoding, d = {d}")):  # fmt: skip
        plots.reference(depth_ax, [1, 9], level, label)
    plots.null(depth_ax, [1, 9], 1.0, "linear (PCA)")
    depth_ax.set(ylabel="capacity, features per neuron", ylim=(0, 1.1 * ceiling))
    depth_ax.set_title(f"Capacity against depth (p = {DENSITY:g})")
    depth_ax.legend(fontsize=9, loc="center", bbox_to_anchor=(0.5, 0.78), ncols=2)

    bars = {"1 ReLU layer": Cell("stream", d, 0), "8 blocks, stream": Cell("stream", d, 8),
            "2 steps, unrolled": Cell("unrolled", d, 2), "8 steps, unrolled": Cell("unrolled", d, 8)}  # fmt: skip
    read = {label: shares[cell] for label, cell in bars.items() if cell in shares}
    names = {"amp_random_code": "AMP, random code", f"amp_{Cell('stream', d, 0)}": "AMP, code of 1 layer",
             f"amp_{Cell('stream', d, 8)}": "AMP, code of 8 blocks",
             f"amp_{Cell('unrolled', d, 8)}": "AMP, code of 8 steps"}  # fmt: skip
    read |= {label: stats.Interval(*(x / ceiling for x in readings[name].asdict().values()))
             for name, label in names.items() if name in readings}  # fmt: skip
    for row, (label, share) in enumerate(read.items()):
        own = not label.startswith("AMP")
        reach = [[max(share.value - share.low, 0)], [max(share.high - share.value, 0)]]
        read_ax.barh(-row, share.value, color=colours[d] if own else "0.6",
                     xerr=reach if np.isfinite(reach).all() else None, error_kw={"elinewidth": 1})  # fmt: skip
    read_ax.set_yticks([-row for row in range(len(read))], read, fontsize=10)
    read_ax.axvline(1, color=plots.GREY, linestyle="--")
    read_ax.axvline(1 / ceiling, color=plots.GREY, linestyle=":")
    read_ax.set(xlabel="capacity / Bayes-AMP threshold (dotted: PCA)", xlim=(0, 1.05))
    more = readings[f"amp_{Cell('stream', d, 0)}"].value / (held[Cell("stream", d, 0)]["recovered"].mean() / d)
    read_ax.set_title(f"From one layer's code AMP reads {more:.1f} x as much")

    for (decoder, fit), marker in zip(fits.items(), "os", strict=False):
        a, b = fit["a"], fit["b"]
        ends = np.array([[i.value - i.low, i.high - i.value] for i in (a, b)])
        error = {"xerr": ends[:1].T, "yerr": ends[1:].T} if np.isfinite(ends).all() else {}
        colour = plots.category_colours(["stream", "unrolled"])[decoder]
        plane_ax.errorbar(a.value, b.value, **error, fmt=marker, color=colour, capsize=3, label=decoder)
    for name, (a, b) in LAWS.items():
        plane_ax.plot(a, b, "+", color="black", markersize=11)
        plane_ax.annotate(name, (a, b), (6, 5), textcoords="offset points", fontsize=10, color=plots.GREY)
    plane_ax.set(xlabel="a, exponent of width", ylabel="b, exponent of depth + 1", xlim=(0.5, 2.5), ylim=(-0.3, 1.3))
    plane_ax.set_title("Exponents, and what each law predicts")
    if fits:
        plane_ax.legend(fontsize=10, loc="center right")

    shades = plots.category_colours(DEPTHS)
    for cell, table in tables.items():
        if (cell.width, cell.density, cell.times) == (d, DENSITY, 1):
            shown = table.assign(ratio=table["n_features"] / d, per=table["recovered"] / d)
            mean = shown.groupby("ratio")["per"].mean()
            offer_ax.plot(mean.index, mean, color=shades[cell.depth], marker="o", markersize=5,
                          linestyle="-" if cell.decoder == "stream" else "--",
                          label=f"{cell.decoder}, depth {cell.depth}")  # fmt: skip
    offer_ax.set(xlabel="features offered per neuron, n / d", ylabel="features recovered per neuron", ylim=(0, None))
    offer_ax.set_title(f"The supremum over n (d = {d})")
    offer_ax.legend(fontsize=9, ncols=2, loc="lower right")

    same = sorted((c for c in held if c.decoder == "stream" and (c.width, c.density) == (d, DENSITY)
                   and c.depth * c.times == 8), key=lambda c: c.depth)  # fmt: skip
    found = [stats.mean(held[c]["recovered"] / d) for c in same]
    plots.bars(equal_ax, [f"{c.depth} x {c.times * d}" for c in same], {"capacity": found}, {"capacity": colours[d]})
    plots.null(equal_ax, [-0.5, len(same) + 0.2], held[Cell("stream", d, 0)]["recovered"].mean() / d, "no block")
    equal_ax.set(xlabel="blocks x neurons in each", ylabel="capacity, features per neuron")
    equal_ax.set_title(f"Equal parameters in the blocks (d = {d})")

    densities = [p for p in (DENSITY, SPARSER) if len(ordered("stream", d, p)) > 1]
    for p, colour in plots.category_colours(densities).items():
        cells = ordered("stream", d, p)
        curve(sparse_ax, cells, [shares[c] for c in cells], color=colour, label=f"stream, p = {p:g}")
    plots.reference(sparse_ax, [1, 9], 1.0, "Bayes-AMP threshold")
    sparse_ax.set(ylabel="capacity / Bayes-AMP threshold", ylim=(0, 1.1), title=f"Sparser data (d = {d})")
    sparse_ax.legend(fontsize=10, loc="center right")
    for ax in (depth_ax, sparse_ax):
        ax.set(xscale="log", xlabel="depth of the decoder (blocks or steps)", xlim=(0.93, 9.7))
        ax.set_xticks([depth + 1 for depth in DEPTHS], DEPTHS)
        ax.minorticks_off()
    figure.suptitle(headline(held, shares, d))
    return figure


def headline(held: dict, shares: dict, d: int) -> str:
    """What a reader should take away, from the numbers."""
    said = []
    for decoder, what in (("stream", "residual blocks"), ("unrolled", "unrolled steps")):
        if (deep := Cell(decoder, d, 8)) in held:
            said.append(f"8 {what} {over(held, deep, Cell('stream', d, 0)).value - 1:+.0%}")
    top = max(share.value for cell, share in shares.items() if cell.density == DENSITY)
    return f"Capacity at d = {d}: {', '.join(said)} over none; at most {top:.0%} of the Bayes-AMP threshold"


if __name__ == "__main__":
    report.experiment(main)
