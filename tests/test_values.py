import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import assay.examples as examples
from assay.errors import InputError, NonFiniteError
from assay.provenance import Provenance
from assay.values import Values

TRAIN = examples.read([{"id": f"t{i}", "text": f"<b>{i}</b>\n", "source": "s" if i else None} for i in range(5)])
ARRAY = np.array([0.5, -1.0, 2.0, 0.5, -1.0])


def values(**more: Any) -> Values:
    return Values.of(ARRAY, TRAIN, Provenance(method="loo", parameters={}, unit="nats per removed example"), **more)


def test_top_is_both_ends_with_ties_by_row() -> None:
    frame = values(stderr=np.arange(5.0)).top(2)
    assert list(frame) == ["rank", "train_id", "value", "stderr", "side", "source", "text"]
    assert frame.train_id.tolist() == ["t2", "t0", "t1", "t4"]
    assert frame.value.tolist() == [2.0, 0.5, -1.0, -1.0]
    assert frame.stderr.tolist() == [2.0, 0.0, 1.0, 4.0]
    assert frame.side.tolist() == ["highest", "highest", "lowest", "lowest"]
    assert frame["rank"].tolist() == [1, 2, 1, 2]
    assert frame.source.tolist() == ["s", None, "s", "s"]
    assert len(values().top(100)) == 10
    assert "stderr" not in values().top(1)


@pytest.mark.parametrize("stderr", [None, np.array([0.1, np.nan, 0.3, 0.4, 0.5])])
def test_a_saved_run_comes_back_whole(stderr: Any, tmp_path: Path) -> None:
    saved = values(stderr=stderr, raw={"votes": np.arange(5), "loss": ARRAY.astype(np.float32)})
    saved.with_evidence(auc=0.9).save(tmp_path)
    back = Values.load(tmp_path)
    np.testing.assert_array_equal(back.array, ARRAY)
    assert back.array.dtype == np.float64
    if stderr is None:
        assert back.stderr is None
    else:
        np.testing.assert_array_equal(back.stderr, stderr)
    assert {name: (column.dtype, column.tolist()) for name, column in back.raw.items()} == {
        "votes": (np.int64, [0, 1, 2, 3, 4]),
        "loss": (np.float32, ARRAY.tolist()),
    }
    assert back.evidence == {"auc": 0.9}
    assert (back.unit, back.method, back.provenance) == ("nats per removed example", "loo", saved.provenance)
    assert (list(back.ids), list(back.texts), list(back.sources)) == (
        list(TRAIN.ids), list(TRAIN.texts), list(TRAIN.sources),
    )  # fmt: skip
    pd.testing.assert_frame_equal(back.to_frame(), saved.to_frame())


def test_export(tmp_path: Path) -> None:
    values(stderr=np.full(5, np.nan)).to_jsonl(tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines[1] == {"train_id": "t1", "value": -1.0, "stderr": None}


def test_refuses_what_does_not_fit() -> None:
    provenance = Provenance(method="loo", parameters={}, unit="arbitrary")
    with pytest.raises(InputError, match=r"'value' has shape \(4,\) for 5"):
        Values.of(ARRAY[:4], TRAIN, provenance)
    with pytest.raises(InputError, match="'votes'"):
        values(raw={"votes": np.arange(4)})
    with pytest.raises(InputError, match="stderr"):
        values(raw={"stderr": ARRAY})
    with pytest.raises(NonFiniteError):
        Values.of(np.full(5, np.inf), TRAIN, provenance)
