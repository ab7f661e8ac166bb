"""What is recorded of an example's logits. With logits z [c], right class y and p = softmax(z):

    loss          -log p_y, nats
    margin        z_y - max over k != y of z_k
    probability   p_y
    el2n          |p - onehot(y)|_2
    correct       1 if margin > 0, else 0 (a tie is wrong)

Of an example with several predicted tokens the means over them; `correct` only if all are. In float32 at least.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from assay.errors import MethodError, NonFiniteError
from assay.tasks.base import precise

COLUMNS = ("loss", "margin", "probability", "el2n", "correct")


def statistics(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, "columns n"]:
    """The columns of each row of logits, in the order of `COLUMNS`; not differentiable.

    Raises MethodError for a model of one class.
    """
    z, y = precise(logits.detach()), target[:, None]
    if z.shape[1] < 2:
        raise MethodError(
            f"The model gives {z.shape[1]} output; margins need two classes at least. Give a classifier one output a class."
        )
    log_p = z.log_softmax(1)
    own, chosen = z.gather(1, y).squeeze(1), log_p.gather(1, y).squeeze(1)
    margin = own - z.scatter(1, y, float("-inf")).amax(1)
    miss = log_p.exp().scatter_add(1, y, torch.full_like(y, -1.0, dtype=z.dtype))
    return torch.stack([-chosen, margin, chosen.exp(), miss.norm(dim=1), (margin > 0).to(z.dtype)])


def by_example(
    rows: Float[Tensor, "columns n"], example: Int[Tensor, " n"], count: int
) -> Float[Tensor, "columns batch"]:
    """Means over each example's rows; of `correct` the least."""
    if len(example) == count:  # one row an example
        return rows
    total = torch.zeros(len(rows), count, dtype=rows.dtype, device=rows.device).index_add_(1, example, rows)
    found = total / torch.bincount(example, minlength=count)
    found[-1] = torch.ones_like(found[-1]).scatter_reduce(0, example, rows[-1], "amin")
    return found


def check_finite(columns: Float[Tensor, "columns batch"], ids: Sequence[str], when: str) -> None:
    """Raises NonFiniteError that names the first example whose logits are NaN or infinite."""
    bad = ~columns.isfinite().all(0)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise NonFiniteError(
            f"The logits of example {ids[first]} are NaN or infinite {when} ({int(bad.sum())} of {len(ids)} examples). "
            "Look at that example, or lower the learning rate."
        )
