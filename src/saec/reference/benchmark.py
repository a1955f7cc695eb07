"""Settings of one run of ``saec bench``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from saec.compression.budget import LossIncrease, Ratio
from saec.errors import DataError, OptionError, did_you_mean
from saec.reference.datasets import tasks
from saec.reference.job import Job
from saec.reference.methods import method_of
from saec.reference.models import MODELS
from saec.reference.training_settings import Training

__all__ = ["Benchmark"]


@dataclass(frozen=True)
class Benchmark:
    """A task, a model with its training, and the compressions to measure.

    For every seed, the log is split, a model trained on it, and its tables compressed by every
    method at every ratio. A method that has one size only ignores the ratios.

    Args:
        task: one of :func:`saec.reference.tasks`.
        path: its data; None for ``simulated``.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: width of the tables.
        training: how the model is trained.
        methods: keys of :data:`saec.reference.methods.METHODS`; with ``+finetune`` the compressed
            model is then trained on the predictions of the uncompressed one (distillation), with
            ``+unseen`` after that also on the labels of one half of the validation rows, while the
            other half chooses.
        ratios: compression ratios to aim at, each at least 1.
        loss_increases: increases of the log loss to aim at, in nats, by methods with a metric
            that keep ids; validation rows calibrate them.
        seeds: of the split, the model, its training and the clustering.
        names: keep the values that features stand for, which name them in pictures; of a log of
            millions of features that takes some 500 MB.
        keyed: ``axes`` gets raw keys in place of ids; validation and test rows ask for the keys
            that training never saw, too. Its ratios count 8 bytes for each key of the original.

    Raises:
        DataError: an unknown task or model.
        OptionError: no methods, ratios or seeds, or a negative seed.
    """

    task: str
    path: str | None = None
    model: str = "deepfm"
    dim: int = 16
    training: Training = field(default_factory=Training)
    methods: Sequence[str] = ("saec",)
    ratios: Sequence[float] = (10.0, 25.0, 50.0)
    loss_increases: Sequence[float] = ()
    seeds: Sequence[int] = (0, 1, 2)
    names: bool = False
    keyed: bool = False

    def __post_init__(self) -> None:
        if self.task not in tasks():
            raise DataError(
                f"no task {self.task!r}; there are {', '.join(tasks())}"
                f"{did_you_mean(self.task, tasks())}"
            )
        if self.model not in MODELS:
            raise DataError(
                f"no model is called {self.model!r}; there are {', '.join(sorted(MODELS))}"
                f"{did_you_mean(self.model, MODELS)}"
            )
        sizes = (*self.ratios, *self.loss_increases)
        for what, given in (("methods", self.methods), ("ratios", sizes), ("seeds", self.seeds)):
            if len(given) == 0:
                raise OptionError(f"bench needs {what}: none were given")
        if self.keyed and "axes" not in self.methods:
            raise OptionError("a keyed run needs the method axes")
        if min(self.seeds) < 0:
            raise OptionError(f"seed {min(self.seeds)}: seeds must not be negative")

    def jobs(self) -> list[Job]:
        """All compressions of a seed.

        Raises:
            OptionError: an unknown method, or only increases of the log loss for a method that
                cannot aim at them.
            BudgetError: a ratio below 1, or an increase that is not positive.
        """
        budgets: list[Ratio | LossIncrease] = [*map(Ratio, self.ratios)]
        budgets += map(LossIncrease, self.loss_increases)
        return [job for name in self.methods for job in _jobs_of(name, budgets)]

    def command(self) -> str:
        """The command line that measures the same."""
        words = ["saec", "bench", self.task]
        words += ["--path", self.path] if self.path is not None else []
        words += ["--model", self.model, "--dim", str(self.dim)]
        optimiser, price = self.training.optimiser, self.training.bit_price
        words += [] if optimiser == "row-adagrad" else ["--optimiser", optimiser]
        words += [] if price is None else ["--bit-price", f"{price:g}"]
        words += ["--methods", ",".join(self.methods)]
        words += ["--ratios", ",".join(f"{ratio:g}" for ratio in self.ratios)]
        if self.loss_increases:
            words += ["--loss-increases", ",".join(f"{value:g}" for value in self.loss_increases)]
        words += ["--seeds", ",".join(map(str, self.seeds))]
        words += ["--names"] if self.names else []
        words += ["--keyed"] if self.keyed else []
        return shlex.join(words)


def _jobs_of(name: str, budgets: Sequence[Ratio | LossIncrease]) -> list[Job]:
    method = method_of(name)
    if method.codec.has_one_size:
        return [Job(name, method, None)]
    in_nats = method.metric and not method.codec.renumbers
    met = [size for size in budgets if in_nats or isinstance(size, Ratio)]
    if not met:
        lack = "renumbers features" if method.metric else "has no loss metric"
        raise OptionError(f"method {name!r} {lack}: give it ratios")
    return [Job(name, method, budget) for budget in met]
