"""What is learnt from the parts of values by token: against normal equations, refits, and dense gradients of each token's loss."""

import numpy as np
import pytest
import torch
from tests.students import pool, sentences, told, worth
from tests.support import examples, text_model
from torch import nn

from assay.examples import Example, Examples
from assay.methods import LinFiK
from assay.methods.gradient.live import Live
from assay.methods.student.distil import distil
from assay.methods.student.pieces import ALPHA, SHARED, Lessons, Told, WordLine, described, pieces
from assay.methods.student.told import by_token
from assay.models import Model
from assay.tasks.language import IGNORED


def test_pieces_end_where_they_stand() -> None:
    text = "Ab 12,\r\n\r\n    x_y\t\n"
    found = list(pieces(text))
    assert [x for x, _ in found] == ["Ab", "1", "2", ",", "\n\n", "    ", "x", "_", "y", "\t", "\n"]
    assert [text[:end][-1] for _, end in found] == ["b", "1", "2", ",", "\n", " ", "x", "_", "y", "\t", "\n"]


def test_the_pieces_of_a_row_have_its_value_as_their_mean() -> None:
    """Also where a piece is several tokens, and a token several pieces."""
    one = Told(np.array([0, 2, 5, 9, 9]), np.array([0.0, 1.0, 2.0, 4.0, 8.0]))
    lessons = Lessons.of(["abcde f-g"], [one])
    assert lessons.y.tolist() == [4 * 3.0, 0.0, 0.0, 4 * 12.0]
    assert lessons.y.mean() == pytest.approx(one.parts.sum())


def naive(texts: list[str], parts: list[Told]) -> WordLine:
    """The ridge by its normal equations, features that two rows share only."""
    words = [[x for x, _ in pieces(text)] for text in texts]
    features, row = described(words)
    X = features.toarray()
    rows = np.array([(X[row == k] > 0).any(0) for k in range(len(texts))])
    columns = np.flatnonzero(rows.sum(0) >= SHARED)
    y = np.concatenate([len(w) * one.parts for w, one in zip(words, parts, strict=True)])
    A = X[:, columns]
    weights = np.zeros(X.shape[1], np.float32)
    weights[columns] = np.linalg.solve(A.T @ A + ALPHA * np.eye(len(columns)), A.T @ (y - y.mean()))
    return WordLine(float(y.mean()), weights)


def test_the_line_solves_the_normal_equations() -> None:
    texts = sentences(20)
    parts = [told(text, 0.3, k) for k, text in enumerate(texts)]
    lessons = Lessons.of(texts, parts)
    right = naive(texts, parts)
    found = lessons.fit()
    assert found.mean == pytest.approx(right.mean)
    np.testing.assert_allclose(found.weights, right.weights, atol=1e-4 * np.abs(right.weights).max())
    fold = np.array([3, 11])
    others = [k for k in range(20) if k not in fold]
    again = naive([texts[k] for k in others], [parts[k] for k in others])
    left = lessons.without([fold])
    np.testing.assert_allclose(left[fold], again([texts[k] for k in fold]), atol=1e-4 * np.abs(left[fold]).max())
    assert (left[others] == 0).all()


def test_few_rows_teach_more_if_their_parts_are_told() -> None:
    texts, new = sentences(25), sentences(200, seed=9)
    values, right = np.array([worth(text) for text in texts]), np.array([worth(text) for text in new])
    plain, _ = distil(texts, values, [None] * 25)
    taught, held = distil(texts, values, [None] * 25, told=[told(text) for text in texts])
    off = [float(np.mean((scorer.predict(new).value - right) ** 2)) for scorer in (plain, taught)]
    assert off[1] < 0.5 * off[0]
    assert held.spearman > 0.8


