import numpy as np

from saec.util.row_blocks import row_blocks


def test_blocks_cover_all_rows_once_and_in_order() -> None:
    for rows in (0, 1, 511, 512, 513, 1500):
        covered = np.zeros(rows, np.int64)
        stops = [0]
        for block in row_blocks(rows):
            assert block.start == stops[-1]
            stops.append(block.stop)
            covered[block] += 1
        assert covered.tolist() == [1] * rows
        assert stops[-1] == rows
        assert np.diff(stops).max(initial=0) <= 512
