"""What slopes on unseen rows gain: tables with and without them, at the same sizes.

    python benchmarks/slopes.py globo globo.parquet --ratios 100,300 --seeds 3,4,5
    python benchmarks/slopes.py globo globo.parquet --keyed --ratios 35,160 --seeds 3
    python benchmarks/slopes.py ml-1m movielens_1m.parquet --codec clusters --ratios 25,55 --seeds 3
    python benchmarks/slopes.py globo globo.parquet --optimiser adam --ratios 100 --seeds 0
    python benchmarks/slopes.py globo globo.parquet --cost

Trains a model as ``saec bench`` does. Slopes come from the validation rows; changes of AUC and log
loss on test rows are the answer, those on validation rows are too good with slopes. Every result is
a line of benchmarks/recorded/slopes.jsonl, and is not repeated when the same command starts again.
In the end all lines of the task are shown, with the forecast beside the increase on test rows, and
how far forecasts are off: of the plan, and of the coded tables by the validation rows, as
``saec.torch.compress_`` makes it. The increase itself is known to its standard error only, so
forecasts are also judged where this is at most a tenth of the increase, and beside the median error
that a perfect forecast would have; with slopes also beside that of one whose first-order part is
known from as many labels as there are validation rows. The increase is the divergence KL(p || p')
of the predictions, which is forecast to second order, and a first-order part. ``--cost`` compares
the pass over unseen rows with that over the metric's own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recorded_runs import RecordedRuns
from torch.nn.functional import binary_cross_entropy_with_logits

from saec import Axes, Clusters, LossMetrics, Ratio, compress, measure
from saec.codecs.protocol import expected_loss
from saec.reference.batches import Batches
from saec.reference.datasets import load
from saec.reference.machine import machine
from saec.reference.models import build
from saec.reference.training_settings import OPTIMISERS, Training
from saec.reference.trial import METRIC_ROWS, Trial
from saec.tables.unseen_gradients import UnseenGradients
from saec.torch import loss_metrics

RECORDED = RecordedRuns(Path(__file__).parent / "recorded" / "slopes.jsonl")
TABLES = "embeddings."
LATER = {
    "ml-1m": {"deepfm": 7, "dlrm": 3, "dcnv2": 2, "wide_deep": 2},
    "globo": {"deepfm": 6},
    "ml-1m-x": {"deepfm": 4},
}
_OF_NOISE = 0.6745  # median absolute error of a normal distribution, of its standard deviation
_TEST_ROWS = 2.5  # for each validation row: 20 and 8 % of all


def lines_of(trial: Trial, key: dict[str, Any], left: list[dict[str, Any]]) -> None:
    """Record the results that are ``left`` of a trained model."""
    base = trial.scores(trial.base)
    sloped, _ = trial.metrics
    known = (dict(sloped), sloped.examples, sloped.relative_errors)
    plain = LossMetrics(*known, unknown=sloped.unknown)
    tables = trial.keys.fields(trial.tables(), TABLES) if key["keyed"] else trial.tables()
    codec = Clusters() if key["codec"] == "clusters" else Axes(order=key["order"])
    for slopes, metrics in ((False, plain), (True, sloped)):
        ratios = [one["asked"] for one in left if one["slopes"] == slopes]
        start = time.perf_counter()
        measured = measure(tables, codec, metrics=metrics, progress=False) if ratios else None
        seconds = round(time.perf_counter() - start, 1)
        for ratio in ratios:
            result = compress(measured, Ratio(ratio), progress=False)
            chosen = measured.chosen(Ratio(ratio))
            with trial.holding(result):
                now = trial.probabilities()
            scores, labels = trial.scores(now), trial.log.labels[trial.log.rows("test")]
            grown = losses(now["test"], labels) - losses(trial.base["test"], labels)
            divergence = kl(trial.base["test"], now["test"])
            line = {
                **key,
                "slopes": slopes,
                "asked": ratio,
                "ratio": result.compression_ratio,
                "expected": result.predicted_loss_increase,
                "test error": float(grown.std() / len(grown) ** 0.5),
                "second order": sum(option.second_order for option in chosen),
                "test divergence": float(divergence.mean()),
                "validation divergence": float(
                    kl(trial.base["validation"], now["validation"]).mean()
                ),
                "first order": sum(option.first_order for option in chosen),
                "first order error": sum(option.error**2 for option in chosen) ** 0.5,
                "test first order": float((grown - divergence).mean()),
                "seconds": seconds,
                "shares": {name: own.value for name, own in result.slope_shares.items()},
            }
            for part, score in scores.items():
                line[f"{part} auc"] = score.auc - base[part].auc
                line[f"{part} loss"] = score.logloss - base[part].logloss
            RECORDED.add({**line, "machine": machine()})
            print(shown(line), flush=True)


def losses(probabilities: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """The log loss (n,) of each row, expected if labels are probabilities."""
    p = probabilities.astype(np.float64).clip(1e-7, 1 - 1e-7)
    return -labels * np.log(p) - (1 - labels) * np.log1p(-p)


def kl(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """KL(p || p') of each row (n,): the increase of its loss if ``before`` were right."""
    right = before.astype(np.float64)
    return losses(after, right) - losses(before, right)


def shown(line: dict[str, Any]) -> str:
    """A result in one line of text."""
    name = "slopes" if line["slopes"] else "plain"
    kind = "keyed " * line["keyed"] + line["codec"]
    changes = "  ".join(
        f"{part} {line[f'{part} auc']:+.5f} {line[f'{part} loss']:+.6f}"
        + (f" ± {line['test error']:.6f}" if part == "test" else "")
        for part in ("test", "validation")
    )
    return (
        f"{line['task']} {line['model']} {line['seed']} {kind} {name:6} ratio {line['ratio']:.1f}  "
        f"{changes}  expected {line['expected']:+.6f}: second order {line['second order']:.6f} "
        f"(divergence {line['test divergence']:.6f}), first {line['first order']:+.6f} "
        f"({line['test first order']:+.6f})"
    )


def forecasts(lines: list[dict[str, Any]]) -> str:
    """How far forecasts are off where the test rows lose 1e-5 to 2e-2."""
    judged = [line for line in lines if 1e-5 <= line["test loss"] <= 2e-2]
    text = [accuracy("plain, planned", [one for one in judged if not one["slopes"]], planned)]
    sloped = [line for line in judged if line["slopes"]]
    earlier, later = ([line for line in sloped if is_later(line) == own] for own in (False, True))
    for where, chosen in (("", sloped), (", earlier models", earlier), (", later models", later)):
        text += [
            accuracy(f"slopes, {name}{where}", chosen, forecast)
            for name, forecast in (
                ("planned", planned),
                ("coded", by_unseen_rows),
                ("by labels of validation rows alone", by_labels),
            )
        ]
    return "\n".join(filter(None, text))


def is_later(line: dict[str, Any]) -> bool:
    """Whether a model was first trained after the rule of coded tables had been written."""
    return line["seed"] >= LATER.get(line["task"], {}).get(line["model"], 0)


def planned(line: dict[str, Any]) -> float:
    """The forecast before coding."""
    return float(line["expected"])


def by_unseen_rows(line: dict[str, Any]) -> float:
    """What ``compress_`` predicts of coded tables, by the rows that gave the slopes."""
    divergence, shown = parts_shown(line)
    return expected_loss(divergence, (shown + line["first order"]) / 2)


def by_labels(line: dict[str, Any]) -> float:
    """What the same rows lose, or a tenth of the divergence."""
    return expected_loss(*parts_shown(line))


def parts_shown(line: dict[str, Any]) -> tuple[float, float]:
    """Divergence and first-order part on validation rows. The divergence, which needs no labels,
    is that of test rows in lines that were recorded without."""
    divergence = line.get("validation divergence", line["test divergence"])
    return divergence, line["validation loss"] - divergence


def accuracy(
    name: str, lines: list[dict[str, Any]], forecast: Callable[[dict[str, Any]], float]
) -> str:
    """How far the forecasts of ``lines`` are off."""
    if not lines:
        return ""
    ratios = [forecast(line) / line["test loss"] for line in lines]
    noise = [line["test error"] / line["test loss"] for line in lines]
    errors = [abs(ratio - 1) for ratio in ratios]
    labels = (1 + _TEST_ROWS * lines[0]["slopes"]) ** 0.5  # noise of those of both parts
    units = [error / labels / own for error, own in zip(errors, noise, strict=True)]
    known = [error for error, own in zip(errors, noise, strict=True) if own <= 0.1]
    within = sum(1 / 3 <= ratio <= 3 for ratio in ratios)
    return (
        f"{name}: median error {median(errors):.0%} of {len(errors)}, "
        f"{_OF_NOISE * median(noise):.0%} by noise of test labels alone"
        + f", {_OF_NOISE * labels * median(noise):.0%} with that of validation labels"
        * lines[0]["slopes"]
        + f" (root mean square {mean(unit**2 for unit in units) ** 0.5:.1f} of it), "
        f"{within} within a factor of 3"
        + (f"; {median(known):.0%} of {len(known)} well known" if known else "")
    )


def biases(lines: list[dict[str, Any]]) -> str:
    """Mean errors of the parts of a forecast, in nats. The first-order part on validation rows is
    taken with the divergence of test rows."""
    text = []
    for slopes in (False, True):
        own = [line for line in lines if line["slopes"] == slopes]
        if own:
            second = mean(line["second order"] - line["test divergence"] for line in own)
            first = mean(line["first order"] - line["test first order"] for line in own)
            seen = mean(
                line["validation loss"] - line["test divergence"] - line["test first order"]
                for line in own
            )
            text.append(
                f"{'slopes' if slopes else 'plain'}: second order {second:+.1e}, "
                + f"first order {first:+.1e}, " * slopes
                + f"first order on validation rows {seen:+.1e}"
            )
    return "against test rows, mean of each\n" + "\n".join(text)


def asked(options: argparse.Namespace, key: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What identifies each result that is wanted of a model."""
    for slopes in (False, True):
        for ratio in options.ratios.split(","):
            yield {**key, "slopes": slopes, "asked": float(ratio)}


def cost(options: argparse.Namespace) -> str:
    """Seconds and bytes of the pass over unseen rows and of the metric's own, in turn; for an
    untrained model, whose passes take as long."""
    log = load(options.task, options.path, 0)
    model = build(options.model, log.vocab_sizes, 16, 0)
    chosen = [log.rows(part)[:METRIC_ROWS] for part in ("train", "validation")]
    rows, unseen = (Batches(log, each) for each in chosen)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(5):
        for place, other in enumerate((None, unseen)):
            start = time.process_time()
            found = loss_metrics(
                model,
                rows,
                binary_cross_entropy_with_logits,
                examples=METRIC_ROWS,
                tolerance=1e-9,  # so that it does not stop earlier
                unseen=other,
                progress=False,
            )
            taken[place].append(time.process_time() - start)
    own, both = (median(times[1:]) for times in taken)
    each = [
        1e6 * seconds / len(part) for seconds, part in zip((own, both - own), chosen, strict=True)
    ]
    nbytes = sum(map(bytes_of, found.unseen.values()))
    values = sum(map(seen_values, found.unseen.values()))
    return (
        f"{options.task}: {each[0]:.1f} us a row for the metric, {each[1]:.1f} us an unseen row, "
        f"{each[1] / each[0]:.2f} times; {nbytes / 1e6:.1f} MB, "
        f"{nbytes / values:.1f} bytes a seen row and dimension"
    )


def bytes_of(unseen: UnseenGradients) -> int:
    return sum(half.ids.nbytes + half.sums.nbytes for half in unseen.halves)


def seen_values(unseen: UnseenGradients) -> int:
    """Rows that either half has seen, times their width."""
    one, other = unseen.halves
    return len(np.union1d(one.ids, other.ids)) * one.sums.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("path", type=Path)
    parser.add_argument("--ratios", default="100,300")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--optimiser", default="row-adagrad", choices=OPTIMISERS, help="of tables")
    parser.add_argument("--codec", default="axes", choices=("axes", "clusters"))
    parser.add_argument("--order", default="frequency", help="of ids, as of saec.Axes")
    parser.add_argument("--keyed", action="store_true", help="keys in place of ids")
    parser.add_argument("--cost", action="store_true", help="measure the passes instead")
    options = parser.parse_args()
    if options.cost:
        print(cost(options))
        return
    for seed in map(int, options.seeds.split(",")):
        names = ("task", "model", "optimiser", "codec", "order", "keyed")
        key = {"seed": seed, **{name: getattr(options, name) for name in names}}
        left = [one for one in asked(options, key) if not RECORDED.hold(one)]
        if left:
            log = load(options.task, options.path, seed, vocabularies=False, keys=options.keyed)
            training = Training(optimiser=options.optimiser)
            trial = Trial.start(log, options.model, 16, seed, False, training)
            lines_of(trial, key, left)
    every = [line for line in RECORDED.lines() if options.optimiser == line["optimiser"]]
    lines = [line for line in every if line["task"] == options.task]
    print("\n".join(map(shown, lines)))
    print(forecasts(lines))
    print(biases(lines))
    print(f"all tasks\n{forecasts(every)}")


if __name__ == "__main__":
    main()
