"""Models in wrappers that keep the old parameters are refused; errors name what to pass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import saec
from saec.errors import ModuleError
from saec.torch import (
    compress_,
    decode_embeddings_,
    fields,
    finetune,
    forecast,
    loss_metrics,
    measure_loss_increase,
    replace_embeddings_,
    sync_codebooks_,
)

Make = Callable[..., Any]
DDP = r"DistributedDataParallel, which exchanges .*pass its \.module, .*on every rank.*wrap"
FSDP = r"which holds shards of the tables: pass the plain model.* shard it afterwards"


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    patch = pytest.MonkeyPatch()
    if sys.platform == "linux":
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
    patch.undo()


def in_ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fully_sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "ddp": (in_ddp, DDP),
    "fully_shard": (fully_sharded, f"FSDPModule, {FSDP}"),
    "data parallel": (nn.DataParallel, r"DataParallel, which copies its module: pass its \.module"),
    "compiled": (
        lambda model: torch.compile(model, backend="eager"),
        r"OptimizedModule, which is compiled, .*pass its \._orig_mod, and call torch\.compile aft",
    ),
    "compiled in place": (compiled_in_place, r"was compiled by its \.compile\(\).*compile it aft"),
}


def entries(model: nn.Module, result: saec.Compressed, rows: Any) -> dict[str, Callable[[], Any]]:
    budget = saec.Ratio(2)
    return {
        "compress_": lambda: compress_(model, rows, budget=budget, progress=False),
        "fields": lambda: fields(model, {}),
        "loss_metrics": lambda: loss_metrics(model, rows, progress=False),
        "replace": lambda: replace_embeddings_(model, result),
        "decode": lambda: decode_embeddings_(model),
        "measure_loss_increase": lambda: measure_loss_increase(model, result, rows, labelled=False),
        "forecast": lambda: forecast(model, rows, calibration=rows, progress=False),
    }


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_entry_refuses_wrapped_models(
    click_model: Make, click_inputs: Make, click_result: Make, name: str
) -> None:
    wrap, message = WRAPPERS[name]
    model = click_model()
    kinds = [type(module) for module in model.modules()]
    wrapped = wrap(model)
    rows = [(click_inputs(), torch.zeros(len(click_inputs()[0])))]
    for entry in entries(wrapped, click_result(), rows).values():
        with pytest.raises(ModuleError, match=f"the model (is in )?{message}"):
            entry()
    with pytest.raises(ModuleError, match=f"module 'inside' (is in )?{message}"):
        fields(nn.ModuleDict({"inside": wrapped}), {})
    if name != "fully_shard":  # which changes classes itself
        assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("name", ["ddp", "data parallel", "compiled", "compiled in place"])
def test_fine_tuning_refuses_wrapped_models(
    click_model: Make, click_inputs: Make, click_result: Make, name: str
) -> None:
    wrap, message = WRAPPERS[name]
    model = replace_embeddings_(click_model(), click_result())
    rows = [(click_inputs(), torch.zeros(len(click_inputs()[0])))]
    with pytest.raises(ModuleError, match=message):
        finetune(wrap(model), rows, validation=rows, loss_fn=nn.BCEWithLogitsLoss(), progress=False)


def test_a_model_that_was_sharded_after_compression_is_not_synced(
    click_model: Make, click_result: Make
) -> None:
    model = fully_sharded(replace_embeddings_(click_model(), click_result()))
    with pytest.raises(ModuleError, match=FSDP):
        sync_codebooks_(model, click_result())


def test_wrapped_after_compression(
    click_model: Make, click_inputs: Make, click_result: Make
) -> None:
    model = replace_embeddings_(click_model(), click_result()).eval()
    wrapped = in_ddp(model)
    assert torch.equal(wrapped(*click_inputs()), model(*click_inputs()))
    result = sync_codebooks_(wrapped, click_result())
    assert set(result) == {"user", "tags"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_layers_without_tables_may_be_wrapped(click_model: Make, click_result: Make) -> None:
    model = click_model()
    model.hidden = in_ddp(model.hidden)
    model.out = torch.jit.script(model.out)
    replace_embeddings_(model, click_result())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model(click_model: Make) -> None:
    scripted = torch.jit.script(click_model())
    message = "in ScriptModule, which keeps code of its own: pass the nn.Module that it was script"
    with pytest.raises(ModuleError, match=message):
        fields(scripted, {})
    with pytest.raises(ModuleError, match=message):
        loss_metrics(scripted, [], progress=False)


def test_first_generation_of_fsdp_is_known_by_its_name(tmp_path: Path) -> None:
    """It cannot be made without an accelerator."""

    class FullyShardedDataParallel(nn.Module):
        __module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"

        def __init__(self) -> None:
            super().__init__()
            self._fsdp_wrapped_module = nn.ModuleDict({"a": nn.Embedding(3, 2)})

    with pytest.raises(ModuleError, match=f"FullyShardedDataParallel, {FSDP}"):
        fields(FullyShardedDataParallel(), {})
