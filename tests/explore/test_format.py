import pytest

from assay.explore import format


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (format.number, 0.01234, "+0.0123"),
        (format.number, -1.2e-05, "−1.2e−05"),
        (format.number, 0.0, "0"),
        (format.unsigned, 0.6234, "0.623"),
        (format.seconds, 0.44, "0.4 s"),
        (format.seconds, 59.7, "1 min 0 s"),
        (format.seconds, 83.2, "1 min 23 s"),
        (format.seconds, 7_500.0, "2 h 5 min"),
        (format.size, 2_048, "2 KiB"),
        (format.size, 1_900_000_000, "1.77 GiB"),
        (format.percent, 1.0, "100%"),
        (format.percent, 0.9996, "99.9%"),
        (format.percent, 0.971, "97.1%"),
        (format.percent, 0.0123, "1.2%"),
        (format.decimal, 2.0, "2"),
        (format.decimal, 0.01, "<0.1"),
        (format.decimal, 0.0, "0"),
    ],
)
def test_numbers_for_people(function: object, value: float, shown: str) -> None:
    assert callable(function)
    assert function(value) == shown


def test_counts_with_their_nouns() -> None:
    assert format.counted(1, "query") == "1 query"
    assert format.counted(3_200, "query") == "3,200 queries"
    assert format.counted(2, "training example") == "2 training examples"
