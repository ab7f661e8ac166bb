"""ALinFiK, which needs more rows than the other methods: what every registered method promises, and what it alone does."""

import copy
import json
from dataclasses import FrozenInstanceError
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tests.conformance.test_methods import assert_untouched, snapshot
from tests.students import pool, sentences
from tests.support import examples, text_model

import assay
from assay.errors import AssayError, DataError, MethodError, NonFiniteError
from assay.examples import Examples
from assay.methods import ALinFiK, LinFiK
from assay.methods.student.alinfik import Distilled
from assay.models import Model
from assay.provenance import SIGN

ON = examples("the cat sat on the mat .", "a cat saw the big red tree")
POOL = pool(90)


@cache
def language() -> Model:
    return text_model("Llama", dtype=torch.float32, num_hidden_layers=1, tie_word_embeddings=True)


@cache
def usual() -> Distilled:
    return ALinFiK(sampled=60).distil(language(), POOL, ON)


def values(train: Examples = POOL, **options: Any) -> assay.Values:
    return assay.value(language(), train, ON, ALinFiK(**{"sampled": 60, **options}))


@pytest.mark.parametrize("step", ["normalised", "plain"])
def test_measured_rows_have_the_models_value_and_no_error(step: str) -> None:
    """The others nearly that of linfik fitted to the whole pool; of sixty rows, and a model without any training."""
    found, exact = values(step=step), assay.value(language(), POOL, ON, LinFiK(step=step)).array
    taken = found.raw["measured"]
    assert taken.sum() == 60
    own = assay.value(language(), POOL.select(np.flatnonzero(taken)), ON, LinFiK(step=step)).array
    np.testing.assert_allclose(found.array[taken], own, rtol=1e-4, atol=1e-6 * np.abs(exact).max())
    assert (found.stderr[taken] == 0).all()
    assert (found.stderr[~taken] > 0).all()
    assert spearmanr(found.array[~taken], exact[~taken]).statistic > 0.3
    assert "60 of 90 rows were measured" in found.provenance.notes[-1]


def test_targets_may_be_compared_with_another_answer() -> None:
    """What the sample is measured by is what is asked, as in linfik; the sample is the pool."""
    on = examples(
        {"prompt": "the cat", "completion": " sat", "contrast": " saw"},
        {"prompt": "a", "completion": " dog", "contrast": " cat"},
    )
    found = assay.value(language(), POOL, on, ALinFiK(sampled=60, measure="contrast"))
    taken = found.raw["measured"]
    exact = assay.value(language(), POOL.select(np.flatnonzero(taken)), on, LinFiK(measure="contrast")).array
    np.testing.assert_allclose(found.array[taken], exact, rtol=1e-4, atol=1e-6 * np.abs(exact).max())
    assert found.provenance.parameters["measure"] == "contrast"
    with pytest.raises(MethodError, match="measure"):
        ALinFiK(measure="nonsense")


def test_the_result_is_complete() -> None:
    found = usual().values
    about = found.provenance
    assert list(found.ids) == list(POOL.ids)
    assert (about.method, about.unit, about.sign, about.coverage) == ("alinfik", "arbitrary", SIGN, 1.0)
    assert about.parameters == ALinFiK(sampled=60).parameters()
    assert about.train_fingerprint == POOL.fingerprint()
    assert about.query_fingerprint == ON.fingerprint()
    assert about.inputs["train"] == POOL.origin
    assert found.evidence["student"]["rows"] == 60
    assert about.seconds > 0


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    found = usual().values
    found.save(tmp_path)
    loaded = assay.Values.load(tmp_path)
    assert loaded.to_frame().equals(found.to_frame())
    assert loaded.provenance == found.provenance


def test_the_same_input_gives_the_same_bits() -> None:
    np.testing.assert_array_equal(values().array, usual().values.array)


