"""The difficulty flip: counts reversed exactly, twice is nothing, only where the values speak for it; weights on disk."""

from pathlib import Path

import numpy as np
import pytest

import assay
from assay.act.reweight import Graded, binned, flip, grade, read_weights, write_weights
from assay.errors import DataError, InputError
from assay.examples import Examples

LEVELS = {"math": [1] * 6 + [2] * 3 + [3] * 2 + [4], "code": [1, 2, 3, 3, 4, 4, 4, 4]}


def rows(levels: dict[str, list[int]] = LEVELS) -> Examples:
    found = [
        {"prompt": "a", "completion": "b" * level, "source": domain, "label": level}
        for domain, some in levels.items()
        for level in some
    ]
    return assay.read([found[k] for k in np.random.default_rng(0).permutation(len(found))])


def weighed(graded: Graded, weights: np.ndarray, domain: str) -> list[float]:
    chosen = graded.rows(domain)
    return np.bincount(graded.bins[chosen], weights[chosen]).tolist()


def test_counts_are_reversed_exactly() -> None:
    graded = grade(rows())
    found = flip(graded)
    assert weighed(graded, np.ones(20), "math") == [6, 3, 2, 1]
    assert weighed(graded, found.weights, "math") == pytest.approx([1, 2, 3, 6])
    assert weighed(graded, found.weights, "code") == pytest.approx([4, 2, 1, 1])
    assert found.flipped == list(dict.fromkeys(graded.domains))
    assert found.weights.sum() == pytest.approx(20)
    told = {(row["domain"], row["bin"]): (row["before"], row["after"]) for row in found.rows}
    assert told["math", 1] == (6, 1)
    assert told["math", 4] == (1, 6)


def test_twice_is_nothing() -> None:
    graded = grade(rows())
    start = np.random.default_rng(1).uniform(0.5, 2, 20)
    once = flip(graded, weights=start).weights
    assert np.abs(once - start).max() > 0.5
    np.testing.assert_allclose(flip(graded, weights=once).weights, start, rtol=1e-12)


def test_values_say_which_domains_are_flipped() -> None:
    """Hard mathematics and easy code are worth most: mathematics has mostly easy and code mostly hard examples, so both turn."""
    data = rows()
    graded = grade(data)
    worth = np.array(
        [level if domain == "math" else -level for domain, level in zip(graded.domains, data.labels, strict=True)]
    )
    assert set(flip(graded, worth).flipped) == {"math", "code"}
    assert flip(graded, -worth).flipped == []
    np.testing.assert_array_equal(flip(graded, -worth).weights, np.ones(20))
    mixed = np.where([domain == "math" for domain in graded.domains], worth, -worth)
    one = flip(graded, mixed)
    assert one.flipped == ["math"]
    assert weighed(graded, one.weights, "code") == [1, 1, 2, 4]


def test_drawing_gives_the_counts() -> None:
    """A bin that is to give more than it has repeats its examples evenly; the total stays."""
    graded = grade(rows())
    found = flip(graded)
    drawn = found.draw(seed=3)
    assert len(drawn) == 20
    times = np.bincount(drawn, minlength=20)
    assert (np.abs(times - found.weights) < 1).all()
    assert weighed(graded, times.astype(float), "math")[3] == 6
    for seed in range(5):
        again = np.bincount(found.draw(seed=seed), minlength=20).astype(float)
        assert np.abs(np.array(weighed(graded, again, "math")) - [1, 2, 3, 6]).max() < 2


def test_difficulty_by_label_or_length() -> None:
    data = rows()
    assert grade(data).by == "label"
    by_length = grade(data, by="length")
    assert by_length.by == "length"
    np.testing.assert_array_equal(by_length.difficulty, grade(data).difficulty)
    plain = assay.read([{"text": "a"}, {"text": "bbbb"}, {"text": "cc"}])
    graded = grade(plain, bins=2)
    assert graded.by == "length"
    assert graded.domains == ["all"] * 3
    assert graded.bins.tolist() == [0, 1, 0] if False else graded.difficulty.tolist() == [1.0, 4.0, 2.0]


def test_empty_bins_are_left_out() -> None:
    difficulty = np.array([0.0, 0.1, 0.2, 9.9, 10.0])
    assert binned(difficulty, 4).tolist() == [0, 0, 0, 1, 1]
    levels = assay.read([{"text": "x", "label": float(d)} for d in difficulty])
    graded = grade(levels, bins=4)
    assert weighed(graded, flip(graded).weights, "all") == pytest.approx([2, 3])


def test_bad_input(tmp_path: Path) -> None:
    data = rows()
    graded = grade(data)
    with pytest.raises(InputError, match="1 bins"):
        grade(data, bins=1)
    with pytest.raises(InputError, match="no examples"):
        grade(data.select([]))
    with pytest.raises(InputError, match=r"label 'hard'.*needs a number"):
        grade(assay.read([{"text": "x", "label": "hard"}]), by="label")
    with pytest.raises(InputError, match=r"shape \(3,\).*20 examples"):
        flip(graded, values=np.ones(3))
    with pytest.raises(InputError, match="above 0"):
        flip(graded, weights=np.zeros(20))


def test_weights_on_disk(tmp_path: Path) -> None:
    data = rows()
    weights = flip(grade(data)).weights
    path = write_weights(data.ids, weights, tmp_path / "weights.jsonl")
    np.testing.assert_array_equal(read_weights(path, data.ids), weights)
    with pytest.raises(InputError, match="nothing is overwritten"):
        write_weights(data.ids, weights, path)
    with pytest.raises(DataError, match="does not hold a weight"):
        read_weights(path, ["other"])
    with pytest.raises(DataError, match="cannot be read"):
        read_weights(tmp_path / "none", data.ids)
