"""Labels drawn from the model's own prediction, inside the pass."""

import pytest
import torch
from tests.support import TEXTS, batch_of, examples, text_model, true
from torch import Tensor

from assay.compress import Identity
from assay.gradients.blocks import lay_out
from assay.gradients.capture import capturing
from assay.tasks import Sampled, head
from assay.tasks.measurements import GROUP, drawn

ROWS = examples(*TEXTS)


@pytest.mark.parametrize("classes", [2, 5, GROUP, GROUP + 1, 3 * GROUP, 3 * GROUP + 17])
def test_draws_are_the_classes_at_the_quantiles(classes: int) -> None:
    p = torch.randn(400, classes, dtype=torch.float64).mul(3).softmax(1)
    p[:, ::3] = 0.0
    u = torch.rand(400, dtype=torch.float64)
    ends = p.cumsum(1)
    expected = torch.tensor([int((end <= x * end[-1]).sum()) for end, x in zip(ends, u, strict=True)])
    found = drawn(p, u)
    assert torch.equal(found, expected)
    assert bool((p.gather(1, found[:, None]) > 0).all())


def test_edges() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for u in (0.0, 0.5, 1.0 - 1e-16):
        assert drawn(p, torch.full((3,), u, dtype=torch.float64)).tolist() == [1, 2, 0]


def test_the_second_moment_is_the_fisher_matrix() -> None:
    """diag(p) - p p^T within 5 standard errors of 40,000 draws."""
    z = torch.randn(1, 4, dtype=torch.float64)
    p = z.softmax(1)[0]
    u = torch.rand(40_000, dtype=torch.float64)
    _, g = Sampled().with_gradient(z.repeat(len(u), 1), u)
    expected = p.diag() - torch.outer(p, p)
    found = g.T @ g / len(u)
    assert float((found - expected).abs().max()) < 5 * 0.5 / len(u) ** 0.5


def test_the_gradient_is_that_of_automatic_differentiation() -> None:
    z, u = torch.randn(30, 9, dtype=torch.float64), torch.rand(30, dtype=torch.float64)
    leaf = z.clone().requires_grad_()
    value = Sampled().of_logits(leaf, u)
    (expected,) = torch.autograd.grad(value.sum(), leaf)
    found, gradient = Sampled().with_gradient(z.clone(), u)
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_chunks_batches_and_the_plain_graph_draw_the_same(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunked head in one batch against each example alone by automatic differentiation."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 90)
    model = text_model("Llama", num_hidden_layers=1)
    measurement = Sampled(reduction, seed=2)  # type: ignore[arg-type]
    with capturing(model, Identity()) as capture:
        found, _ = capture(batch_of(model, ROWS), measurement)
    for k in range(len(ROWS)):
        alone = true(model, batch_of(model, ROWS[k : k + 1]), measurement)
        expected: Tensor = torch.cat([alone[block.name][0] for block in lay_out(model).blocks])
        torch.testing.assert_close(found[k], expected, rtol=1e-8, atol=1e-10)


def test_a_mean_counts_one_over_the_root() -> None:
    assert Sampled("mean").share(torch.tensor([4.0, 9.0])).tolist() == pytest.approx([1 / 2, 1 / 3])
    assert Sampled("sum").share(torch.tensor([4.0, 9.0])).tolist() == [1, 1]
