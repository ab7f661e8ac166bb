"""`assay value` from a record, and by a recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.helpers import json_lines, refused, run

import assay


@pytest.fixture
def records(train: Path, tmp_path: Path) -> list[Path]:
    """Two seeds of a run over the training file: three observations each."""
    data, places = assay.read(train), []
    for seed in range(2):
        torch.manual_seed(seed)
        recorder = assay.Recorder(data, out=tmp_path / f"record-{seed}")
        for _ in range(3):
            recorder.step(data.ids, torch.randn(len(data), 3), [k % 3 for k in range(len(data))])
        recorder.save()
        places.append(tmp_path / f"record-{seed}")
    return places


def test_from_records(train: Path, records: list[Path]) -> None:
    given = [word for place in records for word in ("--recorded", place)]
    *lines, last = json_lines(run("value", *given, "--train", train, "-m", "aum", "--json", "--top", 2))
    expected = assay.value([assay.Record.load(place) for place in records], train, method="aum").top(2)
    assert [line["train_id"] for line in lines] == list(expected["train_id"])
    assert [line["value"] for line in lines] == pytest.approx(list(expected["value"]))
    assert all(line["stderr"] > 0 for line in lines)
    assert last["run"]["notes"][0] == "2 runs, 3 observations of each example at most (batches)."


def test_by_a_recipe(model: Path, train: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2, "lr": 0.01, "batch_size": 3}
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(settings | {"model": str(model)}))
    words = (
        "--train",
        train,
        "-m",
        "el2n",
        "--at",
        1,
        "--runs",
        1,
        "--evaluations",
        2,
        "--out",
        tmp_path / "run",
        "--no-report",
    )
    run("value", "--recipe", recipe, *words)
    loaded = assay.load(model)
    how = assay.Recipe(loaded.module, loaded.task, **settings)
    expected = assay.value(how, train, method=assay.methods.EL2N(at=1, runs=1, evaluations=2))
    np.testing.assert_allclose(assay.Values.load(tmp_path / "run").array, expected.array, rtol=1e-6)


def test_what_cannot_go_together_is_told(model: Path, train: Path, records: list[Path], tmp_path: Path) -> None:
    refused(
        "value", model, "--recorded", records[0], "--train", train, "-m", "aum", names=["--recorded", "one of them"]
    )
    refused("value", "--recorded", tmp_path, "--train", train, "-m", "aum", names=["record.json", "Recorder"])
    refused("value", "--recorded", records[0], "--train", train, "-m", "vog", names=["vog", "two looks", "there are 0"])
    refused("value", "--recorded", records[0], "--train", train, "-m", "pvi", names=["pvi", "Recipe"])
    refused("value", "--recorded", records[0], "--train", train, "-m", "bm25", names=["bm25", "--on"])
    refused("value", "--train", train, "-m", "aum", names=["aum", "needs a model"])
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a"}\n')
    refused("value", "--recorded", records[0], "--train", other, "-m", "aum", names=["other:1", "not in the record"])
