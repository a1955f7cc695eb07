from collections.abc import Callable, Sequence
from typing import Any

from numpy import bool_, float32, float64, int32, int64, uint8, uint16, uint32, uint64
from numpy.typing import NDArray

def usable_cores() -> int: ...
def default_threads() -> int: ...
def use_calling_thread() -> None: ...
def quota_cores(root: str = "") -> float: ...

class NearestCentroid:
    def __init__(self, centroids: NDArray[float32], isa: str = "auto", groups: int = 0) -> None: ...
    def search(
        self,
        rows: NDArray[float32],
        nearest: NDArray[int32],
        radius_share: float = 1.0,
        threads: int = 0,
    ) -> None: ...

def accumulate(
    rows: NDArray[float32],
    weights: NDArray[float64],
    nearest: NDArray[int32],
    centroids: NDArray[float32],
    sums: NDArray[float64],
    totals: NDArray[float64],
    distortion: NDArray[float64],
    threads: int = 0,
) -> None: ...
def draw_seeds(
    rows: NDArray[float32],
    weights: NDArray[float64],
    uniforms: NDArray[float64],
    chosen: NDArray[int64],
) -> int: ...
def packed_bytes(count: int, row_bits: int) -> int: ...
def pack_codes(
    codes: Sequence[NDArray[uint32]],
    widths: NDArray[uint32],
    data: NDArray[uint8],
    threads: int = 0,
) -> None: ...
def unpack_codes(
    data: NDArray[uint8], widths: NDArray[uint32], codes: NDArray[uint32], threads: int = 0
) -> None: ...
def gather_codes(
    data: NDArray[uint8],
    widths: NDArray[uint32],
    count: int,
    ids: NDArray[int64],
    codes: NDArray[uint32],
    threads: int = 0,
) -> None: ...
def first_outside(ids: NDArray[int64], limit: int) -> int: ...
def sum_scalars(
    values: NDArray[float32], weights: NDArray[float64], sums: NDArray[float64]
) -> float: ...
def split_scalars(
    values: NDArray[float32], sums: NDArray[float64], centre: float, borders: NDArray[int64]
) -> int: ...
def partition_scalars(
    values: NDArray[float32],
    sums: NDArray[float64],
    centre: float,
    borders: NDArray[int64],
    sizes: NDArray[int64],
    partitions: NDArray[int64],
) -> None: ...
def refine_scalars(
    values: NDArray[float32],
    sums: NDArray[float64],
    centre: float,
    borders: NDArray[int64],
    centers: NDArray[float64],
) -> None: ...
def scalar_distortion(
    values: NDArray[float32],
    sums: NDArray[float64],
    centre: float,
    centers: NDArray[float64],
) -> float: ...
def nearest_scalars(
    values: NDArray[float32],
    centers: NDArray[float32],
    nearest: NDArray[uint32],
    threads: int = 0,
) -> None: ...
def measure_columns(
    columns: NDArray[float32],
    weights: NDArray[float64],
    order: NDArray[int64],
    tables: NDArray[int64],
    grid_bits: NDArray[int64],
    runs_per_cluster: int,
    least_runs: int,
    values: NDArray[float32],
    left: NDArray[float64],
    grids: NDArray[float32],
    grid_left: NDArray[float64],
    threads: int = 0,
) -> None: ...
def lattices(
    values: NDArray[float32],
    shares: NDArray[float64],
    nats: NDArray[float64],
    rows: float,
    bit_nats: float,
    step_bits: float,
    most: int,
    rounds: int,
    levels: NDArray[uint16],
    threads: int = 0,
) -> list[tuple[float, float, NDArray[int64], NDArray[float64], NDArray[float64]]]: ...
def code_lengths(
    counts: NDArray[float64],
    harm: NDArray[float64],
    price: float,
    room: float,
    most: int,
    lengths: NDArray[int64],
) -> None: ...

class Mapping:
    def __init__(self, nbytes: int) -> None: ...
    def add(self, descriptor: int, first: int, nbytes: int) -> None: ...
    def array(self) -> NDArray[uint8]: ...

class PageCache:
    def __init__(self, parts: Sequence[tuple[int, int, int]]) -> None: ...
    @property
    def page_bytes(self) -> int: ...
    def offset(self, part: int) -> int: ...
    def array(self) -> NDArray[uint8]: ...
    def keep(self, first: int, nbytes: int) -> None: ...
    def limit(self, pages: int) -> None: ...
    @property
    def reads_by(self) -> str: ...
    def counts(self) -> dict[str, int]: ...
    def serve(self, table: LookupTable) -> None: ...

class RowCache:
    least_memory: int
    def __init__(
        self,
        parts: Sequence[tuple[int, int, int]],
        tables: Sequence[tuple[int, int]],
        row_bytes: int,
        memory: int,
    ) -> None: ...
    @property
    def reads_by(self) -> str: ...
    @property
    def keeps(self) -> str: ...
    def offset(self, part: int) -> int: ...
    def array(self) -> NDArray[uint8]: ...
    def counts(self) -> dict[str, int]: ...
    def serve(self, table: LookupTable) -> None: ...

