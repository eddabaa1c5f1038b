"""Do features jump between discrete dimensionalities in training, and does the loss drop when they do?

"Superposition and Learning Dynamics" of Elhage et al. 2022. Their phenomenon 1, from one model with many equal features
that end in digons: a feature's dimensionality D_i jumps between discrete values, and the loss suddenly drops then. It
does not say which; here n = 400, m = 30 as in their study of uniform geometry, at p = 0.4, where they end in digons
(8 seeds), the same at n = 20, m = 5, p = 0.3 (256), and n = 5, m = 2, p = 0.05, where they end in a pentagon (1024).
Phenomenon 2: six features in two correlated sets of three, m = 3 (p = 0.05, 64 seeds), learn in regimes that are
visible in the loss, each one geometric transformation, towards an octahedron of antipodal pairs across the sets.

AdamW, lr 1e-3, weight decay 0.01, batch 1024, 10,000 steps; weights kept every 50. The loss curve is exact for n = 5,
else on common draws, in units of one feature's variance: what it costs to ignore one feature. Both kinds of events are
sudden moves (`stats.transitions`): a jump changes D_i by 0.1 or more, a drop takes 0.02 features or more off the loss;
in the correlated case a jump is a change of 0.3 in the cosine between two features of a set. Adam moves a weight by
about lr a step, so nothing is faster than 1 / lr steps, and jumps count from then on: before, everything moves.

Rules, all on 95% intervals over seeds.
- jumps_coincide_with_loss_drops: more than half of a seed's jumps have a drop within 0.2 / lr steps, and more than
  twice as many as have one of another seed's drops then.
- loss_drops_coincide_with_jumps: the same from the drops' side.
- loss_falls_at_jumps: within 0.2 / lr steps of jumps the loss falls more than twice as fast as other seeds' do then.
- levels_are_the_papers: before its last jump a seed's features are within 0.03 of 0, 2/5, 1/2, 2/3, 3/4 or 1 for more
  than half of the time (their own jumps left out), and 1.5 times as often as the same values blurred by +-0.15.
- levels_are_discrete: the same with the three busiest levels of the other half of the seeds. (Six would tile the
  range that a few features use: blurred values could not miss them.)
- correlated runs learn in regimes if more than half of them have a drop, and end in an octahedron if more than half do.
Controls: drops shifted in time, twice the tolerance, events once training has settled, half and double learning rate.

Two cores: --quick 50 s, default about 4 minutes.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import Correlated, SparseUniform
from toysup.measure import antipode, cosines, feature_dimensionality, loss_through, through
from toysup.measure.dynamics import curves
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity
from toysup.theory import expected_loss

QUESTION = "Do features jump between discrete dimensionalities in training, and does the loss drop when they do?"
LEVELS = {"0": 0.0, "2/5": 2 / 5, "1/2": 1 / 2, "2/3": 2 / 3, "3/4": 3 / 4, "1": 1.0}
NEAR, BLUR, BUSIEST = 0.03, 0.15, 3
JUMP, DROP, TURN = 0.1, 0.02, 0.3  # least change of a dimensionality, of the loss in features, of a cosine
LR, EVERY, SET = 1e-3, 50, 3
SHARES = ("jumps_with_a_drop", "jumps_with_another_seeds_drop")
TITLES = {
    "pentagon": "n=5, m=2, p=0.05",
    "digons": "n=20, m=5, p=0.3",
    "large": "n=400, m=30, p=0.4",
    "correlated": "n=6 correlated, m=3, p=0.05",
}


def exact_loss(trained: Trained) -> torch.Tensor:
    """Expected loss by integration, importance 1."""
    W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
    return torch.from_numpy(expected_loss(W, b, trained.setting.features.density, np.ones(b.shape[-1])))


def cases(run: report.Run) -> dict[str, tuple[Grid, list]]:
    """Grid and measures by name; the last measure is the loss."""
    steps, batch = run.pick(default=(10_000, 1024), smoke=(3 * EVERY, 32))

    def case(features, width, seeds, loss, lr=LR, *more):
        model, optimizer = Model(TiedAutoencoder, width=width), Adam(lr=lr, weight_decay=0.01)
        setting = Setting(features, Identity(), model, optimizer, steps=steps, batch=batch)
        return Grid(setting, {"seed": range(seeds)}), [through(feature_dimensionality), *more, loss]

    many, some, few, sets, other = run.pick(
        default=(1024, 256, 8, 64, 512), quick=(192, 48, 2, 12, 64), smoke=(4, 2, 2, 2, 2)
    )
    exact, five = through(exact_loss), SparseUniform(5, 0.05)
    large = SparseUniform(run.pick(default=400, smoke=40), 0.4)
    return {
        "pentagon": case(five, 2, many, exact),
        "digons": case(SparseUniform(20, 0.3), 5, some, loss_through(8)),
        "large": case(large, run.pick(default=30, smoke=3), few, loss_through(4)),
        "correlated": case(Correlated(2 * SET, SET, 0.05), 3, sets, loss_through(16), LR, through(cosines), antipode),
        "pentagon_half_lr": case(five, 2, other, exact, LR / 2),
        "pentagon_double_lr": case(five, 2, other, exact, 2 * LR),
    }


def followed(answer: Results, loss: str) -> tuple[np.ndarray, stats.SuddenMoves]:
    """Dimensionalities (row, snapshot, feature), and the moves of what jumps and of the loss in features."""
    setting = answer.grid.setting
    snapshots, p, lr = setting.steps // EVERY + 1, setting.features.density, setting.optimizer.lr
    D = curves(answer.features, "feature_dimensionality_through", snapshots)
    series, least = D, JUMP
    if isinstance(setting.features, Correlated):
        one, other = np.triu_indices(2 * SET, 1)
        series, least = curves(answer.features, "cosines_through", snapshots)[..., one // SET == other // SET], TURN
    in_features = curves(answer.features, loss, snapshots) / (p / 3 - p**2 / 4)
    begin = round(1 / lr / EVERY) if setting.steps > 1 / lr else 0
    return D, stats.SuddenMoves(series, in_features, least, DROP, begin, 0.2 / lr / EVERY)


def on_the_way(D: np.ndarray, moves: stats.SuddenMoves) -> list[np.ndarray]:
    """Each row's dimensionalities before its last jump; a feature's own jumps are left out where D is what jumps."""
    resting = moves.rests()
    if D is not moves.series:
        resting = np.broadcast_to(resting.any(-1, keepdims=True), D.shape)
    return [values[here] for values, here in zip(D, resting, strict=True)]


def mean(samples) -> stats.Interval:
    samples = np.asarray(samples, dtype=float)
    samples = samples[np.isfinite(samples)]
    return stats.mean(samples) if len(samples) else stats.UNDEFINED


def judge(D: np.ndarray, moves: stats.SuddenMoves) -> tuple[dict, dict, dict]:
    """Statistics, verdicts and controls of one case."""
    met, back, rows = moves.jumps_met, moves.drops_met, moves.jumps_met.rows
    around = moves.fall_around_jumps(int(moves.tolerance))
    own, other = (np.nanmean(part, axis=1) * 1000 / EVERY if len(rows) > 1 else np.zeros(0)
                  for part in (around.own, around.paired))  # fmt: skip
    fall, window = -np.diff(moves.loss[rows, moves.begin :], axis=1).clip(max=0), moves.windows[rows, moves.begin :]
    strange = (fall.sum(0) - fall) / max(len(fall) - 1, 1)  # the other seeds' mean
    rests = [values for row, values in enumerate(on_the_way(D, moves)) if row in rows]
    found = [stats.busiest_levels(np.concatenate(rests[half::2] or [np.zeros(0)]), BUSIEST, NEAR) for half in (0, 1)]
    levels = {"papers_levels": [list(LEVELS.values())] * 2, "found_levels": found[::-1]}

    def part(of: np.ndarray) -> stats.Interval:
        return stats.ratio((of * window).sum(1), of.sum(1), paired=True) if len(rows) else stats.UNDEFINED

    statistics = {
        "seeds_that_jump": stats.share(len(rows), len(D)),
        "jumps_per_series": mean([len(times) / moves.series.shape[-1] for times in moves.jump_times]),
        "jumps_with_a_drop": mean(met.share),
        "jumps_with_another_seeds_drop": mean(met.paired),
        "jumps_with_a_drop_minus_twice_that": mean(met.share - 2 * met.paired),
        "drops_with_a_jump": mean(back.share),
        "drops_with_another_seeds_jump": mean(back.paired),
        "drops_with_a_jump_minus_twice_that": mean(back.share - 2 * back.paired),
        "fall_at_jumps": mean(own),
        "fall_of_other_seeds_then": mean(other),
        "fall_at_jumps_minus_twice_that": mean(own - 2 * other),
        "late_fall_in_windows_of_jumps": part(fall),
        "other_seeds_late_fall_in_them": part(strange),
        "late_time_in_them": mean(window.mean(1)),
        "at_papers_levels_at_the_end": mean([stats.near_levels(end, list(LEVELS.values()), NEAR, BLUR)[0]
                                             for end in D[:, -1]]),
    }  # fmt: skip
    more = (0, np.inf)
    for key, at in levels.items():
        near = [stats.near_levels(rest, at[k % 2], NEAR, BLUR) if len(at[k % 2]) else (np.nan, np.nan)
                for k, rest in enumerate(rests)]  # fmt: skip
        share, blurred = np.array(near).reshape(-1, 2).T
        statistics[f"at_{key}"], statistics[f"at_{key}_if_blurred"] = mean(share), mean(blurred)
        statistics[f"at_{key}_minus_1.5_blurred"] = mean(share - 1.5 * blurred)

    def half_and_more(name: str, margin: str) -> stats.Verdict:
        return stats.every(stats.decide(statistics[name], (0.5, np.inf)), stats.decide(statistics[margin], more))

    verdicts = {
        "jumps_coincide_with_loss_drops": half_and_more("jumps_with_a_drop", "jumps_with_a_drop_minus_twice_that"),
        "loss_drops_coincide_with_jumps": half_and_more("drops_with_a_jump", "drops_with_a_jump_minus_twice_that"),
        "loss_falls_at_jumps": stats.decide(statistics["fall_at_jumps_minus_twice_that"], more),
        "levels_are_the_papers": half_and_more("at_papers_levels", "at_papers_levels_minus_1.5_blurred"),
        "levels_are_discrete": half_and_more("at_found_levels", "at_found_levels_minus_1.5_blurred"),
    }
    settled = 0.8 * moves.intervals
    wide = stats.coincidence(moves.jump_times, moves.drop_times, 2 * moves.tolerance, (0, moves.intervals))
    controls = {
        "jumps_with_a_shifted_drop": mean(met.shifted),
        "jumps_with_a_drop_at_twice_the_tolerance": mean(wide.share),
        "jumps_with_another_seeds_drop_at_twice_the_tolerance": mean(wide.paired),
        "jumps_per_seed_in_the_last_fifth": mean([(times > settled).sum() for times in moves.jump_times]),
        "drops_per_seed_in_the_last_fifth": mean([(times > settled).sum() for times in moves.drop_times]),
        "found_levels": {"first half of the seeds": found[0], "second half": found[1]},
        **verdicts,
    }
    return statistics, verdicts, controls


def main(run: report.Run) -> None:
    declared = cases(run)
    steps = declared["pentagon"][0].setting.steps
    statistics, verdict, controls, made, seconds, engines = {}, {}, {}, {}, 0.0, set()
    for name, (grid, measures) in declared.items():
        options = {"device": run.device, "workers": run.workers, "snapshots": range(0, steps + 1, EVERY)}
        answer = sweep(grid, measures, results=run.results, name=f"dynamics_{name}", **options)
        seconds, engines = seconds + answer.seconds, engines | set(answer.table["engine"])
        made[name] = D, moves = followed(answer, measures[-1].__name__)
        own, verdicts, controls[name] = judge(D, moves)
        statistics |= {f"{name}_{key}": value for key, value in own.items()}
        if name in TITLES:
            verdict |= {f"{name}_{key}": value for key, value in verdicts.items()}
        if name == "correlated":
            partner = curves(answer.features, "antipode", 1)[:, 0]  # row feature
            across = (partner >= 0) & (partner // SET != np.arange(2 * SET) // SET)
            for key, true in (
                ("octahedra", across.all(1)),
                ("runs_with_a_drop", [len(row) > 0 for row in moves.drops]),
            ):
                statistics[f"correlated_{key}"] = stats.share(int(np.sum(true)), len(true))
            verdict["correlated_learns_in_regimes"] = stats.decide(statistics["correlated_runs_with_a_drop"], (0.5, 1))
            verdict["correlated_ends_in_an_octahedron"] = stats.decide(statistics["correlated_octahedra"], (0.5, 1))
    rates = [controls[name] for name in ("pentagon", "pentagon_half_lr", "pentagon_double_lr")]
    controls["same_verdict_at_half_and_double_lr"] = {
        key.removeprefix("pentagon_"): len({rate[key.removeprefix("pentagon_")] for rate in rates}) == 1
        for key in verdict
        if key.startswith("pentagon_")
    }
    report.write(run, draw(made, statistics, steps), statistics=statistics, verdict=verdict, controls=controls,
                 instances=sum(len(grid) for grid, _ in declared.values()), steps=steps,
                 engine=", ".join(sorted(engines)), seconds=seconds)  # fmt: skip


def typical(moves: stats.SuddenMoves) -> int:
    """Among the rows that jump, one with the median number of jumps, and of those the one with the median late fall."""
    counts = np.array([len(row) for row in moves.jump_times])
    rows = np.flatnonzero(counts) if counts.any() else np.arange(len(counts))
    same = rows[counts[rows] == np.sort(counts[rows])[len(rows) // 2]]
    fall = moves.loss[same, moves.begin] - moves.loss[same, -1]
    return int(same[np.argsort(fall)[len(same) // 2]])


def draw(made: dict, statistics: dict, steps: int) -> plots.Figure:
    """A typical seed's series and loss, the fall of the loss around all seeds' jumps, and where features rest."""
    figure, axes = plots.figure(4, len(TITLES), width=13, height=2.9)
    time, shown = np.arange(0, steps + 1, EVERY), (0, steps / 2)
    blue, orange, red = "#0173b2", "#de8f05", "#d55e00"
    for column, (name, title) in zip(axes.T, TITLES.items(), strict=True):
        (D, moves), (top, second, third, bottom) = made[name], column
        row = typical(moves)
        around = moves.fall_around_jumps(int(4 * moves.tolerance))
        top.plot(time, moves.series[row], linewidth=0.9)
        top.set_title(f"{title}\ntypical one of {len(D)} seeds", fontsize=11)
        top.set(ylim=(-1.05, 1.05) if name == "correlated" else (-0.08, 1.02), xlim=shown)
        second.plot(time, moves.loss[row], color="black", linewidth=1.2)
        late = moves.loss[row, moves.begin // 2 or 1 :]
        second.set_ylim(late.min() - 0.12 * np.ptp(late), late.max() + 0.02 * np.ptp(late))
        second.set(xlim=shown, xlabel="step")
        for ax in (top, second):
            ax.xaxis.set_major_locator(MaxNLocator(3))
        for move in moves.drops[row]:
            second.axvspan(move.start * EVERY, move.stop * EVERY, color=orange, alpha=0.35, linewidth=0)
        for ax in (top, second):
            ax.axvline(moves.begin * EVERY, color=plots.GREY, linestyle=":", linewidth=1)
            for at in moves.jump_times[row]:
                ax.axvline(at * EVERY, ymax=0.07, color=red, linewidth=1.2)
        lags = (np.arange(around.own.shape[1]) - around.own.shape[1] // 2) * EVERY
        for part, colour, line in ((around.own, blue, "-"), (around.paired, "0.45", ":")):
            ends = [mean(values * 1000 / EVERY) for values in part.T] if len(part) > 1 else []
            if ends:
                third.plot(lags, [end.value for end in ends], line, color=colour)
                third.fill_between(lags, [end.low for end in ends], [end.high for end in ends], color=colour, alpha=0.2)
        third.axvline(0, color=red, linewidth=1)
        third.set(ylim=(0, None), xlabel="steps from a jump")
        for data, colour, kind in (
            (D[:, -1].ravel(), "0.8", "stepfilled"),
            (np.concatenate(on_the_way(D, moves)), blue, "step"),
        ):
            if data.size:
                bottom.hist(data, np.linspace(0, 1, 51), weights=np.full(data.size, 100 / data.size), color=colour,
                            histtype=kind, linewidth=1.4)  # fmt: skip
        for label, level in LEVELS.items():
            bottom.axvline(level, color=plots.GREY, linestyle="--", linewidth=0.7, zorder=0)
            height = 250 if label in ("1/2", "3/4") else 125
            bottom.text(level, height, label, fontsize=9, ha="center", color=plots.GREY)
        bottom.set(xlabel="dimensionality D", yscale="log", ylim=(0.05, 100), xlim=(-0.02, 1.02))
    labels = ("dimensionality D", "loss, in features", "fall of the loss,\nfeatures / 1000 steps", "share of D, %")
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    axes[0, 3].set_ylabel("cosine inside a set")
    keys = [plots.Patch(facecolor=red, label="jump"), plots.Patch(facecolor=orange, alpha=0.35, label="sudden drop")]
    axes[1, 0].legend(handles=keys, fontsize=9, loc="upper right")
    keys = [plots.Patch(facecolor=blue, label="own loss"), plots.Patch(facecolor="0.45", label="other seeds' loss")]
    axes[2, 1].legend(handles=keys, fontsize=9, loc="upper right")
    keys = [plots.Patch(facecolor=blue, label="before last jump"), plots.Patch(facecolor="0.8", label="at the end")]
    axes[3, 2].legend(handles=keys, fontsize=9, loc="upper right", frameon=True, framealpha=1)
    shares = {name: [100 * statistics[f"{name}_{key}"].value for key in SHARES] for name in TITLES}
    told = ", ".join(f"{TITLES[name].split(',')[0]} {own:.0f}% ({other:.0f}%)" for name, (own, other) in shares.items())
    figure.suptitle(f"Jumps that meet a drop of the loss (another seed's): {told}", fontsize=13)
    return figure


if __name__ == "__main__":
    report.experiment(main)