def test_parts_that_say_nothing_of_other_rows_do_not_mislead() -> None:
    """Noise in the parts, which sums to the values: the second regression has them as before."""
    texts = sentences(120)
    random, values = np.random.default_rng(0), np.array([worth(text) for text in texts])
    noise = []
    for text, value in zip(texts, values, strict=True):
        ends = np.array([end for _, end in pieces(text)])
        parts = random.normal(size=len(ends))
        noise.append(Told(ends, parts - parts.mean() + value / len(ends)))
    _, plain = distil(texts, values, [None] * 120)
    _, held = distil(texts, values, [None] * 120, told=noise)
    assert held.spearman > plain.spearman - 0.05


ROWS = (examples("the cat sat on the mat ."), examples({"prompt": "the dog saw", "completion": " you"}))


def taught(model: Model, rows: Examples, on: Examples, method: LinFiK) -> list[Told] | None:
    """By what LinFiK knows of ten other rows."""
    fitted = method.fit(model, pool(10))
    assert isinstance(fitted, Live)
    return by_token(fitted, rows, on)


@pytest.mark.parametrize("rows", ROWS, ids=["text", "answer"])
@pytest.mark.parametrize("step", ["normalised", "plain"])
def test_parts_by_token_are_products_of_each_tokens_gradient(rows: Examples, step: str) -> None:
    model = text_model("Llama", dtype=torch.float64, tie_word_embeddings=True)
    targets = examples("the dog sat under the tree .", "a big cat ran")
    parameters = list(model.module.parameters())

    def losses(example: Example) -> list[torch.Tensor]:
        """Of each predicted token, by the model library's own logits."""
        item = model.task.encode(example).tensors
        logits = model.module(input_ids=item["input_ids"][None]).logits[0]
        return [
            nn.functional.cross_entropy(logits[t - 1], label) if label != IGNORED else torch.zeros(())
            for t, label in enumerate(item["labels"])
        ]

    def flat(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])

    def mean(example: Example) -> torch.Tensor:
        return flat(torch.stack([loss for loss in losses(example) if loss.requires_grad]).mean())

    method = LinFiK(step=step)
    direction, length = torch.stack([mean(target) for target in targets]).mean(0), 1.0
    if step == "normalised":
        known, length = torch.stack([mean(row) for row in pool(10)]), float(mean(rows[0]).norm())
        m, parts = known.mean(0), known.square().mean(0).split([p.numel() for p in parameters])
        P = torch.cat([(part + 0.1 * part.mean()).rsqrt() for part in parts])
        direction = P * (direction - (direction @ (P * m)) / (m @ (P * m)) * m)
    each = losses(rows[0])
    count = length * sum(loss.requires_grad for loss in each)
    right = [float(flat(loss) @ direction) / count if loss.requires_grad else 0.0 for loss in each]
    found = taught(model, rows, targets, method)
    assert found is not None
    np.testing.assert_allclose(found[0].parts, right, rtol=1e-5, atol=2e-6 * np.abs(right).max())
    assert found[0].ends.tolist() == [token.end for token in model.task.tokens_of(rows[0])]
    assert found[0].parts.sum() == pytest.approx(sum(right), abs=1e-5 * np.abs(right).sum())


@pytest.mark.parametrize("step", ["normalised", "plain"])
def test_the_parts_sum_to_the_values(step: str) -> None:
    model, rows, on, method = text_model("Llama", num_hidden_layers=1), pool(12), pool(2, seed=9), LinFiK(step=step)
    fitted = method.fit(model, rows)
    assert isinstance(fitted, Live)
    found, values = by_token(fitted, rows, on), fitted.value(on).array
    assert found is not None
    np.testing.assert_allclose([one.parts.sum() for one in found], values, atol=1e-5 * np.abs(values).max())


def test_conversations_are_learnt_from_whole_rows() -> None:
    model = text_model("Llama", dtype=torch.float32, num_hidden_layers=1)
    chat = examples({"messages": [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "the dog"}]})
    assert taught(model, chat, pool(2), LinFiK()) is None
