"""Tables of reasoning: classes and roles on known texts, tables that add up, what a model solves, deletions of sentences."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support import examples, text_model

import assay
from assay.errors import DataError, InputError, MethodError, ModelError
from assay.evaluate.reasoning import (
    class_of,
    classes_of,
    is_code,
    is_right,
    reasoning,
    role_of,
    sentence_deletion,
    solved,
)
from assay.explore import report
from assay.grain import Fold
from assay.methods import Infra
from assay.models import Model
from assay.tasks import Classify
from assay.values import Values

TRAIN = examples(
    *(
        {
            "prompt": f"the {a}",
            "completion": f" {b} {c} . I saw you .",
            "source": "math" if a == "cat" else "code",
            "label": level,
        }
        for level, a in ((1, "cat"), (2, "big dog"))
        for b in ("sat on", "saw", "ran under")
        for c in ("the mat", "you")
    )
)
SOLVED = examples(
    {"prompt": "the dog sat", "completion": " under the tree .", "source": "math"},
    {"prompt": "a cat", "completion": " saw the red mat", "source": "code"},
)


def fold(*tokens: str) -> Fold:
    ends = np.cumsum([len(token) for token in tokens])
    starts = ends - [len(token) for token in tokens]
    return Fold("q", "i", "loss-token", tokens, np.ones(len(tokens)), starts, ends)


def test_classes_of_prose_and_code() -> None:
    prose = fold("So", " there", "fore", ",", " 48", "/", "2", " =", " 2", "4", " clips", ".")
    assert classes_of(prose) == [
        "logic", "logic", "logic", "syntax", "numbers", "operators", "numbers", "operators", "numbers", "numbers", "words",
        "syntax",
    ]  # fmt: skip
    code = fold(
        "def", " f", "(", "x", ")", ":", "\n", "    ", "if", " x", " >=", " 1.5", ":", "\n", "    ", "return", " x"
    )
    assert classes_of(code)[0] == "syntax"
    assert classes_of(code)[8] == "syntax"  # a keyword here, logic in prose
    assert classes_of(code)[9:12] == ["words", "operators", "numbers"]
    assert class_of("if", False) == "logic"
    assert not is_code("if it rains, she returns")


def test_roles() -> None:
    prose = (
        "#### 72",
        "The answer is 5.",
        "Wait, let me check.",
        "She has 3 + 4 = 7.",
        "Let x be her age.",
        "It rained.",
    )
    assert [role_of(text) for text in prose] == ["answer", "answer", "check", "calculation", "definition", "statement"]
    code = ("def f(x):", "    for k in x:", "    return k", "    y = k", "    print(k)")
    assert [role_of(line, True) for line in code] == ["definition", "control", "answer", "calculation", "statement"]


def test_tables_add_up_and_come_back_from_disk(tmp_path: Path) -> None:
    model = text_model("Llama", num_hidden_layers=1)
    found = reasoning(model, TRAIN, SOLVED, Infra(fisher="empirical"), rows=8, bins=2)
    assert found.goals == ["math", "code"]
    for goal in found.goals:
        sums = {f.train_id: f.total for f in found.parts if f.query_id == goal}
        assert len(sums) == 8
        whole = [found.values.raw[goal][TRAIN.ids.index(name)] for name in sums]
        np.testing.assert_allclose(list(sums.values()), whole, atol=1e-4 * np.abs(found.values.array).max())
        for table in (found.classes, found.roles):
            assert table[table["goal"] == goal]["total"].sum() == pytest.approx(sum(sums.values()), rel=1e-6)
        levels = found.levels[found.levels["goal"] == goal]
        assert levels["total"].sum() == pytest.approx(found.values.raw[goal].sum())
        assert levels["examples"].sum() == len(TRAIN)
    assert set(found.classes["class"]) <= {"words", "syntax", "logic"}
    found.save(tmp_path / "run")
    loaded = Values.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.array, found.values.array)
    assert {row["set"] for row in loaded.evidence["difficulty"]["rows"]} == {
        f"{goal}: {domain}, {level}" for goal in ("math", "code") for domain, level in (("math", 1), ("code", 2))
    }
    assert "Influence by kind of token" in Path(report(loaded, tmp_path / "report.html")).read_text()
    assert (tmp_path / "run" / "classes.csv").exists()
    json.dumps(found.evidence())


def test_deleting_a_sentence_is_what_it_says() -> None:
    """The last sentence predicts nothing behind it: its part is what deleting it changes."""
    fitted = Infra(fisher="empirical").fit(text_model("Llama", num_hidden_layers=1), TRAIN)
    direction = fitted.directions(SOLVED)[0][0]
    found = sentence_deletion(fitted, direction, [0, 3])
    assert found.rows.tolist() == [0, 0, 3, 3]
    np.testing.assert_allclose(found.parts[1::2], found.deleted[1::2], rtol=1e-6)
    assert np.abs(found.parts[::2] - found.deleted[::2]).max() > 1e-3 * np.abs(found.parts).max()
    assert -1 <= found.spearman <= 1


def test_is_right() -> None:
    def problem(completion: str) -> assay.Example:
        return assay.read([{"prompt": "p", "completion": completion}])[0]

    assert is_right("12 and so\n#### 1,072", problem("x\n#### 1072"))
    assert not is_right("1072", problem("x\n#### 1072"))
    assert is_right(r"so \boxed{x+1}.", problem(r"\boxed{x+1}"))
    assert is_right(" 12 and more", problem("12"))
    assert not is_right("123", problem("12"))


def test_what_a_model_solves() -> None:
    """A model asked to repeat what it says itself is right, and wrong about anything else."""
    model = text_model("Llama", num_hidden_layers=1)
    said: list[str] = []
    asked = [{"prompt": "the cat", "completion": " dog"}, {"prompt": "hello who", "completion": " dog"}]
    solved(model, asked, lambda text, problem: bool(said.append(text)))
    own = [{**row, "completion": " " + text.split()[0]} for row, text in zip(asked, said, strict=True)]
    assert solved(model, own).tolist() == [True, True]
    other = [{**row, "completion": " who" if row["completion"] != " who" else " dog"} for row in own]
    assert solved(model, other).tolist() == [False, False]


def test_bad_input() -> None:
    model = text_model("Llama", num_hidden_layers=1)
    with pytest.raises(MethodError, match="no solved problems"):
        reasoning(model, TRAIN, SOLVED.select([]))
    with pytest.raises(MethodError, match="attributed by infra"):
        reasoning(model, TRAIN, SOLVED, "graddot")
    with pytest.raises(InputError, match="needs a number"):
        reasoning(model, SOLVED, SOLVED, difficulty="label")
    with pytest.raises(DataError, match="expected prompts with completions"):
        solved(model, ["a text"])
    with pytest.raises(ModelError, match="cannot generate"):
        solved(Model(model.module, Classify()), SOLVED)