def test_a_share_and_a_number_are_the_same_sample() -> None:
    np.testing.assert_array_equal(values(sampled=60 / 90).array, usual().values.array)
    whole = values(sampled=1.0)
    assert whole.raw["measured"].all()


def test_order_does_not_matter_when_all_rows_are_measured() -> None:
    rows = np.random.default_rng(0).permutation(90)
    np.testing.assert_allclose(
        values(POOL.select(rows), sampled=1.0).array, values(sampled=1.0).array[rows], rtol=1e-4, atol=1e-7
    )


def test_equal_rows_have_equal_values() -> None:
    """Also where only one of them was measured."""
    texts = sentences(60)
    found = values(examples(*texts, *texts), sampled=40)
    np.testing.assert_allclose(found.array[:60], found.array[60:], rtol=1e-3, atol=1e-6 * np.abs(found.array).max())
    assert found.raw["measured"].sum() > 40


def test_the_model_is_borrowed() -> None:
    module = copy.deepcopy(language().module).train()
    module.get_submodule("model.layers.0.self_attn").eval()
    module.get_submodule("model.layers.0.mlp.up_proj").requires_grad_(False)
    before = snapshot(module)
    assay.value(Model(module, language().task), POOL, ON, ALinFiK(sampled=30))
    assert_untouched(before, module)


def test_constructors_record() -> None:
    method = ALinFiK(sampled=0.5)
    with pytest.raises(FrozenInstanceError):
        method.sampled = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("sample", [0, -0.1, 30.5])
def test_a_sample_that_is_none_is_refused(sample: float) -> None:
    with pytest.raises(MethodError, match="sample"):
        ALinFiK(sampled=sample)


@pytest.mark.parametrize(
    ("sample", "told"), [(91, "91 of the 90 rows"), (0.05, "5 of the 90 rows"), (19, "19 of the 90")]
)
def test_a_pool_that_is_too_small_is_refused(sample: float, told: str) -> None:
    with pytest.raises(MethodError, match=told):
        values(sampled=sample)


def test_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MethodError, match="targets"):
        assay.value(language(), POOL, method="alinfik")
    with pytest.raises(MethodError, match="targets"):
        assay.value(language(), POOL, ON[:0], "alinfik")
    with pytest.raises(DataError, match="arrays"):
        assay.value(language(), (torch.zeros(90, 2), torch.zeros(90)), ON, "alinfik")
    for given in (None, "path/of/a/model", 3):
        with pytest.raises(AssayError, match=rf"alinfik.*was given {type(given).__name__}"):
            assay.value(given, POOL, ON, "alinfik")


def test_what_is_not_finite_stops() -> None:
    module = copy.deepcopy(language().module)
    with torch.no_grad():
        module.get_submodule("model.norm").weight.fill_(float("nan"))  # type: ignore[operator,union-attr]
    with pytest.raises(NonFiniteError):
        assay.value(Model(module, language().task), POOL, ON, ALinFiK(sampled=60))


def test_the_scorer_says_where_it_comes_from_and_holds_no_text() -> None:
    about = usual().scorer.about
    assert about["sample"]["rows"] == 60
    assert about["targets"] == {"rows": 2, "fingerprint": ON.fingerprint()}
    assert about["teacher"]["model_fingerprint"] == language().fingerprint()
    assert about["seconds_per_example"]["linfik"] > about["seconds_per_example"]["scorer"] > 0
    text = json.dumps(about)
    assert not any(" ".join(line.split()[:2]) in text for line in (*POOL.texts, *ON.texts))
    assert "s0" not in text.replace("'", '"').split('"')


def test_rows_that_the_model_cut_are_read_as_far() -> None:
    model = language()
    short = Model(model.module, type(model.task)(model.task.tokenizer, 6))  # type: ignore[attr-defined,call-arg]
    scorer = ALinFiK(sampled=60).distil(short, POOL, ON).scorer
    assert scorer.longest is not None
    assert 10 < scorer.longest < 40
    assert usual().scorer.longest is None
