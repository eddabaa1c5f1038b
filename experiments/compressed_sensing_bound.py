"""How many features fit in m neurons at each density, and which reference do trained networks obey?

The premise of Katta's note (2024) is that m neurons hold n features only while m = Omega(-n (1-S) log(1-S)), the
compressed-sensing bound in the form of Elhage et al. 2022: n/m = C / (p ln 1/p), p = 1 - S. Tied and untied ReLU
autoencoders are trained at densities .2 to .002 and m from 8 to 128, and n/m is swept until what they recover stops
growing. Capacity per neuron is kappa(p) = sup_n F_eff / m, F_eff = sum max(0, R^2) on held-out data.

References (toysup.theory): n/m = 1/(p ln 1/p) and 1/p; non-negative l1 and Bayes-optimal message passing (exact
recovery from random codes, decoders of any depth); one-step decoding sampled at the same n, m and p on tight frames,
which is what one ReLU layer can do without having been trained; PCA, 1. A network obeys a reference up to a constant if
its kappa over the reference is the same at all densities: supported if the 95% interval of the largest over the
smallest such ratio (at one m, over seeds) lies below 1.21 (each within 10% of the constant), rejected if above.

`elhage_slope`: the slope of ln kappa against ln 1/(p ln 1/p) lies within 5% of 1. `never_above_bayes_amp`: no capacity
exceeds that ceiling (one that did would be a bug). `sup_reached`: at every density and m the best load lies inside the
range offered. Each (m, p) trains at the best of four learning rates, found beforehand on two seeds at a middle load.
`training_sufficient`: twice the steps move no capacity by more than 3%; `..._rate_does_not_decide`: nor do half or
twice the learning rate, by more than 10%. The gap between a network and the ceiling is laid at the door of its
dictionary or its decoding by reading its own code, and a random one, with other decoders (m = 32, p = .05).

Two cores: --quick about 40 s, default about 12 minutes.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import SparseUniform
from toysup.measure import recovered, recovered_at
from toysup.measure.decoders import (
    Encoding,
    affine_relu,
    bayes_amp,
    decoded,
    linear_probe,
    matching_pursuit,
    nonnegative_l1,
)
from toysup.models import TiedAutoencoder, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, elhage_ratio, inverse_density, l1_ratio, one_step_r2

QUESTION = "How many features fit in a neuron at each sparsity, and which reference do trained networks obey?"
MODELS = {"tied": TiedAutoencoder, "untied": UntiedAutoencoder}
CURVES = {"elhage": elhage_ratio, "inverse_density": inverse_density, "l1": l1_ratio, "bayes_amp": bayes_amp_ratio}
LOADS = (0.4, 0.65, 1.0, 1.5)  # of 1/(p ln 1/p)
DECODERS = (linear_probe, affine_relu, matching_pursuit, nonnegative_l1, bayes_amp)
THRESHOLDS = (0.25, 0.5, 0.9)


def cells(run: report.Run, model: str) -> list[tuple[int, float]]:
    """(m, p) to be measured: wide ones where data are dense enough for n to stay small."""
    densities = run.pick(default=[0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002], quick=[0.1, 0.03, 0.01], smoke=[0.2, 0.1])
    least = run.pick(default={8: 0.002, 16: 0.005}, quick={8: 0.01}, smoke={4: 0.1})
    if model == "tied":
        least |= run.pick(default={32: 0.02}, quick={16: 0.03}, smoke={})
    chosen = [(m, p) for m, lowest in least.items() for p in densities if p >= lowest]
    return chosen + run.pick(default=[(64, 0.05), (128, 0.05)] if model == "tied" else [], quick=[])


def grid_of(
    run: report.Run, model: str, rates: dict, loads: tuple[float, ...], seeds: int, length: float = 1, times: float = 1
) -> Grid:
    """Loads x seeds of every cell (m, p) in `rates`, at each of the cell's learning rates."""
    steps = run.pick(default=4000, quick=800, smoke=10)
    points = [
        (max(m, round(load * m * float(elhage_ratio(p)))), m, p, times * lr, round(length * steps / (1 + (p > 0.03))))
        for (m, p), own in rates.items()
        for load in loads
        for lr in own
    ]
    optimizer = Adam(beta2=0.99, schedule=Cosine())
    setting = Setting(SparseUniform(8, 0.1), Identity(), Model(MODELS[model], width=4), optimizer, steps, 512)
    paths = ("features.n_features", "model.width", "features.density", "optimizer.lr", "steps")
    return Grid(setting, {paths: list(dict.fromkeys(points)), "seed": range(seeds)})


