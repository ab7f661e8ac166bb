import pytest

from assay.errors import InputError
from assay.explore.evidence import read_evidence

STEP = {
    "k": 10,
    "step": 0.01,
    "rows": [
        {"set": "graddot top 10", "mean": -0.121, "low": -0.15, "high": -0.09, "n": 4},
        {"set": "random 10", "mean": 0.004, "low": None, "high": None, "n": 4},
        {"set": "not measured", "mean": None},
    ],
    "unit": "nats of query loss",
    "text": "One step each.",
}


def test_rows_facts_and_order() -> None:
    agreement = {"rows": [{"set": "graddot", "mean": 0.62}]}
    one_step, agreed = read_evidence({"agreement": agreement, "one_step": STEP, "other": 1})
    assert one_step.title == "One-step check"
    assert [(row.name, row.mean, row.interval, row.n) for row in one_step.rows] == [
        ("graddot top 10", "−0.121", "−0.15 to −0.09", 4),
        ("random 10", "+0.004", None, 4),
    ]
    assert (one_step.unit, one_step.text, dict(one_step.facts)) == (
        "nats of query loss",
        "One step each.",
        {"k": 10, "step": "0.01"},
    )
    assert "graddot top 10: −0.121" in one_step.plot
    assert agreed.rows[0].mean == "0.62"
    assert agreed.unit == "share"


def test_a_check_without_rows_has_no_plot() -> None:
    (check,) = read_evidence({"one_step": {"rows": []}})
    assert not check.plot


@pytest.mark.parametrize(
    "content", [None, 3, [], {}, {"rows": 1}, {"rows": [{"set": "a"}]}, {"rows": [{"mean": "x", "set": ""}]}]
)
def test_another_form_is_refused(content: object) -> None:
    with pytest.raises(InputError, match='evidence "one_step" is not in the expected form'):
        read_evidence({"one_step": content})
