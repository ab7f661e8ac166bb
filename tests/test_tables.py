import numpy as np
import pytest

import assay.examples as examples
from assay.errors import DataError, InputError
from assay.tables import Table


def ten() -> examples.Examples:
    return examples.read([{"id": f"t{i}", "text": f"text {i}", "source": f"s{i % 2}"} for i in range(10)])


def test_a_part_keeps_positions() -> None:
    part = Table.some(ten(), np.array([2, 5]))
    assert (part.ids, part.texts, part.sources) == (["t2", "t5"], ["text 2", "text 5"], ["s0", "s1"])
    assert part.total == 10
    assert not part.whole
    assert part.row_of("t5") == 5
    assert part.lines(np.array([5, 2, 5])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("row", [0, 3, 9])
def test_a_row_outside_the_part_is_refused(row: int) -> None:
    with pytest.raises(InputError, match="does not hold"):
        Table.some(ten(), np.array([2, 5])).lines(np.array([2, row]))


def test_a_whole_table() -> None:
    table = Table.of(ten(), loss=list(range(10)))
    assert table.whole
    assert table.rows.tolist() == list(range(10))
    assert table.columns["loss"][3] == 3


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="'t1' occurs twice"):
        Table.of(ten().select([1, 1]))
    with pytest.raises(InputError, match="lengths"):
        Table.of(ten(), loss=[1.0])
    with pytest.raises(InputError, match="text"):
        Table.of(ten(), text=list("abcdefghij"))
