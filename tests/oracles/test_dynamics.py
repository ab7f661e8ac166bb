"""Values from training dynamics against scripted logits, closed forms, and automatic differentiation."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import assay
from assay.dynamics import Record, Recorder
from assay.dynamics.looks import Moments, gradient_norms, input_gradients
from assay.dynamics.statistics import COLUMNS, by_example, statistics
from assay.errors import MethodError
from assay.gradients.functional import dense_gradients
from assay.methods import AUM, EL2N, PVI, ConfidenceVariability, Forgetting, GraNd, LossVariability, SelfInfluence, VoG
from assay.methods.dynamics.aum import relabelled
from assay.methods.dynamics.vog import standardised
from assay.models import Checkpoint, Model
from assay.tasks import Classify
from assay.training import Recipe
from assay.values import Values

ROOT2 = math.sqrt(2)


def scripted(logits: Any, labels: list[int]) -> tuple[Record, Any]:
    """A record of logits [times, n, classes], written down in the test."""
    z, y = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)
    train = assay.read((torch.zeros(len(labels), 1), y))
    recorder = Recorder(train)
    for at in z:
        recorder.step(train.ids, at, y)
    return recorder.record, train


def value(record: Any, train: Any, method: Any) -> Values:
    return assay.value(record, train, method=method)


# -- logits ------------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_a_naive_transcription() -> None:
    z, y = 3 * torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 4, (7,))
    found = dict(zip(COLUMNS, statistics(z, y), strict=True))
    for i in range(7):
        e = [math.exp(v) for v in z[i].tolist()]
        p, right = [v / sum(e) for v in e], int(y[i])
        assert float(found["loss"][i]) == pytest.approx(-math.log(p[right]))
        assert float(found["probability"][i]) == pytest.approx(p[right])
        others = [v for k, v in enumerate(z[i].tolist()) if k != right]
        assert float(found["margin"][i]) == pytest.approx(float(z[i, right]) - max(others))
        assert float(found["el2n"][i]) == pytest.approx(math.dist(p, [float(k == right) for k in range(4)]))
        assert float(found["correct"][i]) == float(max(others) < float(z[i, right]))
    order = torch.randperm(4)
    renamed = statistics(z[:, order], torch.argsort(order)[y])
    torch.testing.assert_close(renamed, torch.stack(list(found.values())))
    assert ((found["el2n"] >= 0) & (found["el2n"] <= ROOT2)).all()


def test_of_several_tokens_the_mean_and_right_only_if_all_are() -> None:
    rows = torch.tensor([[1.0, 2.0, 6.0, 5.0], [1.0, 1.0, 1.0, 0.0]])
    found = by_example(rows, torch.tensor([0, 0, 0, 1]), 2)
    assert found.tolist() == [[3.0, 5.0], [1.0, 0.0]]


def test_el2n_in_closed_form() -> None:
    """Sure and right 0, sure and wrong sqrt 2, even odds 1 / sqrt 2; of observation `at`."""
    times = [[[0, 0], [0, 0], [0, 0]], [[50, 0], [0, 50], [1, 1]]]
    record, train = scripted(times, [0, 0, 0])
    np.testing.assert_allclose(value(record, train, EL2N()).array, [0, -ROOT2, -1 / ROOT2], atol=1e-6)
    np.testing.assert_allclose(value(record, train, EL2N(at=1)).array, -1 / ROOT2, atol=1e-6)


def test_aum_of_scripted_logits() -> None:
    times = [[[2, 1, 0], [0, 3, 1]], [[4, 1, 0], [0, 1, 5]], [[0, 6, 0], [7, 0, 0]]]
    record, train = scripted(times, [0, 1])
    np.testing.assert_allclose(value(record, train, AUM()).array, [(1 + 3 - 6) / 3, (2 - 4 - 7) / 3], atol=1e-6)
    np.testing.assert_allclose(value(record, train, AUM(first=2)).array, [2, -1], atol=1e-6)


def sequence(*outcomes: str) -> Any:
    """Logits that are right (1) or wrong (0) as the strings say, an example each."""
    return [[[1.0, 0.0] if row[t] == "1" else [0.0, 1.0] for row in outcomes] for t in range(len(outcomes[0]))]


def test_forgetting_of_scripted_sequences() -> None:
    record, train = scripted(sequence("111111", "101010", "010011", "000000", "000001", "110000"), [0] * 6)
    values = value(record, train, Forgetting())
    assert values.raw["events"].tolist() == [0, 3, 1, 0, 0, 1]
    assert values.raw["never_learned"].tolist() == [0, 0, 0, 1, 0, 0]
    assert values.array.tolist() == [0, -3, -1, -6, 0, -1]
    tie, data = scripted([[[1.0, 1.0]], [[1.0, 1.0]]], [0])
    assert value(tie, data, Forgetting()).raw["never_learned"].tolist() == [1]


def test_repeated_equal_evaluations_change_nothing() -> None:
    once, train = scripted(sequence("1010", "0110"), [0, 0])
    twice, _ = scripted(sequence("11001100", "00111100"), [0, 0])
    assert value(once, train, Forgetting()).array.tolist() == value(twice, train, Forgetting()).array.tolist()


def test_variability_is_that_of_the_population() -> None:
    record, train = scripted(np.random.default_rng(0).normal(size=(5, 4, 3)).tolist(), [0, 1, 2, 0])
    losses, p = record.column("loss").astype(float), record.column("probability").astype(float)
    np.testing.assert_allclose(np.exp(-losses), p, atol=1e-6)
    found = value(record, train, LossVariability())
    np.testing.assert_allclose(found.array, [-math.sqrt(np.mean((row - row.mean()) ** 2)) for row in losses.T])
    map_ = value(record, train, ConfidenceVariability())
    np.testing.assert_allclose(map_.array, -p.std(0))
    np.testing.assert_allclose(map_.raw["confidence"], p.mean(0))
    for statistic in ("confidence", "correctness"):
        other = value(record, train, ConfidenceVariability(statistic=statistic))
        np.testing.assert_array_equal(other.array, map_.raw[statistic])
    np.testing.assert_allclose(map_.raw["correctness"], record.column("correct").mean(0))


def test_several_records_are_several_seeds() -> None:
    pairs = [scripted(np.random.default_rng(k).normal(size=(3, 4, 2)).tolist(), [0, 1, 0, 1]) for k in range(3)]
    each = np.array([value(record, train, AUM()).array for record, train in pairs])
    found = value([record for record, _ in pairs], pairs[0][1], AUM())
    np.testing.assert_allclose(found.array, each.mean(0))
    np.testing.assert_allclose(found.stderr, each.std(0, ddof=1) / math.sqrt(3))
    assert value(pairs[0][0], pairs[0][1], AUM()).stderr is None


# -- gradients ---------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Two layers; the head alone is trained in some tests."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def network() -> tuple[Model, Any]:
    torch.manual_seed(0)
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.randint(0, 4, (9,))
    return Model(Network().double(), Classify()), assay.read((x, y))


def test_grand_is_the_dense_norm() -> None:
    model, train = network()
    batch = model.task.collate([model.task.encode(one) for one in train])
    dense = dense_gradients(model, batch)
    expected = torch.stack([g.flatten(1).square().sum(1) for g in dense.values()]).sum(0).sqrt()
    np.testing.assert_allclose(gradient_norms(model, train), expected.numpy(), rtol=1e-5)
    found = value(model, train, GraNd())
    np.testing.assert_allclose(found.array, -expected.numpy(), rtol=1e-5)


def test_grand_of_the_head_is_el2n_times_its_input() -> None:
    model, train = network()
    head = Model(model.module, model.task, modules="head")
    x = torch.stack([example.data["x"] for example in train])
    length = torch.tanh(model.module.body(x)).norm(dim=1).detach().numpy()  # type: ignore[operator, union-attr]
    el2n = value(model, train, EL2N(at=1)).raw["el2n"]
    np.testing.assert_allclose(value(head, train, GraNd()).raw["grand"], el2n * length, rtol=1e-5)


def test_self_influence_of_a_record_is_that_of_the_checkpoints() -> None:
    _, train = network()
    recipe = Recipe(Network, Classify(), epochs=4, batch_size=3, lr=0.1, optimizer="sgd", checkpoints=4)
    train = assay.read(
        (torch.stack([one.data["x"] for one in train]).float(), torch.tensor([one.data["y"] for one in train]))
    )
    recorder = Recorder(train, gradients=4)
    run = recipe.train(train, recorder=recorder)
    expected = value(run, train, SelfInfluence())
    np.testing.assert_allclose(value(recorder.record, train, SelfInfluence()).array, expected.array, rtol=1e-5)
    np.testing.assert_allclose(value(recipe, train, SelfInfluence()).array, expected.array, rtol=1e-6)
    with pytest.raises(MethodError, match="0 looks at gradients"):
        value(Recorder(train).record, train, SelfInfluence())


def linear(weights: list[list[float]]) -> nn.Module:
    module = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weights))
    return module


def stages(*weights: Any) -> Model:
    made = [linear(one) for one in weights]
    return Model(made[-1], Classify(), checkpoints=[Checkpoint(str(k), 1.0, lambda m=m: m) for k, m in enumerate(made)])  # type: ignore[misc]


def test_vog_of_a_linear_model_by_hand() -> None:
    """The gradient of z_y by x is row y of the weights: of class 0 the numbers (1, 3), (2, 2), (3, 4) at three checkpoints."""
    model = stages([[1, 3], [0, 0]], [[2, 2], [0, 6]], [[3, 4], [0, 0]])
    train = assay.read((torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 1, 0])))
    of_0 = (2 / 3 + ((3 - 3) ** 2 + (2 - 3) ** 2 + (4 - 3) ** 2) / 3) / 2
    of_1 = (0 + (4 + 16 + 4) / 3) / 2
    found = value(model, train, VoG())
    np.testing.assert_allclose(found.raw["vog"], [of_0, of_1, of_0], rtol=1e-6)
    np.testing.assert_array_equal(found.array, 0)  # within their classes all are alike
    std = value(model, train, VoG(spread="std"))
    np.testing.assert_allclose(std.raw["vog"][1], math.sqrt(8) / 2, rtol=1e-6)


def test_equal_checkpoints_have_no_spread() -> None:
    model = stages(*[[[0.3, -1.7], [2.1, 0.9]]] * 3)
    train = assay.read((torch.randn(5, 2, dtype=torch.float64), torch.randint(0, 2, (5,))))
    np.testing.assert_array_equal(value(model, train, VoG()).raw["vog"], 0)


def test_welford_is_the_two_pass_variance() -> None:
    numbers = (100 + np.random.default_rng(0).normal(size=(12, 30))).astype(np.float32)
    offsets, moments = np.array([0, 4, 5, 17, 30]), Moments.none()
    for look in numbers:
        moments = moments.add(offsets, look)
    two_pass = ((numbers.astype(float) - numbers.astype(float).mean(0)) ** 2).mean(0)
    expected = [two_pass[a:b].mean() for a, b in pairwise(offsets)]
    np.testing.assert_allclose(moments.spread(), expected, rtol=1e-3)
    roots = [np.sqrt(two_pass[a:b]).mean() for a, b in pairwise(offsets)]
    np.testing.assert_allclose(moments.spread("std"), roots, rtol=1e-3)


def test_both_readings_of_the_spread_rank_alike() -> None:
    from scipy.stats import spearmanr

    torch.manual_seed(0)
    x = torch.randn(120, 6)
    train = assay.read((x, (x[:, 0] * x[:, 1] > 0).long()))
    make = lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))  # noqa: E731
    recorder = Recorder(train, evaluations=None, inputs=10)
    Recipe(make, Classify(), epochs=8, lr=1e-2).train(train, recorder=recorder)
    kinds = [recorder.record.inputs.spread(kind) for kind in ("variance", "std")]
    assert spearmanr(*kinds).statistic > 0.95


class Embedded(nn.Module):
    """A bag of embeddings with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 3, padding_idx=0), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).sum(1) / (x != 0).sum(1, keepdim=True))