class LookupTable:
    @property
    def rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def stored_rows(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def decoded(self) -> list[tuple[int, int]]: ...
    @property
    def ranked(self) -> list[tuple[int, int]]: ...

class Exchange:
    def __init__(
        self,
        tensor: type[Any],
        recorders: Sequence[Callable[[], object]],
        threads: Callable[[], int],
    ) -> None: ...
    @property
    def has_api(self) -> bool: ...

class Watch:
    def __init__(
        self,
        exchange: Exchange,
        tensors: Sequence[Any],
        uses: Sequence[tuple[bool, Sequence[tuple[int, int]] | None]],
    ) -> None: ...
    def holds(self, tensors: Sequence[Any]) -> bool: ...

class Guards:
    def __init__(
        self, empty: Sequence[dict[Any, Any]], entries: Sequence[tuple[dict[str, Any], str, Any]]
    ) -> None: ...
    def hold(self) -> bool: ...

class Shortcut:
    def __init__(
        self,
        table: LookupTable,
        watch: Watch,
        places: Sequence[tuple[dict[str, Any], str]],
        names: Sequence[str],
        element: int,
    ) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def element(self) -> int: ...
    def rows(self, ids: Any) -> Any: ...

class Shortcuts:
    def __init__(self, tables: Sequence[Shortcut], guards: Guards) -> None: ...
    def rows(self, ids: Any) -> Any: ...

def table_of_tiers(
    rows: int,
    codes: NDArray[uint8],
    tiers: NDArray[int64],
    parts: NDArray[int64],
    values: NDArray[float32],
    axes: NDArray[float32],
    index: NDArray[uint8],
    starts: NDArray[int64],
    pads: NDArray[int64],
    pad_rows: NDArray[float32],
) -> LookupTable: ...
def table_of_runs(
    rows: int,
    codes: NDArray[uint8],
    runs: NDArray[int64],
    stored: NDArray[uint8],
    element: int,
    grid: NDArray[float32],
    axes: NDArray[float64],
    pads: NDArray[int64],
    pad_rows: NDArray[int64],
) -> LookupTable: ...
def simd() -> str: ...
def pool(
    requests: Sequence[tuple[LookupTable, int, bool, int, int, int, int, int, int, int, int, int]],
    out: int,
    threads: int = 0,
    isa: str = "auto",
    in_pytorch: bool = False,
) -> tuple[int, int, int]: ...
def set_pytorch_team(parallel_for: int) -> None: ...
def hash_integers(
    keys: NDArray[uint64], hashes: NDArray[uint64], seed: int, threads: int = 0
) -> None: ...
def hash_strings(
    data: NDArray[uint8],
    offsets: NDArray[int32] | NDArray[int64],
    hashes: NDArray[uint64],
    seed: int,
    threads: int = 0,
) -> int: ...

class KeyedTable:
    @property
    def most_compared(self) -> int: ...
    def read_rows(
        self,
        hashes: NDArray[uint64],
        rows: NDArray[float32],
        threads: int = 0,
        isa: str = "auto",
        in_pytorch: bool = False,
    ) -> None: ...
    def read_classes(
        self,
        hashes: NDArray[uint64],
        classes: NDArray[int32],
        threads: int = 0,
        isa: str = "auto",
    ) -> None: ...
    def pool_rows(
        self,
        hashes: NDArray[uint64],
        offsets: NDArray[int64],
        weights: NDArray[float32],
        mean: bool,
        rows: NDArray[float32],
        threads: int = 0,
        isa: str = "auto",
        in_pytorch: bool = False,
    ) -> bool: ...

def keyed_table(
    function: FunctionTable,
    parts: NDArray[int64],
    lengths: NDArray[uint8],
    values: NDArray[float32],
    axes: NDArray[float32],
) -> KeyedTable: ...
def patched_table(
    base: KeyedTable,
    patches: list[KeyedTable],
    prefixes: list[NDArray[uint64]],
    bits: list[int],
) -> KeyedTable: ...

class FunctionTable:
    def look_up(
        self,
        hashes: NDArray[uint64],
        values: NDArray[uint64],
        known: NDArray[bool_],
        threads: int = 0,
        isa: str = "auto",
    ) -> None: ...

def function_table(
    bits: NDArray[uint8],
    directory: NDArray[uint8],
    blocks: int,
    fingerprint_bits: int,
    value_bits: int,
    steps: NDArray[uint32],
    spread: int = 0,
) -> FunctionTable: ...
def count_lengths(
    hashes: NDArray[uint64],
    lengths: NDArray[uint8],
    blocks: int,
    counts: NDArray[uint32],
) -> None: ...
def solve_blocks(
    hashes: NDArray[uint64],
    values: NDArray[uint64],
    lengths: NDArray[uint8],
    fingerprint_bits: int,
    value_bits: int,
    blocks: int,
    steps: NDArray[uint32],
    sizes: NDArray[uint32],
    threads: int = 0,
) -> tuple[int, int, int, NDArray[uint8]]: ...
def solve_buckets(
    hashes: NDArray[uint64],
    values: NDArray[uint64],
    lengths: NDArray[uint8],
    fingerprint_bits: int,
    value_bits: int,
    bucket_bits: int,
    first_bucket: int,
    spread: int,
    extra: int,
    sizes: NDArray[uint64],
    seeds: NDArray[uint16],
    threads: int = 0,
) -> tuple[int, int, int, NDArray[uint8]]: ...