def best_rates(table: pd.DataFrame) -> dict[tuple[int, float], list[float]]:
    """(m, p) -> the learning rate that recovers most, in a list of its own."""
    best = stats.best_setting(table, "lr", ["width", "density"], "recovered")
    return {(int(m), float(p)): [float(own["lr"].iloc[0])] for (m, p), own in best.groupby(["width", "density"])}


def capacities(table: pd.DataFrame, count: str = "recovered") -> pd.DataFrame:
    """One row per (density, width, seed): the count per neuron at the best n, and whether that was the largest."""
    rows = []
    for (p, m), own in table.groupby(["density", "width"]):
        best = stats.capacity(own, load="n_features", recovered=count).reset_index()
        inside = best["load"] < own["n_features"].max()
        rows.append(best.assign(density=p, width=m, kappa=best["recovered"] / m, n=best["load"], inside=inside))
    return pd.concat(rows, ignore_index=True)


def by_density(found: pd.DataFrame, width: int) -> pd.DataFrame:
    """(seed, density): kappa at one width."""
    return found[found["width"] == width].pivot(index="seed", columns="density", values="kappa")


def main(run: report.Run) -> None:
    middle, seeds = run.pick(default=8, smoke=4), run.pick(default=8, quick=3, smoke=2)
    tried = run.pick(default=[0.005, 0.01, 0.02, 0.04], quick=[0.01, 0.02, 0.04], smoke=[0.02])
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    searches = {
        f"rates_{model}": grid_of(run, model, dict.fromkeys(cells(run, model), tried), (1.0,), run.pick(default=2))
        for model in MODELS
    }
    searched = sweep(searches, [recovered], **options)
    rates = {model: best_rates(searched[f"rates_{model}"].table) for model in MODELS}
    grids = {model: grid_of(run, model, rates[model], LOADS, seeds) for model in MODELS}
    some = {cell: own for cell, own in rates["tied"].items() if cell[0] == middle}
    some = dict(list(some.items())[:: run.pick(default=3, quick=1)])
    others = {"twice_the_steps": {"length": 2}, "half_the_rate": {"times": 0.5}, "twice_the_rate": {"times": 2.0}}
    grids |= {name: grid_of(run, "tied", some, LOADS, seeds, **how) for name, how in others.items()}
    measures = [recovered, *(recovered_at(theta) for theta in THRESHOLDS)]
    answers = sweep(grids, measures, **options)
    found = {name: capacities(answer.table) for name, answer in answers.items()}
    reference = one_step(answers["tied"].table)

    statistics, verdict, controls = {}, {}, {"sup_inside_share": {}, "reference_slope": {}}
    controls["learning_rate"] = {m: {f"p{p:g}_m{w}": lr for (w, p), (lr,) in own.items()} for m, own in rates.items()}
    for model in MODELS:
        kappa = found[model]
        for (p, m), own in kappa.groupby(["density", "width"]):
            statistics[f"kappa_{model}_p{p:g}_m{m}"] = stats.mean(own["kappa"])
        for theta in THRESHOLDS:
            counts = by_density(capacities(answers[model].table, f"recovered_at_{100 * theta:g}"), middle)
            controls[f"at_R2_{theta:g}_{model}"] = {f"p{p:g}": stats.mean(counts[p]) for p in counts}
        wide = by_density(kappa, middle)
        shape = np.log(elhage_ratio(wide.columns.to_numpy()))
        slopes = np.polyfit(shape, np.log(wide.to_numpy()).T, 1)[0]
        statistics[f"{model}_slope"] = stats.mean(slopes)
        verdict[f"{model}_elhage_slope"] = stats.decide(statistics[f"{model}_slope"], (0.95, 1.05))
        curves = {name: curve(wide.columns.to_numpy()) for name, curve in CURVES.items()}
        curves["one_step"] = reference[reference["width"] == middle].set_index("density")["kappa"][wide.columns]
        for name, curve in curves.items():
            ratio = np.log(wide.to_numpy() / np.asarray(curve))  # seed density
            constant, spread = stats.mean(ratio.mean(1)), stats.mean(np.ptp(ratio, axis=1))
            statistics[f"{model}_over_{name}"] = exponential(constant)
            statistics[f"{model}_over_{name}_spread"] = exponential(spread)
            verdict[f"{model}_obeys_{name}"] = stats.decide(exponential(spread), (1, 1.21))
            controls["reference_slope"][name] = float(np.polyfit(shape, np.log(np.asarray(curve)), 1)[0])
        highest = max(
            (stats.mean(own["kappa"] / float(bayes_amp_ratio(p))) for p, own in kappa.groupby("density")),
            key=lambda interval: interval.high,
        )
        statistics[f"{model}_highest_over_bayes_amp"] = highest
        verdict[f"{model}_never_above_bayes_amp"] = stats.decide(highest, (0, 1))
        controls["sup_inside_share"][model] = float(kappa["inside"].mean())
        verdict[f"{model}_sup_reached"] = "supported" if kappa["inside"].all() else "rejected"
    base = by_density(found["tied"], middle)
    for name in others:
        other = by_density(found[name], middle)
        moved = {p: stats.ratio(other[p], base[p], paired=True) for p in other}
        controls[name] = {f"p{p:g}": interval for p, interval in moved.items()}
        margin = 0.03 if name == "twice_the_steps" else 0.1
        within = stats.every(*(stats.decide(interval, (1 - margin, 1 + margin)) for interval in moved.values()))
        verdict["training_sufficient" if name == "twice_the_steps" else f"{name}_does_not_decide"] = within

    readings = read(answers["tied"], run)
    for (dictionary, decoder), own in readings.groupby(["dictionary", "decoder"]):
        statistics[f"read_{dictionary}_by_{decoder}"] = stats.mean(own["kappa"])
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    drawing = draw(answers["tied"].table, found, reference, readings, statistics, middle)
    steps = int(max(answer.table["steps"].max() for answer in answers.values()))
    report.write(run, drawing, statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(map(len, (grids | searches).values())), steps=steps,
                 seconds=sum(answer.seconds for answer in (answers | searched).values()))  # fmt: skip


