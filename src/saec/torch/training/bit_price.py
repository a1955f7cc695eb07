"""A price on the bits of tables, paid while a model is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from saec.compression.budget import SizeBudget
from saec.compression.plan import check_request
from saec.errors import DataError, ModuleError, ModuleWarning
from saec.torch.model.call import Batches, Loss
from saec.torch.model.find_tables import Ranges
from saec.torch.training.charged_loss import ChargedLoss
from saec.torch.training.noisy_lookups import NoisyLookups
from saec.torch.training.price_search import PriceTrial, TrialScores, search
from saec.torch.training.price_settings import PriceSettings, check_positive
from saec.torch.training.running_mean import RunningMean
from saec.torch.training.surviving_bits import TableBits
from saec.torch.training.trainable_tables import trainable_tables

__all__ = ["BitPrice"]


class BitPrice:
    """Trains a model whose tables will be compressed: bits of the tables cost loss.

    So a model learns less by heart, and learns to work with inexact rows:

    * Normal noise is added to each row that is looked up, in training mode with gradients enabled.
      What gets through is at most R = sum_f n_f 1/2 log2 det(I + C_f / noise^2) bits, for fields
      of n_f rows with covariance C_f (the capacity of a Gaussian channel; Cover and Thomas,
      Elements of Information Theory, section 9.4). The rows of a batch give C_f; each lookup
      weighs 1 / frequency, so that each row of the table counts once.
    * :meth:`cost` is what is added to the batch's loss: ``price`` times R, and the decay of rows.
    * The running mean of all trained parameters is kept; :meth:`finish` puts it into the model.

    In a loop::

        price = saec.torch.BitPrice(model, 1.6e-7, frequencies)
        for inputs, labels in batches:
            loss = loss_fn(model(inputs), labels) + price.cost()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            price.step()
        price.finish()

    Trainers of other libraries take a :meth:`charged` loss, and :meth:`follow` replaces
    :meth:`step`. A ``with`` block ends with :meth:`finish`, or :meth:`remove` after an error.

    Args:
        model: holds ``nn.Embedding`` or ``nn.EmbeddingBag`` modules, with sparse or dense
            gradients; not wrapped or compiled.
        price: nats of the mean loss per example that a bit of the tables costs. If it is too high,
            the model loses little by compression but is worse from the start.
        frequencies: (vocab_size,) lookups of each feature in an epoch of training, by field name;
            see :func:`saec.torch.fields`. Tables that are not named are trained as usual.
        noise: standard deviation of the noise on each number of a row. Logs of mostly rare features
            need other values than the defaults of this and the next two, see docs/bit_price.md.
        row_decay: weight of a row's squared length divided by its frequency. Each row pays it once
            in an epoch, so that rare rows, whose few examples say little, stay short.
        half_life: of the weights of the running mean, in epochs.
        ranges: fields of joint tables; see :func:`saec.torch.fields`.
        seed: of the noise. In distributed training each rank needs its own.

    Raises:
        OptionError: ``price``, ``noise`` or ``half_life`` is not positive, ``row_decay`` negative,
            or one of them not finite; or the seed is no whole number of 0 or more.
        ModuleError: a table is frozen, compressed already, or shares its weight with an output
            layer, which would read rows without noise; a name is unknown; or see
            :func:`saec.torch.fields`.
        FieldError: frequencies do not fit their table, or are invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        price: float,
        frequencies: Mapping[str, ArrayLike],
        *,
        noise: float = 0.06,
        row_decay: float = 5.0,
        half_life: float = 0.25,
        ranges: Ranges | None = None,
        seed: int = 0,
    ) -> None:
        self.price = price
        self._settings = PriceSettings(noise, row_decay, half_life)
        check_request(None, seed)
        tables, fields = trainable_tables(model, frequencies, ranges)
        self.trials: tuple[PriceTrial, ...] = ()
        self._model = model
        self._table_bits = TableBits(tables, fields)
        self._not_called = {table.path for table in tables}
        self._mean = RunningMean(model, half_life)
        self._bits: Tensor | None = None  # of the last batch
        self._epochs = 0.0  # since the last step
        self._ended = False
        self._handles: list[RemovableHandle] = []
        self._noise = NoisyLookups(tables, noise, seed)

    @classmethod
    def for_ratio(
        cls,
        model: nn.Module,
        ratio: float | SizeBudget,
        frequencies: Mapping[str, ArrayLike],
        train: Callable[[nn.Module, BitPrice], object],
        batches: Batches,
        validation: Batches,
        loss_fn: Loss | None = None,
        *,
        start: float | None = None,
        ranges: Ranges | None = None,
        seed: int = 0,
        progress: bool = True,
        **settings: float,
    ) -> Self:
        """Find the price for a compression ratio by trials, and start with it.

        For each price that is tried, a copy of the model is trained by ``train``, compressed to
        the ratio, and scored on ``validation``. The search moves from ``start`` in steps of a
        factor of 4 to the lowest loss, then tries half and double that price: usually five trials
        in all, which the attribute ``trials`` lists. They may train on a sample of the rows, on
        which the best price is higher: on a quarter of ``ml-1m`` two to three times.

        Args:
            model: as for the class, before its training; it is not changed.
            ratio: compression ratio of the tables, or a size, such as :class:`saec.MaxBytes`.
            frequencies: see the class; counts in the rows on which ``train`` trains.
            train: trains its first argument under its second one, by :meth:`cost` and
                :meth:`step`; it may, but need not, call :meth:`finish`.
            batches: (inputs, labels) pairs for the loss metric; see :func:`saec.torch.compress_`.
            validation: labelled batches of rows on which ``train`` does not train, for more than
                one iteration; they choose the price.
            loss_fn: mean loss of the model's outputs and labels; None for the log loss of logits.
            start: the first price; None for ln 2 / (8 N) for the largest sum N of a field's
                frequencies. (Descriptions of N labels get no shorter by bits worth ln 2 / N.)
            ranges: see the class.
            seed: of the noise and of compression.
            progress: show progress bars on stderr for work over two seconds.
            settings: ``noise``, ``row_decay`` and ``half_life``; see the class.

        Raises:
            BudgetError: the ratio is below 1, or cannot be reached.
            DataError: batches are an iterator, there are none for validation, labels do not fit
                the loss, or every trial ended with a loss that is not finite.
            OptionError, ModuleError, FieldError: see the class.
        """
        own: Any = {"ranges": ranges, "seed": seed, **settings}
        scored = TrialScores(
            ratio, frequencies, batches, validation, loss_fn, ranges, seed, progress
        )
        trials = search(
            lambda price: scored.loss(model, partial(cls, price=price, **own), train),
            scored.default_price() if start is None else start,
        )
        best = min(trials, key=lambda trial: trial.loss)
        result = cls(model, best.price, frequencies, **own)
        result.trials = trials
        return result

    @property
    def price(self) -> float:
        """Nats per bit; it may be changed between steps."""
        return self._price

    @price.setter
    def price(self, value: float) -> None:
        check_positive("price", value)
        self._price = float(value)

    @property
    def bits(self) -> float:
        """R by the last batch that :meth:`cost` charged; before, a ModuleError."""
        if self._bits is None:
            raise ModuleError("bits are known after the first cost()")
        return float(self._bits)

    def cost(self, examples: int | None = None) -> Tensor:
        """Nats to add to the mean loss of the batch whose forward pass came last; a scalar.

        Args:
            examples: number of examples in the batch; if None, the smallest length of the ids that
                tables were looked up with (of their first dimension, or bags).

        Raises:
            ModuleError: there was no forward pass in training mode, or it has been charged.
            DataError: the frequencies of a field sum to less than its lookups in the batch; or
                ``examples`` is below 1.
        """
        self._check_active()
        if examples is not None and examples < 1:
            raise DataError(f"a batch cannot have {examples} examples")
        lookups = self._noise.taken()
        if not lookups:
            raise ModuleError(
                "no lookup to charge: call cost() once after each forward pass of the model, in "
                "training mode and with gradients"
            )
        self._not_called -= {lookup.table.path for lookup in lookups}
        batch = self._table_bits.of(lookups, self._noise.deviation)
        self._bits = batch.bits.detach()
        self._epochs += batch.epochs
        decay = self._settings.row_decay / (batch.examples if examples is None else examples)
        return self._price * batch.bits + decay * batch.lengths

    def charged(self, loss_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """``loss_fn`` plus :meth:`cost`, for trainers that take a loss function.

        With the argument ``reduction="sum"`` the cost is multiplied by the number of outputs. In
        evaluation mode, or without gradients, the result is that of ``loss_fn``.
        """

        return ChargedLoss(self._model, loss_fn, self.cost)

    def step(self) -> None:
        """Update the running mean; call it after each step of the optimizers.

        Raises:
            ModuleError: the lookups of the step were not charged by :meth:`cost`.
        """
        self._check_active()
        if self._noise.lookups:
            raise ModuleError(
                "the rows of this step were not charged: add cost() to the loss before backward()"
            )
        self._mean.step(self._epochs)
        self._epochs = 0.0

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Call :meth:`step` after each step of ``optimizer``, the last one if there are several."""
        self._check_active()
        self._handles.append(optimizer.register_step_post_hook(lambda *_: self.step()))

    def averaged(self) -> AbstractContextManager[None]:
        """Put the running mean into the model meanwhile, for validation.

        To keep the best of several states, copy ``model.state_dict()`` meanwhile; in the end call
        :meth:`remove` and load the best one.
        """
        self._check_active()
        return self._mean.held()

    def finish(self) -> None:
        """Put the running mean into the model and take the hooks off.

        The model is then ready for :func:`saec.torch.compress_`. A :class:`saec.ModuleWarning`
        names tables that were never called in training.
        """
        if self._ended:
            return
        self._mean.put()
        for path in sorted(self._not_called) if self._bits is not None else ():
            message = f"embedding {path!r} was trained without a price: no training step called it"
            warnings.warn(message, ModuleWarning, stacklevel=2)
        self.remove()

    def remove(self) -> None:
        """Take the hooks off, and leave the model's parameters as they are."""
        self._ended = True
        self._noise.remove()
        while self._handles:
            self._handles.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """What continues an interrupted training."""
        own = {"price": self._price, "epochs": self._epochs, "noise": self._noise.state()}
        return own | self._mean.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the ``state_dict`` of a price on the same model.

        Raises:
            DataError: it belongs to another model.
        """
        self._mean.set_state(state)
        self.price, self._epochs = state["price"], float(state["epochs"])
        self._noise.set_state(state["noise"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self.remove() if error is not None else self.finish()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_handles": []}  # without optimizers that are followed

    def _check_active(self) -> None:
        if self._ended:
            raise ModuleError("this BitPrice has ended; make another one to train again")
