"""What users have on disk: a tiny model, a later checkpoint of it, examples and queries."""

from pathlib import Path

import pytest
from tests.cli.helpers import LINES, write
from tests.support import saved


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("Llama", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("Llama", tmp_path_factory.mktemp("model") / "later", seed=1)


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": line, "source": f"book {k % 2}"} for k, line in enumerate(LINES)]
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", rows)


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "queries.jsonl", [{"text": LINES[1]}, {"text": "the dog sat"}])