def test_of_tokens_the_gradient_is_by_the_embedding_and_without_padding() -> None:
    module = Embedded()
    train = assay.read((torch.tensor([[1, 2, 0, 0], [3, 4, 5, 0]]), torch.tensor([0, 1])))
    offsets, numbers = input_gradients(Model(module, Classify()), train)
    assert offsets.tolist() == [0, 6, 15]
    rows = module.head.weight.detach().numpy()
    np.testing.assert_allclose(numbers, np.concatenate([np.tile(rows[0] / 2, 2), np.tile(rows[1] / 3, 3)]), rtol=1e-6)
    assert not module.embed._forward_hooks
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_standardised_within_classes() -> None:
    d, labels = np.array([1.0, 3.0, 10.0, 30.0, 7.0]), np.array([0, 0, 1, 1, 2])
    np.testing.assert_allclose(standardised(d, labels), [-1, 1, -1, 1, 0])


# -- information -------------------------------------------------------------------------------------------------------


def channel(n: int, flip: float) -> tuple[Tensor, Tensor]:
    """A fair bit, and the bit that comes out of a channel that flips it; exactly a share `flip` is flipped."""
    bit = torch.arange(n) % 2
    out = torch.where(torch.arange(n) < round(flip * n), 1 - bit, bit)
    order = torch.randperm(n)
    return nn.functional.one_hot(bit[order], 2).float(), out[order]