def exponential(interval: stats.Interval) -> stats.Interval:
    return stats.Interval(math.exp(interval.value), math.exp(interval.low), math.exp(interval.high))


def one_step(table: pd.DataFrame) -> pd.DataFrame:
    """sup_n of n R^2 / m for one-step decoding on tight frames, over the very n that were trained."""
    sizes = table[["n_features", "width", "density"]].drop_duplicates()
    r2 = [one_step_r2(int(n), int(m), float(p), frame="tight").r2 for n, m, p in sizes.itertuples(index=False)]
    sizes = sizes.assign(kappa=sizes["n_features"] * np.array(r2) / sizes["width"])
    return sizes.groupby(["density", "width"], as_index=False)["kappa"].max()


def read(answer, run: report.Run) -> pd.DataFrame:
    """F_eff / m of the networks' codes and of random ones under every decoder, at one width and density, each n."""
    width, density = run.pick(default=(32, 0.05), quick=(16, 0.03), smoke=(4, 0.1))
    rows = []
    for chunk in range(len(answer.jobs)):
        trained: Trained = answer.trained(chunk)
        sizes = trained.setting.model.arguments["width"], trained.values["features.density"][0]
        if sizes[0] != width or abs(float(sizes[1]) - density) > 1e-6:
            continue
        own = Encoding.of(trained)
        n = trained.setting.features.n_features
        seeds = trained.stack.init_seed
        rows += [{"n": n, "seed": s, "dictionary": "learned", "decoder": "own", "kappa": float(f) / width}
                 for s, f in zip(seeds, recovered(trained).value, strict=True)]  # fmt: skip
        for dictionary, encoding in (("learned", own), ("random", own.random())):
            for decoder in DECODERS:
                kept = decoded(encoding, decoder, samples=run.pick(default=2048, quick=512, smoke=64)).value
                rows += [{"n": n, "seed": s, "dictionary": dictionary, "decoder": decoder.__name__, "kappa": float(f)}
                         for s, f in zip(seeds, kept.clamp(min=0).sum(-1) / width, strict=True)]  # fmt: skip
    table = pd.DataFrame(rows)
    mean = table.groupby(["dictionary", "decoder", "n"])["kappa"].mean()
    best = mean.groupby(level=["dictionary", "decoder"]).idxmax()  # each at its own best load
    return table[table.set_index(["dictionary", "decoder", "n"]).index.isin(best)]


