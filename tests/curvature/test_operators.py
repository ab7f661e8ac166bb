"""Diagonal, K-FAC, EK-FAC and dense curvature against naive loops over single examples, in float64."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import TEXTS, array_model, arrays, batch_of, examples, shaken, text_model, true
from torch import Tensor, nn

import assay
from assay.curvature import covariance, store, sweep
from assay.curvature.base import Curvature, Fit, Operator, load_operator
from assay.curvature.dense import Dense, DenseOperator
from assay.curvature.diagonal import Diagonal
from assay.curvature.ekfac import EKFAC
from assay.curvature.kfac import KFAC
from assay.curvature.spectral import Spectral
from assay.errors import CorruptIndex, IndexMismatch, MethodError, NonFiniteError
from assay.examples import Examples
from assay.gradients.blocks import lay_out
from assay.models import Model
from assay.tasks import Classify, Custom, Loss, Measurement, Regress, Sampled

ROWS = examples(*TEXTS, "the cat", "you saw a big dog and a tree", "who are you")
ALL = [Diagonal, KFAC, EKFAC]


def conv() -> tuple[Model, Examples]:
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(), nn.Conv2d(3, 4, 2, groups=1, bias=False), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    data = assay.read((torch.randn(9, 2, 6, 6, dtype=torch.float64), torch.randint(0, 3, (9,))))
    return Model(shaken(module.double()).eval(), Classify()), data


def grouped() -> tuple[Model, Examples]:
    module = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.LayerNorm(5), nn.Flatten(), nn.Linear(20, 2))
    data = assay.read((torch.randn(6, 4, 7, dtype=torch.float64), torch.randint(0, 2, (6,))))
    return Model(shaken(module.double()).eval(), Classify()), data


def perceptron() -> tuple[Model, Examples]:
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    data = assay.read((torch.randn(30, 5, dtype=torch.float64), torch.randint(0, 3, (30,))))
    return Model(shaken(module.double(), 1.0).eval(), Classify()), data


def regression() -> tuple[Model, Examples]:
    data = assay.read((torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)))
    return Model(shaken(nn.Linear(5, 2).double(), 1.0), Regress()), data


def text(kind: str, **changes: Any) -> tuple[Model, Examples]:
    return text_model(kind, **changes), ROWS


CASES = {
    "llama": lambda: text("Llama", num_hidden_layers=1), "llama tied": lambda: text("Llama", tie_word_embeddings=True, num_hidden_layers=1),
    "gpt2": lambda: text("GPT2", num_hidden_layers=1), "qwen2": lambda: text("Qwen2", num_hidden_layers=1),
    "gemma2": lambda: text("Gemma2", num_hidden_layers=1), "conv": conv, "grouped": grouped, "mlp": perceptron, "regression": regression,
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES)


def fit(choice: Curvature, model: Model, rows: Examples, folder: Path | None = None, **changes: Any) -> Any:
    to = replace(Fit(model, rows, lay_out(model), Loss()), **changes)
    return choice.fit(to, folder)


def gradients(model: Model, rows: Examples, measurement: Measurement) -> list[Tensor]:
    """By block, [n, rows, cols], each example alone, without padding."""
    alone = [true(model, batch_of(model, rows[k : k + 1]), measurement) for k in range(len(rows))]
    return [torch.cat([one[b.name] for one in alone]).reshape(-1, b.rows, b.cols) for b in lay_out(model).blocks]


def kron(operator: Spectral, k: int) -> Tensor:
    """`Q_S kron Q_A` of a block, acting on its row-major vector."""
    block, (left, right) = operator.blocks[k], operator.bases[k]
    eye = [torch.eye(n, dtype=torch.float64) for n in (block.rows, block.cols)]
    return torch.kron(eye[0] if left is None else left, eye[1] if right is None else right)


@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
@cases
def test_eigenvalues_of_ekfac_are_the_projected_second_moments(case: str, fisher: Any) -> None:
    """`Lam` = diagonal of (Q_S kron Q_A)^T F (Q_S kron Q_A), for every block."""
    model, rows = CASES[case]()
    operator = fit(EKFAC(fisher, seed=3), model, rows)
    measurement = Sampled(seed=3) if fisher == "sampled" else Loss()
    single = case == "gemma2"  # its norms compute in float32
    for k, g in enumerate(gradients(model, rows, measurement)):
        fisher_matrix = g.flatten(1).T @ g.flatten(1) / len(rows)
        basis = kron(operator, k)
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=torch.float64))
        found, expected = operator.eigenvalues[k].flatten(), (basis.T @ fisher_matrix @ basis).diagonal()
        tolerance = 1e-4 if single else 1e-10
        assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@cases
def test_diagonal_is_the_mean_square(case: str) -> None:
    model, rows = CASES[case]()
    operator = fit(Diagonal(), model, rows)
    for k, g in enumerate(gradients(model, rows, Sampled())):
        torch.testing.assert_close(
            operator.eigenvalues[k], g.square().mean(0), rtol=1e-3 if case == "gemma2" else 1e-9, atol=1e-9
        )


# -- the factors -------------------------------------------------------------------------------------------------------


def sides(model: Model, rows: Examples, name: str) -> tuple[Tensor, Tensor]:
    """Inputs with 1 appended and sampled gradients at the outputs of a linear layer, every position of every example
    alone, by hooks of the library's.
    """
    layer = model.module.get_submodule(name)
    inputs, outputs, found = [], [], []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        inputs.append(args[0].detach())
        output.retain_grad()
        outputs.append(output)

    handle = layer.register_forward_hook(keep)
    for k in range(len(rows)):
        batch = batch_of(model, rows[k : k + 1])
        model.task.measure(model.module, batch, Sampled(seed=1)).sum().backward()
    handle.remove()
    model.module.zero_grad()
    for x, y in zip(inputs, outputs, strict=True):
        x = x.reshape(-1, x.shape[-1])
        if layer.bias is not None:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        found.append((x, y.grad.reshape(len(x), -1)))
    return torch.cat([a for a, _ in found]), torch.cat([d for _, d in found])


@pytest.mark.parametrize(
    ("case", "name"),
    [("llama", "model.layers.0.self_attn.k_proj"), ("llama", "model.layers.0.mlp.down_proj"),
     ("qwen2", "model.layers.0.self_attn.v_proj"), ("mlp", "2")],
)  # fmt: skip
def test_eigenvalues_of_kfac_are_products_of_the_factors_times_positions(case: str, name: str) -> None:
    """T outer(L_S, L_A): the operator is T S kron A, over the positions that are no padding."""
    model, rows = CASES[case]()
    operator: Spectral = fit(KFAC(seed=1), model, rows)
    a, d = sides(model, rows, name)
    k = next(k for k, block in enumerate(operator.blocks) if block.name == name)
    expected = len(a) / len(rows) * torch.kron(d.T @ d / len(d), a.T @ a / len(a))
    basis = kron(operator, k)
    found = (basis * operator.eigenvalues[k].flatten()) @ basis.T
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


def test_layers_with_one_input_share_its_basis() -> None:
    for case, names in (("llama", "qkv"), ("qwen2", "qkv")):
        model, rows = CASES[case]()
        operator: Spectral = fit(EKFAC(), model, rows)
        place = {block.name.rpartition(".")[2]: k for k, block in enumerate(operator.blocks)}
        q, k, v = (operator.bases[place[f"{letter}_proj"]][1] for letter in names)
        assert q is k is v is not None
        assert operator.bases[place["gate_proj"]][1] is operator.bases[place["up_proj"]][1]
        assert operator.bases[place["o_proj"]][1] is not q


def test_embeddings_keep_the_axes_of_their_tokens() -> None:
    model, rows = CASES["llama"]()
    operator: Spectral = fit(KFAC(), model, rows)
    k = next(k for k, block in enumerate(operator.blocks) if "embed" in block.name)
    left, right = operator.bases[k]
    assert left is None
    assert right is not None
    counts = torch.bincount(torch.cat([model.task.encode(row).tensors["input_ids"] for row in rows]), minlength=30)
    share = operator.eigenvalues[k][:, -1]
    torch.testing.assert_close(share / share.sum(), counts.double() / counts.sum())


def test_wide_sides_keep_their_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariance, "WIDEST", 20)
    model, rows = CASES["llama"]()
    operator: Spectral = fit(EKFAC(), model, rows)
    for block, (left, right) in zip(operator.blocks, operator.bases, strict=True):
        assert left is None or block.rows <= 20
        assert right is None or block.cols <= 20
    test_eigenvalues_of_ekfac_are_the_projected_second_moments("llama", "sampled")


def independent() -> tuple[Model, Examples]:
    """One layer whose inputs and output gradients come in all combinations, so that they are independent."""
    a, d = torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    pairs = torch.stack([torch.cat([x, y]) for x, y in itertools.product(a, d)])

    def loss(module: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        return (module(x[:, :4]) * x[:, 4:]).sum(1)

    return Model(nn.Linear(4, 3).double(), Custom(loss)), arrays(pairs)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_independent_sides_give_the_dense_matrix(kind: type[Curvature]) -> None:
    model, rows = independent()
    dense: DenseOperator = fit(Dense("empirical"), model, rows)
    operator = fit(kind("empirical"), model, rows)
    psi = torch.randn(4, 15, dtype=torch.float64)
    torch.testing.assert_close(operator.apply(psi), dense.apply(psi), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator.solve(psi, 0.01), dense.solve(psi, 0.01), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", ["mlp", "conv", "llama"])
def test_ekfac_is_nearer_to_the_fisher_matrix_than_kfac(case: str) -> None:
    """In Frobenius norm, block by block, among all diagonals in the basis."""
    model, rows = CASES[case]()
    errors = {}
    for kind in (KFAC, EKFAC, Diagonal):
        operator: Spectral = fit(kind(), model, rows)
        errors[kind] = []
        for k, g in enumerate(gradients(model, rows, Sampled())):
            basis = kron(operator, k)
            found = (basis * operator.eigenvalues[k].flatten()) @ basis.T
            errors[kind].append(float((found - g.flatten(1).T @ g.flatten(1) / len(rows)).norm()))
    assert all(corrected <= plain * (1 + 1e-12) for corrected, plain in zip(errors[EKFAC], errors[KFAC], strict=True))
    assert sum(errors[EKFAC]) < 0.99 * sum(errors[KFAC])


# -- solving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*ALL, Dense])
def test_solving_inverts_applying(kind: type[Curvature]) -> None:
    model, rows = perceptron()
    operator: Operator = fit(kind(), model, rows)
    psi = torch.randn(3, 57, dtype=torch.float64)
    lams = torch.tensor([0.3, 0.05], dtype=torch.float64)
    for damping, each in ((0.2, [0.2, 0.2]), (lams, lams.tolist())):
        solved = operator.solve(psi, damping)
        ridge = torch.cat(
            [torch.full((b.size,), lam, dtype=torch.float64) for b, lam in zip(operator.blocks, each, strict=True)]
        )
        torch.testing.assert_close(operator.apply(solved) + ridge * solved, psi, rtol=1e-9, atol=1e-9)
    assert operator.solve(psi.float(), 0.2).dtype == torch.float32
    means = operator.eigenvalue_means
    identity = torch.eye(57, dtype=torch.float64)
    trace = operator.apply(identity).diagonal()
    if kind is Dense:
        torch.testing.assert_close(means, trace.mean().repeat(2))
    else:
        torch.testing.assert_close(means, torch.stack([trace[slot].mean() for slot in operator.slots]))
        names = [operator.blocks[1].name]
        part, slot = operator.select(names), operator.slots[1]
        torch.testing.assert_close(part.solve(psi[:, slot], 0.2), operator.solve(psi, 0.2)[:, slot])


def test_what_cannot_be_inverted_is_refused() -> None:
    model, _ = perceptron()
    rows = assay.read((torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)))  # the first layer's weight has no gradient
    for kind in (Diagonal, Dense):
        with pytest.raises(MethodError, match="damping"):
            fit(kind("empirical"), model, rows).solve(torch.ones(1, 57), 0.0)


def test_dense_is_the_second_moment_and_is_for_small_models() -> None:
    model, rows = perceptron()
    g = torch.cat([part.flatten(1) for part in gradients(model, rows, Sampled())], 1)
    torch.testing.assert_close(fit(Dense(), model, rows).matrix, g.T @ g / len(rows))
    big = array_model(nn.Linear(200, 200))
    with pytest.raises(MethodError, match=r"40,200 parameters.*at most 16,384"):
        fit(Dense(), big, arrays(torch.randn(3, 200)))


# -- what must not matter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("case", ["llama tied", "conv", "mlp"])
def test_batches_do_not_matter(kind: type[Curvature], case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = CASES[case]()
    psi = torch.randn(2, sum(block.size for block in lay_out(model).blocks), dtype=torch.float64)
    expected = fit(kind(), model, rows).apply(psi)
    monkeypatch.setattr(sweep, "pack", lambda lengths, positions, most: [[k] for k in range(len(lengths))])
    alone = fit(kind(), model, rows).apply(psi)
    torch.testing.assert_close(alone, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    monkeypatch.setattr(sweep, "WINDOW", 2)
    torch.testing.assert_close(
        fit(kind(), model, rows).apply(psi), alone, rtol=1e-8, atol=1e-8 * float(expected.abs().max())
    )


def test_rotating_early_or_late_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.curvature.eigenbasis import SquaresInBasis

    for case in ("llama tied", "conv"):
        model, rows = CASES[case]()
        found = []
        for early in (True, False):
            monkeypatch.setattr(
                SquaresInBasis, "_early", lambda self, block, side, time, early=early: early or time == 1
            )
            found.append(fit(EKFAC(), model, rows).eigenvalues)
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(one.abs().max()))


def test_float32_is_near_float64() -> None:
    exact, single = (text_model("Llama", num_hidden_layers=1, dtype=dtype) for dtype in (torch.float64, torch.float32))
    for kind in ALL:
        one, other = fit(kind("empirical"), exact, ROWS), fit(kind("empirical"), single, ROWS)
        psi = torch.randn(2, sum(block.size for block in one.blocks))
        expected = one.solve(psi, one.heuristic())
        found = other.solve(psi, other.heuristic())
        assert float((found - expected).norm() / expected.norm()) < 1e-3


# -- on disk -----------------------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    (a, about), (b, told) = one.tensors(), other.tensors()
    return about == told and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", [*ALL, Dense])
def test_operators_come_back_from_disk(kind: type[Curvature], tmp_path: Path) -> None:
    model, rows = perceptron()
    operator = fit(kind(), model, rows)
    operator.save(tmp_path / "saved")
    loaded = load_operator(tmp_path / "saved")
    assert same(operator, loaded)
    assert loaded.blocks == operator.blocks
    psi = torch.randn(2, 57)
    assert torch.equal(loaded.solve(psi, 0.1), operator.solve(psi, 0.1))
    file = tmp_path / "saved" / "operator.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptIndex, match=r"operator\.safetensors.*checksum"):
        load_operator(tmp_path / "saved")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(("kind", "case"), [(EKFAC, "grouped"), (Diagonal, "mlp")])
def test_a_killed_fit_goes_on_with_the_same_bits(
    kind: type[Curvature], case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each of its writes in turn, before the file has its name."""
    monkeypatch.setattr(sweep, "WINDOW", 2)
    monkeypatch.setattr(sweep, "KEEP_EVERY", 1)
    model, rows = CASES[case]()
    rows = rows[:5]
    expected, place, finished = fit(kind(), model, rows), store._place, False
    for survived in itertools.count():
        left = survived

        def dying(temporary: Path, path: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            place(temporary, path)

        folder = tmp_path / f"{survived}"
        monkeypatch.setattr(store, "_place", dying)
        try:
            fit(kind(), model, rows, folder)
            finished = True
        except Killed:
            pass
        monkeypatch.setattr(store, "_place", place)
        assert same(fit(kind(), model, rows, folder), expected)
        assert same(load_operator(folder), expected)
        assert not list(folder.rglob("progress.*"))
        if finished:
            break
    assert survived >= 5


def test_factors_are_used_again_and_anothers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = perceptron()
    folder = tmp_path / "factors"
    first = fit(EKFAC(), model, rows, folder)
    monkeypatch.setattr(EKFAC, "fitted", None)  # would fail if called
    assert same(fit(EKFAC(), model, rows, folder), first)
    other, _ = perceptron()
    with torch.no_grad():
        next(other.module.parameters()).add_(0.1)
    for given, message in (
        ((EKFAC(), other, rows), "model"), ((EKFAC(), model, rows[:9]), "training data"), ((KFAC(), model, rows), "curvature"),
        ((EKFAC("empirical"), model, rows), "option fisher sampled, and empirical"), ((EKFAC(seed=1), model, rows), "option seed"),
    ):  # fmt: skip
        with pytest.raises(IndexMismatch, match=f"were fitted with {message}"):
            fit(*given, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(IndexMismatch, match="something else"):
        fit(EKFAC(), model, rows, tmp_path / "mine")


# -- labels ------------------------------------------------------------------------------------------------------------


def test_an_example_that_is_not_finite_stops_or_adds_nothing() -> None:
    model, rows = regression()
    x = torch.stack([torch.as_tensor(row.data["x"]) for row in rows])
    x[7, 2] = 1e200  # its gradient is no float32
    bad = assay.read((x, torch.stack([torch.as_tensor(row.data["y"]) for row in rows])))
    good = bad.select([k for k in range(30) if k != 7])
    psi = torch.randn(2, 12, dtype=torch.float64)
    for kind in (*ALL, Dense):
        with pytest.raises(NonFiniteError, match=str(bad.ids[7])):
            fit(kind(), model, bad)
        found = fit(kind(), model, bad, on_nonfinite="skip").apply(psi)
        torch.testing.assert_close(found, fit(kind(), model, good).apply(psi))


def test_a_loss_without_a_distribution_needs_the_empirical_variant() -> None:
    model = array_model(nn.Linear(3, 2))
    with pytest.raises(MethodError, match="fisher='empirical'"):
        fit(EKFAC(), model, arrays(torch.randn(4, 3)))
    fit(EKFAC("empirical"), model, arrays(torch.randn(4, 3)))
