from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from assay.errors import InputError
from assay.jsonable import jsonable
from assay.provenance import Provenance, measured, package_versions, peak_memory


@dataclass(frozen=True)
class Part:
    rank: int = 3


def test_parameters_become_json_values() -> None:
    given = {"k": np.float32(0.5), "part": Part(), "rows": np.arange(2), "path": Path("a"), "t": (1, None)}
    parameters = Provenance(method="m", parameters=given, unit="arbitrary").parameters
    assert parameters == {"k": 0.5, "part": {"type": "Part", "rank": 3}, "rows": [0, 1], "path": "a", "t": [1, None]}


def test_not_a_number_becomes_null() -> None:
    assert jsonable({"a": [float("nan"), float("inf"), np.nan, 1.5]}) == {"a": [None, None, None, 1.5]}


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="object cannot be kept"):
        jsonable({"a": object()})


def test_measured_adds_earlier_seconds_and_fills_in_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), measured(earlier=5.0) as cost:
        _ = 1 / 0
    assert 5.0 < cost.seconds < 6.0
    assert 2**20 < cost.peak_memory <= peak_memory()


def test_versions_name_python_and_installed_packages() -> None:
    versions = package_versions()
    assert {"python", "numpy", "torch"} <= set(versions)
    assert all(isinstance(version, str) for version in versions.values())
