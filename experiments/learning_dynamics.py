"""Do features jump between discrete dimensionalities in training, and does the loss drop when they do?

"Superposition and Learning Dynamics" of Elhage et al. 2022. Their phenomenon 1, from one model with many equal features
that end in digons: a feature's dimensionality D_i jumps between discrete values, and the loss suddenly drops then. It
does not say which; here n = 400, m = 30 as in their study of uniform geometry, at p = 0.4, where they end in digons
(8 seeds), the same at n = 20, m = 5, p = 0.3 (256), and n = 5, m = 2, p = 0.05, where they end in a pentagon (1024).
Phenomenon 2: six features in two correlated sets of three, m = 3 (p = 0.05, 64 seeds), learn in regimes that are
visible in the loss, each one geometric transformation, towards an octahedron of antipodal pairs across the sets.

AdamW, lr 1e-3, weight decay 0.01, batch 1024, 10,000 steps; weights kept every 50. The loss curve is exact for n = 5,
else on common draws, in units of one feature's variance: what it costs to ignore one feature. Both kinds of events are
transitions (`stats.transitions`): a jump changes D_i by 0.1 or more, a drop takes 0.02 features or more off the loss;
in the correlated case a jump is a change of 0.3 in the cosine between two features of a set. Adam moves a weight by
about lr a step, so nothing is faster than 1 / lr steps, and events count from then on: before, everything moves.

Rules, all on 95% intervals over seeds. jumps_coincide: more than half of an instance's jumps have a drop within
0.2 / lr steps, and more than twice as many as if the drops were those of another seed. loss_falls_at_jumps: around
jumps it falls more than twice as fast as other jumping seeds' losses do then. levels_are_discrete: before its last jump
an instance's features are within 0.03 of 0, 2/5, 1/2, 2/3, 3/4 or 1 for more than half of the time (jumps left out),
and 1.5 times as often as the same values blurred by +-0.15. regimes: more than half of the correlated runs have a
sudden drop; octahedron: more than half end in one. Controls: shifted drops, events once settled, half and double lr.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import Correlated, SparseUniform
from toysup.measure import cosines, curves, feature_dimensionality, loss_through, through
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import expected_loss

QUESTION = "Do features jump between discrete dimensionalities in training, and does the loss drop when they do?"
LEVELS = {"0": 0.0, "2/5": 2 / 5, "1/2": 1 / 2, "2/3": 2 / 3, "3/4": 3 / 4, "1": 1.0}
NEAR, BLUR = 0.03, 0.15
JUMP, DROP, TURN = 0.1, 0.02, 0.3  # least change of a dimensionality, of the loss in features, of a cosine
LR, EVERY = 1e-3, 50
TITLES = {
    "pentagon": "n=5, m=2, p=0.05",
    "digons": "n=20, m=5, p=0.3",
    "large": "n=400, m=30, p=0.4",
    "correlated": "n=6, m=3, two correlated sets",
}


def exact_loss(trained: Trained) -> torch.Tensor:
    """Expected loss by integration, importance 1."""
    W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
    return torch.from_numpy(expected_loss(W, b, trained.setting.features.density, np.ones(b.shape[-1])))


def cases(run: report.Run) -> dict[str, tuple[Grid, list]]:
    """Grid and measures by name."""

    def case(features, width, seeds, loss, lr=LR):
        optimizer = Adam(lr=lr, weight_decay=0.01)
        steps, batch = run.pick(default=(10_000, 1024), smoke=(4 * EVERY, 32))
        model = Model(TiedAutoencoder, width=width)
        setting = Setting(features, Identity(), model, optimizer, steps=steps, batch=batch)
        measures = [through(feature_dimensionality), loss]
        return Grid(setting, {"seed": range(seeds)}), measures

    many, some, few, pairs, other = run.pick(
        default=(1024, 256, 8, 64, 512), quick=(192, 48, 2, 12, 64), smoke=(4, 2, 2, 2, 2)
    )
    exact, five = through(exact_loss), SparseUniform(5, 0.05)
    made = {
        "large": case(SparseUniform(400, 0.4), 30, few, loss_through(4)),
        "correlated": case(Correlated(6, 3, 0.05), 3, pairs, loss_through(16)),
        "digons": case(SparseUniform(20, 0.3), 5, some, loss_through(8)),
        "pentagon": case(five, 2, many, exact),
        "pentagon_half_lr": case(five, 2, other, exact, LR / 2),
        "pentagon_double_lr": case(five, 2, other, exact, 2 * LR),
    }
    made["correlated"][1].append(through(cosines))
    return made


@dataclass(frozen=True)
class Followed:
    """The curves of one case and their events after 1 / lr steps, times in snapshots."""

    D: np.ndarray  # row snapshot feature
    moving: np.ndarray  # row snapshot series: what jumps
    loss: np.ndarray  # row snapshot, in features
    jumps: list[list[list[stats.Transition]]]  # row, series
    drops: list[list[stats.Transition]]  # row; from the start
    begin: int  # first snapshot that counts
    tolerance: float

    def times(self, row: int) -> np.ndarray:
        """When an instance's series jump, in order."""
        return np.sort([move.middle for moves in self.jumps[row] for move in moves])

    def drop_times(self, row: int) -> np.ndarray:
        return np.array([move.middle for move in self.drops[row] if move.middle >= self.begin])


