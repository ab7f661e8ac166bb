import numpy as np
import pytest

from assay.explore.sources import Grouping

SOURCES = ["big", "big", "small", None, "big"]
NUMBERS = np.array([1.0, 2.0, 4.0, -1.0, 3.0])


def rows(*lines: int) -> np.ndarray:
    return np.array(lines, dtype=np.int64)


def test_totals_means_errors_and_places() -> None:
    table = Grouping.of(SOURCES, whole=True).table(NUMBERS, rows(2, 4, 1), rows(3))
    assert table is not None
    assert [line.name for line in table.lines] == ["big", "small", None]
    big, small, none = table.lines
    assert (big.count, big.total, big.mean) == (3, 6.0, 2.0)
    assert big.error == pytest.approx(1.0 / np.sqrt(3))  # the sample's standard deviation is 1
    assert (small.total, small.mean, small.error) == (4.0, 4.0, None)
    assert [(line.helpful, line.harmful) for line in table.lines] == [(2, 0), (1, 0), (0, 1)]
    assert [line.by_size for line in table.lines] == pytest.approx([3 * 3 / 5, 3 / 5, 3 / 5])
    assert table.width("total", big) == 100
    assert table.width("mean", big) == 50
    assert none.total == -1.0


def test_without_scores_the_places_decide() -> None:
    table = Grouping.of(SOURCES, whole=False).table(None, rows(2, 2, 0), rows(0))
    assert table is not None
    assert [(line.name, line.helpful) for line in table.lines] == [("small", 2), ("big", 1), (None, 0)]
    assert not table.has_totals
    assert not table.has_counts
    assert table.lines[0].by_size is None


def test_without_sources_there_is_no_table() -> None:
    assert Grouping.of([None, None], whole=True).table(np.zeros(2), rows(0), rows(1)) is None
    assert Grouping.of([], whole=True).table(np.zeros(0), rows(), rows()) is None


def test_ten_thousand_sources_are_cut_to_both_ends() -> None:
    names = [f"source {j}" for j in range(10_000)]
    table = Grouping.of(names, whole=True).table(-np.arange(10_000.0), rows(0), rows(9_999))
    assert table is not None
    assert [line.name for line in table.lines] == names[:20] + names[-10:]
    assert (table.first, table.left_out, table.sources) == (20, 9_970, 10_000)
    table = Grouping.of(names[:31], whole=True).table(-np.arange(31.0), rows(0), rows(1))
    assert table is not None
    assert (len(table.lines), table.left_out) == (31, 0)
