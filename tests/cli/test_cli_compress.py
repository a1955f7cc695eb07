"""``saec compress``, end to end on small files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import saec

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("checkpoint", "counts", "options", "names"),
    [
        ("user.npy", "counts.npy", [], ["user"]),
        ("both.npz", "counts.npz", [], ["user", "item"]),
        ("both.safetensors", "counts.npz", [], ["user", "item"]),
        ("model.pt", "counts.npz", ["--only", "user", "--only", "item"], ["user", "item"]),
        ("model.pt", "counts.npz", ["--only", "*er.weight"], ["user"]),
        ("both.npz", "counts.npy", ["--only", "user"], ["user"]),
        ("both*.npz", "counts.n?z", [], ["user", "item"]),
    ],
)
def test_compress_every_kind_of_checkpoint(
    folder: Path, run: Run, checkpoint: str, counts: str, options: list[str], names: list[str]
) -> None:
    code, out, err = run(
        *("compress", checkpoint, "--frequencies", counts, "--ratio", 4, "-o", "small.saec"),
        *options,
    )
    assert (code, err) == (0, "")
    result = saec.load("small.saec")
    assert sorted(result) == sorted(names)
    assert result.compression_ratio >= 4
    assert Path("small.saec").stat().st_size == result.nbytes
    lines = [line for line in out.splitlines() if " are left: " not in line]
    assert [line.split()[0] for line in lines[2:]] == [*result, "file", "wrote"]
    assert f"{result.compression_ratio:.1f}" == lines[-2].split()[-1]


def test_a_field_with_another_name_than_its_table(folder: Path, run: Run) -> None:
    np.savez("visitors.npz", visitor=np.load("counts.npy"))
    words = ("compress", "both.npz", "--frequencies", "visitors.npz", "--ratio", 4, "-q")
    named = ("--table", "visitor=user.weight", "--only", "visitor")
    assert run(*words, *named, "-o", "small.saec") == (0, "", "")
    assert list(saec.load("small.saec")) == ["visitor"]
    code, _, err = run(*words, "--table", "visitor", "-o", "small.saec")
    assert code == 2
    assert "--table visitor: give FIELD=NAME, like --table user=towers.0.user" in err


def test_compress_gives_what_the_library_gives(folder: Path, run: Run, artifact: Path) -> None:
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 4)
    run(*words, "--codec", "clusters", "-o", "small.saec")
    assert Path("small.saec").read_bytes() == artifact.read_bytes()


@pytest.mark.parametrize(
    ("budget", "limit"),
    [(["--max-bytes", "2.5kB"], 2500), (["--bits-per-feature", 20], 600 * 20 // 8)],
)
def test_compress_keeps_within_other_budgets(
    folder: Path, run: Run, budget: list[object], limit: int
) -> None:
    words = ("compress", "user.npy", "--frequencies", "counts.npy", "-o", "small.saec")
    assert run(*words, *budget, "--quiet") == (0, "", "")
    assert limit / 2 < Path("small.saec").stat().st_size <= limit


def test_compress_stores_the_codebook_in_the_requested_dtype(folder: Path, run: Run) -> None:
    words = ("compress", "user.npy", "--frequencies", "counts.npy", "--ratio", 4)
    clusters = ("--codec", "clusters", "--codebook", "float16")
    run(*words, *clusters, "-o", "small.saec", "--seed", 3)
    field = saec.load("small.saec")["user"]
    assert field.tensors["codebook"].dtype == np.float16


def test_a_compressed_state_dict_goes_into_its_model(folder: Path, run: Run) -> None:
    import saec.torch

    model = torch.nn.ModuleDict({"user": torch.nn.Embedding(600, 4)})
    torch.save(model.state_dict(), "embeddings.pt")
    words = ("compress", "embeddings.pt", "--frequencies", "counts.npy", "--ratio", 4)
    assert run(*words, "-o", "small.saec")[0] == 0
    result = saec.load("small.saec")
    saec.torch.replace_embeddings_(model, result)
    rows = model["user"](torch.arange(3)).detach().numpy()
    assert np.array_equal(rows, result["user"].lookup([0, 1, 2]))


def test_metrics_give_axes_and_a_prediction(folder: Path, run: Run) -> None:
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 8)
    code, out, err = run(*words, "--metrics", "metrics.safetensors", "-o", "small.saec")
    assert (code, err) == (0, "")
    result = saec.load("small.saec")
    assert {field.codec for field in result.values()} == {"axes"}
    assert result.compression_ratio >= 8
    loss = result.predicted_loss_increase
    assert out.splitlines()[-3] == f"predicted log-loss increase {loss:.2g} nats"
    fields = [
        saec.Field(name, np.load("both.npz")[name], np.load("counts.npz")[name])
        for name in ("user", "item")
    ]
    metrics = saec.load_metrics("metrics.safetensors")
    saec.compress(fields, saec.Ratio(8), metrics=metrics, progress=False).save("library.saec")
    assert Path("small.saec").read_bytes() == Path("library.saec").read_bytes()


@pytest.mark.parametrize("limit", [1e-4, 1e-3])
def test_compress_to_a_loss_increase(folder: Path, run: Run, limit: float) -> None:
    words = ("compress", "model.pt", "--only", "*er", "--only", "item", "--frequencies")
    budget = ("counts.npz", "--metrics", "metrics.safetensors", "--loss-increase", limit)
    code, out, err = run(*words, *budget, "-o", "small.saec")
    assert (code, err) == (0, "")
    assert out.endswith("wrote small.saec\n")
    loss = saec.load("small.saec").predicted_loss_increase
    assert loss is not None
    assert 0.8 * limit < loss <= 1.001 * limit


def test_only_leaves_metrics_out(folder: Path, run: Run) -> None:
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 4, "--only", "item")
    code, _, err = run(*words, "--metrics", "metrics.safetensors", "-o", "small.saec")
    assert (code, err) == (0, "")
    assert list(saec.load("small.saec")) == ["item"]


def test_a_nameless_table_takes_the_only_metric(folder: Path, run: Run) -> None:
    metric = saec.LossMetrics({"embeddings.user": np.eye(4)}, 10, {"embeddings.user": 0.5})
    saec.save_metrics(metric, "one.safetensors")
    words = ("compress", "user.npy", "--frequencies", "counts.npy", "--ratio", 4)
    assert run(*words, "--metrics", "one.safetensors", "-o", "small.saec", "-q") == (0, "", "")
    assert saec.load("small.saec")["user"].codec == "axes"


@pytest.mark.exhaustive
def test_codecs_by_name(folder: Path, run: Run) -> None:
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 4, "-o", "s.saec")
    for chosen in ((), ("--codec", "axes")):
        assert run(*words, *chosen, "-q") == (0, "", "")
        assert saec.load("s.saec")["user"].codec == "axes"
        assert saec.load("s.saec").predicted_loss_increase is None
    metrics = ("--metrics", "metrics.safetensors")
    assert run(*words, "--codec", "clusters", *metrics, "-q") == (0, "", "")
    assert saec.load("s.saec")["user"].codec == "clusters"
    assert saec.load("s.saec").predicted_loss_increase is not None


def test_several_budgets_share_a_measurement(folder: Path, run: Run) -> None:
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "-q")
    budgets = ("--ratio", 4, "--ratio", 6.5, "--max-bytes", "3kB")
    assert run(*words, *budgets, "-o", "several-{}.saec") == (0, "", "")
    for budget in (budgets[:2], budgets[2:4], budgets[4:]):
        assert run(*words, *budget, "-o", "alone-{}.saec") == (0, "", "")
        alone, several = (Path(f"{name}-{budget[1]}.saec") for name in ("alone", "several"))
        assert several.read_bytes() == alone.read_bytes()
    impossible = ("--ratio", 5, "--ratio", 900)
    code, _, err = run(*words, *impossible, "-o", "impossible-{}.saec")
    assert (code, "the smallest possible is" in err) == (2, True)
    assert not list(folder.glob("impossible-*"))


def test_several_budgets_report_each_file(folder: Path, run: Run) -> None:
    np.save("rising.npy", np.load("counts.npy")[::-1])
    words = ("compress", "user.npy", "--frequencies", "rising.npy", "--order", "frequency")
    code, out, err = run(*words, "--ratio", 4, "--ratio", 5, "-o", "{}.saec")
    assert (code, err) == (0, "")
    wrote = [line for line in out.splitlines() if line.startswith("wrote")]
    assert wrote == [f"wrote {n}.saec and {n}.saec.permutation.safetensors" for n in (4, 5)]


def test_renumbering_writes_the_permutation(folder: Path, run: Run) -> None:
    mixed = np.random.default_rng(0).permutation(np.load("counts.npy"))
    np.savez("mixed.npz", user=mixed, item=np.load("counts.npz")["item"])
    words = ("compress", "both.npz", "--frequencies", "mixed.npz", "--ratio", 8)
    renumbered = ("--metrics", "metrics.safetensors", "--order", "frequency", "-o", "small.saec")
    code, out, err = run(*words, *renumbered)
    assert (code, err) == (0, "")
    assert out.endswith("wrote small.saec and small.saec.permutation.safetensors\n")
    old = safetensors.numpy.load_file("small.saec.permutation.safetensors")
    assert {name: ids.dtype for name, ids in old.items()} == {"user": np.int64, "item": np.int64}
    np.testing.assert_array_equal(old["item"], np.arange(300))  # in order already
    assert np.all(np.diff(mixed[old["user"]]) <= 0)
    table, user = np.load("user.npy"), saec.load("small.saec")["user"]
    # Frequent rows, which the metric's first axes matter to, are nearly exact in their new places.
    near = np.abs(user.lookup(np.arange(20)) - table[old["user"][:20]])[:, 0]
    assert near.max() < 0.2 < np.abs(user.lookup(np.arange(20)) - table[:20])[:, 0].max()


def test_similar_rows_are_neighbours(folder: Path, run: Run) -> None:
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 20)
    options = ("--metrics", "metrics.safetensors", "--order", "code", "-o", "small.saec")
    code, out, err = run(*words, *options)
    assert (code, err) == (0, "")
    assert out.endswith("wrote small.saec and small.saec.permutation.safetensors\n")
    old = safetensors.numpy.load_file("small.saec.permutation.safetensors")["user"]
    user = saec.load("small.saec")["user"]
    assert user.layout.any_ordered
    assert np.array_equal(np.sort(old), np.arange(user.vocab_size))
    table = np.load("user.npy")
    near, far = (np.abs(user.decode() - rows)[:, 0].mean() for rows in (table[old], table))
    assert near < 0.3 * far
    assert "o" in "".join(user.layout.texts)
    assert user.layout.texts[-1] in run("info", "small.saec")[1]


def test_a_field_that_no_example_used_is_a_line_on_stderr(folder: Path, run: Run) -> None:
    matrices = {"user": np.eye(4), "item": np.zeros((4, 4))}
    metrics = saec.LossMetrics(matrices, 10, {"user": 0.1, "item": np.inf})
    saec.save_metrics(metrics, "zero.safetensors")
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 4, "-o", "s.saec")
    code, _, err = run(*words, "--metrics", "zero.safetensors")
    assert code == 0
    assert err.startswith("saec: warning: field 'item': the metric is all zero")
    assert err.count("\n") == 1
    assert run(*words, "--metrics", "zero.safetensors", "--quiet") == (0, "", "")


def test_what_is_left_of_a_budget_is_reported() -> None:
    from saec import Clusters, Field, MaxBytes, compress
    from saec.cli.compress import _left

    rows = np.tile(np.eye(4, dtype=np.float32), (100, 1))
    result = compress([Field("a", rows, np.ones(400))], MaxBytes(5000), Clusters(), progress=False)
    assert _left(result, MaxBytes(result.nbytes + 10)) == ""
    assert "are left: no larger choice that fits loses less" in _left(result, MaxBytes(5000))