def draw(table, found, reference, readings, statistics, middle) -> plots.Figure:
    """Degree of superposition against sparsity; where capacity stops growing; ratio to one step; decoders."""
    figure, ((main, plateau), (ratio, bars)) = plots.figure(2, 2, width=13, height=4.6)
    p = np.geomspace(table["density"].max(), table["density"].min(), 60)
    names = {"elhage": "1/(p ln 1/p)", "inverse_density": "1/p", "l1": "non-negative l1", "bayes_amp": "Bayes-AMP"}
    for (name, label), style in zip(names.items(), ("--", "-.", (0, (5, 1)), "-"), strict=True):
        main.plot(1 / p, CURVES[name](p), color=plots.GREY, linestyle=style, linewidth=1.3, label=label, zorder=1)
    main.axhline(1, color=plots.GREY, linestyle=":", label="PCA (linear)")
    widths = sorted(found["tied"]["width"].unique())
    colours = plots.category_colours(widths)
    for model, marker, fill in (("tied", "o", True), ("untied", "s", False)):
        for width, own in found[model].groupby("width"):
            means = own.groupby("density")["kappa"].mean()
            main.plot(1 / means.index, means, marker, color=colours[width], markersize=6,
                      fillstyle="full" if fill else "none", label=f"{model}, m = {width}")  # fmt: skip
    main.set(xscale="log", yscale="log", xlabel="1 / (1 - S) = 1 / p", ylabel="features per neuron")
    main.set_title("capacity per neuron, and references")
    main.legend(fontsize=8, ncols=2)
    shown = table[table["width"] == middle]
    shades = plots.category_colours(sorted(shown["density"].unique(), reverse=True))
    for density, own in shown.groupby("density"):
        offered = own["n_features"] / middle
        scaled = own.assign(x=offered / float(elhage_ratio(density)), y=own["recovered"] / middle)
        means = scaled.groupby("x")["y"].mean()
        plateau.plot(means.index, means, "o-", color=shades[density], markersize=4, label=f"p = {density:g}")
    plateau.set(xscale="log", yscale="log", xlabel="features offered per neuron, times p ln 1/p",
                ylabel="recovered per neuron, F_eff / m")  # fmt: skip
    plateau.set_xticks(LOADS, [f"{load:g}" for load in LOADS], minor=False)
    plateau.minorticks_off()
    plateau.set_title(f"offered more, a network holds no more (tied, m = {middle})")
    plateau.legend(fontsize=8, ncols=2)
    joined = found["tied"].merge(reference, on=["density", "width"], suffixes=("", "_reference"))
    joined["over"] = joined["kappa"] / joined["kappa_reference"]
    for width, own in joined.groupby("width"):
        plots.band(ratio, own.assign(x=1 / own["density"]), "x", "over", colours=None)
        line = ratio.lines[-1]
        line.set(color=colours[width], label=f"m = {width}")
        ratio.collections[-1].set_color(colours[width])
    ratio.axhline(1, color=plots.GREY, linestyle="--", label="one-step decoding, tight frame")
    ratio.set(xscale="log", xlabel="1 / (1 - S) = 1 / p", ylabel="kappa / one-step reference")
    ratio.set_title("tied networks over one untrained ReLU layer")
    ratio.legend(fontsize=8)
    order = ["linear_probe", "affine_relu", "own", "matching_pursuit", "nonnegative_l1", "bayes_amp"]
    places, both = np.arange(len(order)), plots.category_colours(["learned", "random"])
    for offset, dictionary in ((-0.2, "learned"), (0.2, "random")):
        means = [statistics.get(f"read_{dictionary}_by_{decoder}") for decoder in order]
        known = [i for i, interval in enumerate(means) if interval is not None]
        values = np.array([means[i].value for i in known])
        ends = np.array([[means[i].value - means[i].low, means[i].high - means[i].value] for i in known]).T
        bars.bar(places[known] + offset, values, 0.38, yerr=np.nan_to_num(ends, posinf=0),
                 label=f"{dictionary} dictionary", color=both[dictionary])  # fmt: skip
    bars.set_xticks(places, [name.replace("_", "\n") for name in order], fontsize=9)
    bars.set(ylabel="recovered per neuron, F_eff / m", title="one code, other decoders (each at its best load)")
    bars.legend(fontsize=9)
    slope = statistics["tied_slope"]
    figure.suptitle(
        f"Capacity grows as [1/(p ln 1/p)]^{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}] and stays below every"
        " deep decoder's limit",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
