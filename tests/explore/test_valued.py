"""What stands on a page of values besides the ranking."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.explore.test_report import HOSTILE, TEXTS, page, provenance, table

from assay.errors import InputError
from assay.explore.valued import by_source, read_curves, valued, with_intervals
from assay.values import Values

ARRAY = np.array([3.0, -2, 0, 1, -4, 2])
SOURCES: list[str | None] = ["a", "a", HOSTILE[0], HOSTILE[0], None, None]
CURVES: dict[str, Any] = {
    "unit": "nats", "rows": [{"set": "without the highest", "mean": 0.5}], "text": "", "counts": [1, 2], "full": 0.25,
    "lines": {
        "removal": {"highest": [[0.5, 1.0]], "lowest": [[0.2, 0.1]], "random": [[0.3, 0.5], [0.1, 0.7]]},
        "addition": {"highest": [[0.75, 0.5]], "lowest": [[2.0, 1.5]], "random": [[1.0, 0.875], [1.5, 1.125]]},
    },
}  # fmt: skip


def made(stderr: Any = None, sources: Any = SOURCES, array: np.ndarray = ARRAY) -> Values:
    return Values.of(array, table(TEXTS, sources), provenance(), stderr=stderr)


def test_sources_stand_in_the_order_of_their_means() -> None:
    found = by_source(made())
    assert found is not None
    assert "a (2): median +0.5, 50% below zero" in found.text
    assert "no source (2): median −1, 50% below zero" in found.text
    # Means: a and the hostile name have 0.5 each, of equals the first; no source has -1.
    assert found.text.index("a (2)") < found.text.index("<script>") < found.text.index("no source (2)")
    assert by_source(made(sources=["a"] * 6)) is None
    assert by_source(made(array=np.ones(6))) is None


def test_intervals_count_what_is_decided() -> None:
    found = with_intervals(made(stderr=np.array([1.0, 2, 1, 0.5, 1, 1])))
    assert found is not None
    # 3 and 2 lie above 1.96 of their errors (1.96), 1 above 0.98; -4 below; -2 and 0 do not.
    assert "3 above zero, 1 below, 2 not told from zero" in found.text
    assert with_intervals(made()) is None


def test_curves_are_plots_and_tables(tmp_path: Path) -> None:
    removal, addition = read_curves({"curves": CURVES})
    assert removal.rows == [
        ("0", ["0.25", "0.25", "0.25"]), ("1", ["0.5", "0.2", "0.2"]), ("2", ["1", "0.1", "0.6"])
    ]  # fmt: skip
    assert addition.rows == [("1", ["0.75", "2", "1.25"]), ("2", ["0.5", "1.5", "1"])]
    root = page(made(stderr=np.full(6, 0.5)).with_evidence(curves=CURVES), tmp_path)
    assert [node.attrs["id"] for node in root.all("section") if "id" in node.attrs] == [
        "run", "evidence", "curves", "sources", "examples", "intervals", "distribution"
    ]  # fmt: skip
    assert len(root.all("table", "curve")) == 2
    assert "Retraining without and with only the highest and lowest values" in root.text
    assert not read_curves({})


@pytest.mark.parametrize(
    "content", [None, 3, {}, {**CURVES, "counts": [1]}, {**CURVES, "lines": {"removal": {}}}, {**CURVES, "full": "x"}]
)
def test_another_form_is_refused(content: Any) -> None:
    with pytest.raises(InputError, match='evidence "curves" is not in the expected form'):
        read_curves({"curves": content})


def test_nothing_to_show() -> None:
    found = valued(made(sources=[None] * 6))
    assert (found.sources, found.intervals, found.curves) == (None, None, [])