@pytest.mark.parametrize(("flip", "tolerance"), [(0.1, 0.04), (0.5, 0.03)])
def test_the_mean_of_pvi_is_the_information_of_a_known_channel(flip: float, tolerance: float) -> None:
    """I = 1 - H(flip) bits; 0 where input and output are independent. 400 rows, a fixed seed."""
    x, y = channel(400, flip)
    recipe = Recipe(lambda: nn.Linear(2, 2), Classify(), epochs=12, lr=0.1, batch_size=50)
    entropy = -sum(p * math.log2(p) for p in (flip, 1 - flip))
    values = assay.value(recipe, (x, y), method=PVI(runs=2, folds=2))
    assert values.unit == "bits"
    assert float(values.array.mean()) == pytest.approx(1 - entropy, abs=tolerance)
    wrong = (x.argmax(1) != y).numpy()
    if flip < 0.5:
        assert values.array[wrong].max() < 0 < values.array[~wrong].min()


def test_pvi_asks_models_that_have_not_seen_the_example() -> None:
    """Random inputs and labels: a model that has memorised them would be sure of its labels."""
    torch.manual_seed(1)
    x, y = torch.randn(40, 30), torch.randint(0, 2, (40,))
    recipe = Recipe(lambda: nn.Linear(30, 2), Classify(), epochs=30, lr=0.05, batch_size=10)
    seen = recipe.train((x, y)).loss_of((x, y)).mean()
    values = assay.value(recipe, (x, y), method=PVI(runs=1, folds=4))
    assert float(seen) < 0.1
    assert float(values.raw["bits"].mean()) > 0.9


