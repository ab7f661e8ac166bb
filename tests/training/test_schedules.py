"""Schedules against their formulas, written out by hand."""

import math

import pytest

from assay.training.schedules import factors


def test_shapes_without_warmup() -> None:
    assert factors("constant", 0.0, 4) == (1.0, 1.0, 1.0, 1.0)
    assert factors("linear", 0.0, 4) == (1.0, 0.75, 0.5, 0.25)
    assert factors("cosine", 0.0, 4) == pytest.approx((1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2))


def test_warmup_climbs_to_one_and_the_schedule_follows() -> None:
    assert factors("linear", 0.5, 8) == pytest.approx((0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25))
    assert factors("cosine", 1.0, 3) == pytest.approx((1 / 3, 2 / 3, 1.0))
    assert factors("constant", 0.01, 10) == (1.0,) * 10


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_step_moves(schedule: str) -> None:
    assert all(0 < factor <= 1 for factor in factors(schedule, 0.1, 57))
