"""DQRM trained by two processes: what rows of int8 gradients cost, and what they save.

    python benchmarks/dqrm_gradients.py ml-1m --path movielens_1m.parquet \\
        --runs benchmarks/recorded/dqrm_gradients.jsonl

Each process takes half of every batch. Of the tables' gradients, the rows that were looked up are
exchanged, as float32 or as int8 with error compensation; gradients of the network are always
float32. Prints AUC and log loss on test rows after the last epoch, the bytes of tables' gradients
that a process sends to the other in a step, and those of whole float32 tables.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recorded_runs import RecordedRuns
from torch import nn

from saec.reference import load
from saec.reference.evaluate import evaluate
from saec.reference.machine import machine
from saec.reference.models import ClickModel, build
from saec.reference.row_adagrad import RowAdagrad
from saec.reference.small.dqrm import Dqrm
from saec.reference.small.row_gradients import RowGradients
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training
from saec.reference.training_steps import INITIAL_ACCUMULATOR

PROCESSES = 2
MODES = ("rows", "int8-rows")


@dataclass(frozen=True, eq=False)
class SharedTraining:
    """A training by several processes, for a number of epochs.

    Args:
        small: the log and the model.
        mode: one of :data:`MODES`.
        epochs: passes over the training rows.
        settings: batch size, for all processes together, and learning rates.
    """

    small: SmallTraining
    mode: str
    epochs: int
    settings: Training

    def model(self) -> ClickModel:
        """Untrained; the same in all processes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.small.seed)
            tables = Dqrm().build(self.small.fields, self.small.dim, 0)
        net = build(self.small.model, self.small.log.vocab_sizes, self.small.dim, self.small.seed)
        net.embeddings = tables  # type: ignore[assignment]  # called in the same way
        return net

    def run(self, rank: int) -> dict[str, Any]:
        """Train in the process ``rank`` of the default group, and measure."""
        net, log = self.model(), self.small.log
        tables = net.embeddings.row_parameters()  # type: ignore[operator]
        known = {id(table) for table in tables}
        network = [one for one in net.parameters() if id(one) not in known]
        rate, decay = self.settings.of_tables(log.name)
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(network, lr=self.settings.learning_rate),
            RowAdagrad(tables, rate, INITIAL_ACCUMULATOR),
        ]
        exchange = RowGradients(tables, rounded=self.mode == "int8-rows")
        steps = 0
        rng = np.random.default_rng(self.small.seed)
        for _ in range(self.epochs):
            order = rng.permutation(log.rows("train"))
            for first in range(0, len(order), self.settings.batch_size):
                batch = order[first : first + self.settings.batch_size]
                if len(batch) < PROCESSES:
                    continue
                own = np.array_split(batch, PROCESSES)[rank]
                _loss(net, log.ids[own], log.labels[own], decay).backward()  # type: ignore[no-untyped-call]
                exchange.exchange()
                _average(network)
                for optimiser in optimisers:
                    optimiser.step()
                    optimiser.zero_grad()
                steps += 1
        score = evaluate(net, log, "test", progress=False)
        return {
            "auc": score.auc,
            "logloss": score.logloss,
            "bytes_a_step": exchange.sent / steps,
            "table_bytes": sum(4 * table.numel() for table in tables),
            "steps": steps,
        }


def _loss(net: ClickModel, ids: Any, labels: Any, decay: float) -> torch.Tensor:
    vectors = net.embed(torch.from_numpy(ids))
    logits = net.interact(vectors)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels))
    return loss + decay * vectors.square().sum() / len(vectors)


def _average(network: list[nn.Parameter]) -> None:
    """Means of dense gradients over processes."""
    flat = torch.cat([one.grad.flatten() for one in network if one.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    first = 0
    for one in network:
        if one.grad is not None:
            one.grad.copy_(flat[first : first + one.grad.numel()].view_as(one.grad))
            first += one.grad.numel()


def _process(training: SharedTraining, rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=600),
    )
    torch.set_num_threads(1)
    with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
        torch.save(training.run(rank), f"{folder}/{rank}")
    dist.destroy_process_group()


def shared(training: SharedTraining) -> list[dict[str, Any]]:
    """What each process measured.

    Raises:
        RuntimeError: one failed.
    """
    importlib.import_module("sklearn.metrics")  # once, in place of in each process
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            fork.Process(target=_process, args=(training, rank, folder))
            for rank in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process of the training failed; see its traceback above")
        return [torch.load(Path(folder) / str(rank)) for rank in range(PROCESSES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--path", help="the task's data")
    parser.add_argument("--runs", type=Path, default=Path("dqrm_gradients.jsonl"))
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs, where = RecordedRuns(options.runs), machine()
    small: SmallTraining | None = None
    for mode in options.modes:
        key = {"task": options.task, "seed": options.seed, "mode": mode, "epochs": options.epochs}
        if not runs.hold(key):
            if small is None:
                log = load(options.task, options.path, options.seed, keys=True)
                small = SmallTraining.of(log, "deepfm", 16, options.seed)
            found = shared(SharedTraining(small, mode, options.epochs, Training()))[0]
            runs.add({**key, **found, "cpu": where["cpu"], "date": machine()["date"]})
    for line in runs.lines():
        print(line)


if __name__ == "__main__":
    main()