# -- mislabelled digits ------------------------------------------------------------------------------------------------


def test_the_threshold_of_aum_finds_flipped_digits() -> None:
    """Handwritten digits, a fifth of the labels wrong: precision and recall above 0.8 at a fixed seed."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    some = rng.permutation(len(y))[:900]
    x, labels = torch.tensor(X[some] / 16, dtype=torch.float32), y[some]
    wrong = rng.random(len(some)) < 0.2
    given = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    make = lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 11))  # noqa: E731
    recipe = Recipe(make, Classify(), optimizer="sgd", momentum=0.9, lr=0.1, epochs=15, batch_size=32)
    values = assay.value(recipe, (x, torch.tensor(given)), method=AUM(threshold=99.0, runs=1))
    flagged = values.raw["flagged"] == 1
    assert (flagged & wrong).sum() / flagged.sum() > 0.8
    assert (flagged & wrong).sum() / wrong.sum() > 0.8
    with pytest.raises(MethodError, match="which takes an assay"):
        assay.value(
            Recorder(assay.read((x, torch.tensor(given)))).record, (x, torch.tensor(given)), method=AUM(threshold=99.0)
        )
    data = recipe.encode((x, torch.tensor(given)))
    other = relabelled(data, np.array([3]), 10)
    assert int(other.items[3].tensors["y"]) == 10
    assert int(data.items[3].tensors["y"]) == given[3]
    small = replace(recipe, make_model=lambda: nn.Linear(64, 10), epochs=1)
    with pytest.raises(MethodError, match="10 outputs for 10 classes"):
        assay.value(small, (x, torch.tensor(given)), method=AUM(threshold=99.0, runs=1))