def follow(name: str, answer, snapshots: int) -> Followed:
    """Curves and events of one trained case."""
    setting = answer.grid.setting
    features = answer.features
    D = curves(features, "feature_dimensionality_through", snapshots)
    losses = next(column for column in features if column.startswith(("loss_through", "exact_loss")))
    p = setting.features.density
    loss = curves(features, losses, snapshots) / (p / 3 - p**2 / 4)
    moving, least = D, JUMP
    if name == "correlated":
        first, second = np.triu_indices(6, 1)
        moving, least = curves(features, "cosines_through", snapshots)[..., first // 3 == second // 3], TURN
    begin = round(1 / setting.optimizer.lr / EVERY) if setting.steps > 1 / setting.optimizer.lr else 0
    late = [[[move for move in stats.transitions(series, least) if move.middle >= begin] for series in one.T]
            for one in moving]  # fmt: skip
    drops = [[move for move in stats.transitions(one, DROP) if move.change < 0] for one in loss]
    return Followed(D, moving, loss, late, drops, begin, 0.2 / setting.optimizer.lr / EVERY)


def near_levels(D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether values are near a level, and the probability that they are if blurred by a uniform +-BLUR."""
    at = np.array(list(LEVELS.values()))
    low, high = (np.clip(D[:, None] + side * BLUR, at - NEAR, at + NEAR) for side in (-1, 1))  # value level
    return (np.abs(D[:, None] - at) <= NEAR).any(-1), (high - low).sum(-1) / (2 * BLUR)


def on_the_way(case: Followed, row: int) -> np.ndarray:
    """Dimensionalities of an instance between `begin` and its last jump, each feature's own jumps left out."""
    last = max((move.start for moves in case.jumps[row] for move in moves), default=case.begin)
    resting = np.zeros(case.D[row].shape, dtype=bool)
    resting[case.begin : last] = True
    if case.moving is case.D:
        for feature, moves in enumerate(case.jumps[row]):
            for move in moves:
                resting[move.start : move.stop + 1, feature] = False
    return case.D[row][resting]


def mean(samples) -> stats.Interval:
    samples = np.asarray(samples, dtype=float)
    samples = samples[np.isfinite(samples)]
    return stats.mean(samples) if len(samples) else stats.UNDEFINED


def judge(case: Followed, steps: int) -> tuple[dict, dict, dict, stats.Around]:
    """Statistics, verdicts and controls of one case, and the loss's fall around jumps in features per 1000 steps."""
    rows, span = range(len(case.D)), (0, steps / EVERY)
    times, drops = [case.times(row) for row in rows], [case.drop_times(row) for row in rows]
    met = stats.coincidence(times, drops, case.tolerance, span)
    fall = -np.diff(case.loss, axis=1) * 1000 / EVERY
    reach = int(4 * case.tolerance)
    around = stats.around(fall, [np.floor(one).clip(max=fall.shape[1] - 1) for one in times], np.arange(-reach, reach))
    close = np.abs(np.arange(-reach, reach) + 0.5) <= case.tolerance
    own, other = (np.array([np.nanmean(one[close]) for one in part]) for part in (around.own, around.paired))
    inside = covered = whole = 0.0
    middles = np.arange(fall.shape[1]) + 0.5
    for row in met.rows:
        window = (np.abs(middles[:, None] - times[row]) <= case.tolerance).any(1)
        late = middles >= case.begin
        inside, whole = inside + fall[row, window & late].sum(), whole + fall[row, late].sum()
        covered += window[late].mean() / len(met.rows)
    resting = [near_levels(on_the_way(case, row)) for row in met.rows]
    level = np.array([[part.mean() if len(part) else np.nan for part in parts] for parts in resting]).reshape(-1, 2)
    end = [near_levels(one[-1])[0].mean() for one in case.D]
    back = stats.coincidence(drops, times, case.tolerance, span)
    statistics = {
        "instances_that_jump": stats.share(len(met.rows), len(case.D)),
        "jumps_per_series": mean([len(one) / case.moving.shape[-1] for one in times]),
        "jumps_with_a_drop": mean(met.share),
        "jumps_with_another_seeds_drop": mean(met.paired),
        "jumps_with_a_drop_minus_twice_chance": mean(met.share - 2 * met.paired),
        "drops_with_a_jump": mean(back.share),
        "fall_at_jumps": mean(own),
        "fall_at_other_seeds_jumps": mean(other),
        "fall_at_jumps_minus_twice_chance": mean(own - 2 * other),
        "levels_before_last_jump": mean(level[:, 0]),
        "levels_if_blurred": mean(level[:, 1]),
        "levels_minus_1.5_blurred": mean(level[:, 0] - 1.5 * level[:, 1]),
        "levels_at_the_end": mean(end),
    }
    more = (0, np.inf)
    verdicts = {
        "jumps_coincide_with_loss_drops": stats.every(
            stats.decide(statistics["jumps_with_a_drop"], (0.5, 1)),
            stats.decide(statistics["jumps_with_a_drop_minus_twice_chance"], more),
        ),
        "loss_falls_at_jumps": stats.decide(statistics["fall_at_jumps_minus_twice_chance"], more),
        "levels_are_discrete": stats.every(
            stats.decide(statistics["levels_before_last_jump"], (0.5, 1)),
            stats.decide(statistics["levels_minus_1.5_blurred"], more),
        ),
    }
    settled = 0.8 * steps / EVERY
    controls = {
        "jumps_with_a_shifted_drop": mean(met.shifted),
        "loss_share_in_jump_windows": inside / whole if whole else None,
        "time_share_of_jump_windows": covered,
        "events_per_instance_in_the_last_fifth": {
            "jumps": float(np.mean([(one > settled).sum() for one in times])),
            "drops": float(np.mean([(one > settled).sum() for one in drops])),
        },
        **verdicts,
    }
    return statistics, verdicts, controls, around


def octahedral(cosine: np.ndarray) -> np.ndarray:
    """(row,): whether every one of 6 features has its antipode, more than 150 degrees away, in the other set."""
    gram = np.zeros((len(cosine), 6, 6))
    first, second = np.triu_indices(6, 1)
    gram[:, first, second] = gram[:, second, first] = cosine
    opposite = gram < -np.sqrt(3) / 2
    across = (np.arange(6)[:, None] // 3 != np.arange(6) // 3) & opposite
    return (opposite.sum(-1) == 1).all(-1) & (across.sum(-1) == 1).all(-1)


def main(run: report.Run) -> None:
    declared = cases(run)
    steps = next(iter(declared.values()))[0].setting.steps
    at = range(0, steps + 1, EVERY)
    statistics, verdict, controls, followed, arounds, seconds, engines = {}, {}, {}, {}, {}, 0.0, set()
    for name, (grid, measures) in declared.items():
        options = {"device": run.device, "workers": run.workers, "snapshots": at}
        answer = sweep(grid, measures, results=run.results, name=f"dynamics_{name}", **options)
        seconds, engines = seconds + answer.seconds, engines | set(answer.table["engine"])
        followed[name] = follow(name, answer, len(at))
        own, verdicts, control, arounds[name] = judge(followed[name], steps)
        statistics |= {f"{name}_{key}": value for key, value in own.items()}
        controls[name] = control
        if name == "correlated":
            octahedra = octahedral(curves(answer.features, "cosines_through", len(at))[:, -1])
            statistics["correlated_octahedra"] = stats.share(int(octahedra.sum()), len(octahedra))
            regimes = [len(drops) > 0 for drops in followed[name].drops]
            statistics["correlated_runs_with_a_drop"] = stats.share(sum(regimes), len(regimes))
            verdict["correlated_learns_in_regimes"] = stats.decide(statistics["correlated_runs_with_a_drop"], (0.5, 1))
            verdict["correlated_ends_in_an_octahedron"] = stats.decide(statistics["correlated_octahedra"], (0.5, 1))
            verdicts.pop("levels_are_discrete")
        if name in TITLES:
            verdict |= {f"{name}_{key}": value for key, value in verdicts.items()}
    keys = ("jumps_coincide_with_loss_drops", "loss_falls_at_jumps", "levels_are_discrete")
    rates = ("pentagon_half_lr", "pentagon_double_lr")
    controls["learning_rate"] = {
        f"{key}_same_at_half_and_double": all(controls[rate][key] == controls["pentagon"][key] for rate in rates)
        for key in keys
    }
    report.write(run, draw(followed, arounds, statistics, steps), statistics=statistics, verdict=verdict,
                 controls=controls, instances=sum(len(grid) for grid, _ in declared.values()), steps=steps,
                 engine=", ".join(sorted(engines)), seconds=seconds)  # fmt: skip


def typical(case: Followed) -> int:
    """Among the instances that jump, the one with the median number of jumps, and of those the median late fall."""
    counts = np.array([len(case.times(row)) for row in range(len(case.D))])
    rows = np.flatnonzero(counts) if counts.any() else np.arange(len(counts))
    fall = case.loss[:, case.begin] - case.loss[:, -1]
    count = np.sort(counts[rows])[len(rows) // 2]
    same = rows[counts[rows] == count]
    return int(same[np.argsort(fall[same])[len(same) // 2]])


def draw(followed: dict, arounds: dict, statistics: dict, steps: int) -> plots.Figure:
    """A typical instance's series and loss, the loss's fall around all instances' jumps, and where features rest."""
    figure, axes = plots.figure(4, len(TITLES), width=13, height=2.75)
    time = np.arange(0, steps + 1, EVERY)
    own, other = "#0173b2", "0.45"
    for column, (name, title) in zip(axes.T, TITLES.items(), strict=True):
        case = followed[name]
        row = typical(case)
        top, middle, lower, bottom = column
        top.plot(time, case.moving[row], linewidth=0.9)
        top.set_title(f"{title}\n{len(case.D)} seeds, typical one", fontsize=11)
        top.set(ylim=(-1.05, 1.05) if name == "correlated" else (0, 1.02))
        middle.plot(time, case.loss[row], color="black", linewidth=1.2)
        late = case.loss[row, max(1, case.begin // 2) :]
        middle.set_ylim(late.min() - 0.08 * np.ptp(late), late.max() + 0.02 * np.ptp(late))
        for move in case.drops[row]:
            middle.axvspan(move.start * EVERY, move.stop * EVERY, color="#de8f05", alpha=0.3, linewidth=0)
        for ax in (top, middle):
            ax.axvline(case.begin * EVERY, color=plots.GREY, linestyle=":", linewidth=1)
            for at in case.times(row):
                ax.axvline(at * EVERY, ymax=0.07, color="#d55e00", linewidth=1.2)
        middle.set_xlabel("step")
        around = arounds[name]
        lags = (np.arange(around.own.shape[1]) - around.own.shape[1] // 2 + 0.5) * EVERY
        for part, colour, label in ((around.own, own, "own jumps"), (around.paired, other, "another seed's")):
            if len(part) and np.isfinite(part).any():
                means = [mean(values).asdict() for values in part.T]
                centre, low, high = (np.array([m[key] for m in means]) for key in ("value", "low", "high"))
                lower.plot(lags, centre, color=colour, label=label, linestyle="-" if colour == own else ":")
                lower.fill_between(lags, low, high, color=colour, alpha=0.2, linewidth=0)
        lower.axvline(0, color=plots.GREY, linewidth=0.8)
        lower.set(ylim=(0, None), xlabel="steps from a jump")
        values = [on_the_way(case, row) for row in range(len(case.D)) if len(case.times(row))]
        bins = np.linspace(0, 1, 51)
        for data, colour, label, style in (
            (case.D[:, -1].ravel(), "0.8", "at the end", "stepfilled"),
            (np.concatenate(values) if values else np.zeros(0), own, "before the last jump", "step"),
        ):
            if data.size:
                bottom.hist(data, bins, weights=np.full(data.size, 100 / data.size), color=colour, label=label,
                            histtype=style, linewidth=1.4)  # fmt: skip
        for level in LEVELS.values():
            bottom.axvline(level, color=plots.GREY, linestyle="--", linewidth=0.7, zorder=0)
        bottom.set(xlabel="dimensionality", yscale="log", ylim=(0.05, 100))
    labels = ("dimensionality D", "loss, in features", "fall of the loss,\nfeatures / 1000 steps", "share, %")
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    axes[0, 3].set_ylabel("cosine inside a set")
    for ax in axes[2:, 0]:
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=9)
    told = ", ".join(f"{100 * statistics[f'{name}_jumps_with_a_drop'].value:.0f}%" for name in TITLES)
    null = ", ".join(f"{100 * statistics[f'{name}_jumps_with_another_seeds_drop'].value:.0f}%" for name in TITLES)
    figure.suptitle(f"Jumps with a sudden drop of the loss: {told} (another seed's loss: {null})", fontsize=14)
    return figure


if __name__ == "__main__":
    report.experiment(main)
