from numpy import float32, float64, int32, int64, uint8, uint32
from numpy.typing import NDArray

class NearestCentroid:
    def __init__(self, centroids: NDArray[float32], isa: str = "auto") -> None: ...
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
def packed_bytes(count: int, bits: int) -> int: ...
def pack_codes(codes: NDArray[uint32], bits: int, data: NDArray[uint8]) -> None: ...
def unpack_codes(data: NDArray[uint8], bits: int, codes: NDArray[uint32]) -> None: ...
def gather_codes(
    data: NDArray[uint8], bits: int, count: int, ids: NDArray[int64], codes: NDArray[uint32]
) -> None: ...
def first_outside(ids: NDArray[int64], limit: int) -> int: ...
