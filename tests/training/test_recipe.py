"""Training by recipe: against a plain torch loop, same bits for the same seed, what a weight does, what is refused."""

import copy
import dataclasses
import math
import pickle
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

import assay.examples
from assay.errors import DataError, InputError, MethodError, ModelError, NonFiniteError
from assay.tasks import Classify, Custom, Regress
from assay.training import Recipe
from assay.training.data import Order, evenly

N = 23


def mlp(dropout: float = 0.0) -> nn.Module:
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double()


@pytest.fixture
def data() -> Any:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    return assay.examples.read((x, torch.randint(3, (N,), generator=generator)), name="row")


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 5} | changes
    return Recipe(settings.pop("make_model", mlp), settings.pop("task", Classify()), **settings)


def vector(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def plain_loop(given: Recipe, data: Any, weights: Tensor, make: Any, rates: Any = None) -> nn.Module:
    """The recipe written out with torch.optim, on cross-entropy."""
    torch.manual_seed(given.seed)
    module = mlp()
    optimizer = make(module.parameters())
    x = torch.stack([e.data["x"] for e in data])
    y = torch.tensor([e.data["y"] for e in data])
    order = given.order(len(data))
    for step in range(order.total):
        rows = order.rows(step)
        losses = nn.functional.cross_entropy(module(x[rows]), y[rows], reduction="none")
        optimizer.zero_grad()
        ((losses * weights[rows]).sum() / given.batch_size).backward()
        if given.clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), given.clip)
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates(step, order.total)
        optimizer.step()
    return module


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        ({}, lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            {"momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        ({"optimizer": "adam", "clip": 0.05}, lambda p: torch.optim.Adam(p, lr=0.1)),
        ({"optimizer": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
    ],
)
def test_equals_a_plain_loop(changes: dict[str, Any], make: Any, data: Any) -> None:
    weights = torch.linspace(-0.5, 2.0, N, dtype=torch.float64)
    weights[3] = 0.0
    given = recipe(**changes)
    expected = plain_loop(given, data, weights, make)
    torch.testing.assert_close(
        vector(given.train(data, weights).model.module), vector(expected), rtol=1e-12, atol=1e-12
    )


def test_equals_a_plain_loop_under_a_schedule(data: Any) -> None:
    given = recipe(schedule="linear", warmup=0.2, epochs=4)

    def rate(step: int, total: int) -> float:
        climbing = 4  # of 20 steps
        return 0.1 * ((step + 1) / climbing if step < climbing else (total - step) / (total - climbing))

    expected = plain_loop(given, data, torch.ones(N), lambda p: torch.optim.SGD(p, lr=0.1), rate)
    run = given.train(data)
    torch.testing.assert_close(vector(run.model.module), vector(expected), rtol=1e-12, atol=1e-12)
    assert run.rates.tolist() == pytest.approx([rate(step, 20) for step in range(20)])


def test_same_seed_same_bits(data: Any) -> None:
    given = recipe(make_model=lambda: mlp(0.3), optimizer="adamw", checkpoints=3)
    torch.manual_seed(1)
    first = given.train(data)
    torch.manual_seed(2)
    second = given.train(data)
    other = dataclasses.replace(given, seed=1).train(data)
    assert torch.equal(vector(first.model.module), vector(second.model.module))
    assert torch.equal(first.losses, second.losses)
    assert first.model.fingerprint() == second.model.fingerprint()
    assert not torch.equal(vector(first.model.module), vector(other.model.module))


def test_the_callers_random_state_is_untouched(data: Any) -> None:
    before = torch.get_rng_state()
    recipe(make_model=lambda: mlp(0.3)).train(data)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(NonFiniteError):
        recipe(lr=1e300, make_model=lambda: nn.Linear(5, 1).double(), task=Regress()).train(data)
    assert torch.equal(before, torch.get_rng_state())


def test_a_module_is_copied_and_left_alone(data: Any) -> None:
    module = mlp().eval()
    before, own = copy.deepcopy(module.state_dict()), vector(module)
    run = recipe(make_model=module).train(data)
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert not module.training
    assert all(p.grad is None for p in module.parameters())
    assert not torch.equal(vector(run.model.module), own)
    assert not run.model.module.training


def test_the_initialisation_is_that_of_the_seed(data: Any) -> None:
    torch.manual_seed(4)
    expected = vector(mlp())
    assert torch.equal(vector(recipe(seed=4).initial()), expected)
    assert torch.equal(recipe(seed=4).steps(data).start().params, expected)


def test_ones_equal_none(data: Any) -> None:
    given = recipe(make_model=lambda: mlp(0.2))
    run, ones = given.train(data), given.train(data, [1] * N)
    assert torch.equal(vector(run.model.module), vector(ones.model.module))


def test_weight_zero_is_removal_under_the_same_batches(data: Any) -> None:
    """The gradient of the step is that of the other rows alone, with the same divisor."""
    weights = torch.ones(N)
    weights[[2, 11, 12]] = 0.0
    given = recipe()
    steps = given.steps(data, weights)
    params = steps.start().params
    seen = 0
    for step in range(steps.order.per_epoch):
        rows = steps.order.rows(step)
        left = [int(row) for row in rows if weights[row] != 0]
        seen += len(rows) - len(left)
        module = given.initial()
        x = torch.stack([data[row].data["x"] for row in left])
        y = torch.tensor([data[row].data["y"] for row in left])
        loss = nn.functional.cross_entropy(module(x), y, reduction="sum") / given.batch_size
        expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        gradient, mean = steps.gradient(params, step)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
        assert mean == pytest.approx(float(loss.detach()) * given.batch_size / len(left))
    assert seen == 3


def test_weight_zero_is_exact(data: Any) -> None:
    """What an example of weight 0 holds changes no bit."""
    x = torch.stack([e.data["x"] for e in data])
    y = torch.tensor([e.data["y"] for e in data])
    weights = [0.0 if row in (4, 9) else 1.0 for row in range(N)]
    changed = x.clone()
    changed[[4, 9]] = torch.randn(2, 5, dtype=torch.float64)
    given = recipe(make_model=lambda: mlp(0.3), optimizer="adam")
    one, other = given.train((x, y), weights), given.train((changed, y), weights)
    assert torch.equal(vector(one.model.module), vector(other.model.module))
    assert torch.equal(one.losses, other.losses)


def test_all_weights_zero_leaves_the_initialisation(data: Any) -> None:
    given = recipe(optimizer="adam")
    run = given.train(data, torch.zeros(N))
    assert torch.equal(vector(run.model.module), vector(given.initial()))
    assert run.losses.isnan().all()


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "weight_decay": 0.1, "eps": 1e-3}, {"momentum": 0.9}])
def test_parameters_are_smooth_in_a_weight(changes: dict[str, Any], data: Any) -> None:
    """Central differences of spacing h and h/10 agree to O(h^2)."""
    given = recipe(**changes)
    encoded = given.encode(data)

    def slope(h: float) -> Tensor:
        up, down = torch.ones(N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
        up[6] += h
        down[6] -= h
        plus, minus = (vector(given.train(encoded, w).model.module) for w in (up, down))
        return (plus - minus) / (2 * h)

    coarse, fine = slope(1e-3), slope(1e-4)
    assert fine.norm() > 1e-4
    assert (coarse - fine).norm() < 1e-4 * fine.norm()


def test_weights_do_not_shift_dropout(data: Any) -> None:
    """Halving all weights halves the first step's gradient exactly: same rows, same dropout."""
    given = recipe(make_model=lambda: mlp(0.5))
    whole, half = given.steps(data), given.steps(data, [0.5] * N)
    params = whole.start().params
    for step in range(4):
        assert torch.equal(whole.gradient(params, step)[0], 2 * half.gradient(params, step)[0])
    assert not torch.equal(whole.gradient(params, 0)[0], whole.gradient(params, 5)[0])


def test_order_covers_every_epoch_and_follows_from_seed_and_epoch() -> None:
    order = Order(N, 5, 3, seed=2)
    assert (order.per_epoch, order.total) == (5, 15)
    epochs = [torch.cat([order.rows(5 * epoch + b) for b in range(5)]) for epoch in range(3)]
    assert all(sorted(rows.tolist()) == list(range(N)) for rows in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(order.rows(4)) == 3
    assert torch.equal(Order(N, N, 9, seed=2).rows(1), epochs[1])
    assert not torch.equal(Order(N, 5, 3, seed=3).rows(0), order.rows(0))


def test_a_batch_larger_than_the_data_divides_by_the_data(data: Any) -> None:
    module = (run := recipe(batch_size=1000, epochs=1).train(data)).model.module
    assert torch.equal(vector(module), vector(recipe(batch_size=N, epochs=1).train(data).model.module))
    assert len(run.losses) == 1


@pytest.mark.parametrize(
    ("total", "count", "steps"),
    [(10, 1, [10]), (10, 2, [5, 10]), (10, 3, [3, 7, 10]), (3, 9, [1, 2, 3]), (7, 7, [1, 2, 3, 4, 5, 6, 7])],
)
def test_checkpoints_are_spread_evenly(total: int, count: int, steps: list[int]) -> None:
    assert evenly(total, count) == steps


def test_a_regression_takes_its_closed_form_step() -> None:
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    given = recipe(make_model=nn.Linear(2, 1).double(), task=Regress(), batch_size=6, epochs=1, lr=0.3)
    linear = given.initial()
    residual = linear(x).squeeze(1).detach() - y
    run = given.train((x, y))
    expected = linear.weight.detach() - 0.3 * (residual[:, None] * x).mean(0, keepdim=True)
    torch.testing.assert_close(run.model.module.weight.detach(), expected)
    assert run.losses[0] == pytest.approx(float(0.5 * residual.square().mean()))


def test_only_trainable_parameters_move_and_tied_ones_move_together(data: Any) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
            self.two.weight = self.one.weight
            self.one.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x)))

    torch.manual_seed(0)
    module = Tied().double()
    run = recipe(make_model=module, checkpoints=2).train(data)
    trained: Any = run.model.module
    assert trained.two.weight is trained.one.weight
    assert torch.equal(trained.one.bias, module.one.bias)
    assert not torch.equal(trained.one.weight, module.one.weight)
    early: Any = run.checkpoints[0].load()
    assert early.two.weight is early.one.weight
    assert torch.equal(early.two.weight.detach(), run.layout.split(run.states[0].params)["one.weight"])


def test_a_parameter_without_influence_decays() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 1), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    given = recipe(make_model=Idle, task=Regress(), optimizer="adamw", weight_decay=0.5, epochs=1, batch_size=4)
    run = given.train((torch.randn(4, 2), torch.randn(4)))
    assert run.model.module.idle.tolist() == pytest.approx([0.95] * 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "adamv"}, "Did you mean 'adam"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'?"),
        ({"reduction": "average"}, "reduction 'average'"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": -1}, "lr is -1"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": math.inf}, "lr is inf"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"checkpoints": 0}, "checkpoints is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": 0.9, "optimizer": "adam"}, "momentum belongs to sgd"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"betas": (0.9, 1.0)}, "betas is 1.0"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"clip": 0.0}, "clip is 0.0"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(MethodError) as caught:
        recipe(**changes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0] * (N - 1), "shape [22]"),
        (torch.ones(N, 1), "shape [23, 1]"),
        ([1.0] * 5 + [math.nan] + [1.0] * 17, "position 5"),
        (torch.full((N,), math.inf), "position 0"),
        (["a"] * N, "no list of numbers"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, says: str, data: Any) -> None:
    with pytest.raises(MethodError) as caught:
        recipe().train(data, weights)
    assert says in str(caught.value)


def test_wrong_models_are_refused(data: Any) -> None:
    frozen = mlp().requires_grad_(False)
    mixed = mlp()
    mixed[0].float()
    for module, says in (
        (frozen, "no trainable parameter"),
        (mixed, "float32"),
        (mlp().half(), "float16"),
        (lambda: 3, "returned a int"),
    ):
        with pytest.raises(ModelError) as caught:
            recipe(make_model=module).train(data)
        assert says in str(caught.value)
    given = recipe()
    for name, value in (("task", Classify), ("make_model", 3)):  # set behind the type check that tests run under
        object.__setattr__(given, name, value)
        with pytest.raises(InputError, match=name):
            given.__post_init__()


def test_a_loss_out_of_the_parameters_reach_is_refused(data: Any) -> None:
    task = Custom(lambda module, x, y: module(x).detach().sum(1))
    with pytest.raises(ModelError, match="does not depend on its trainable parameters"):
        recipe(task=task).train(data)


def test_no_examples_are_refused(data: Any) -> None:
    with pytest.raises(DataError, match="no examples"):
        recipe().train(data.select([]))
    with pytest.raises(MethodError, match="another task"):
        recipe().train(recipe().encode(data))


def test_a_loss_that_is_not_finite_names_step_and_example(data: Any) -> None:
    def loss(module: nn.Module, x: Tensor, y: Any) -> Tensor:
        values = nn.functional.cross_entropy(module(x), y, reduction="none")
        return torch.where((x == data[8].data["x"]).all(1), values + math.nan, values)

    given = recipe(task=Custom(loss))
    step = next(s for s in range(5) if 8 in given.order(N).rows(s).tolist())
    with pytest.raises(NonFiniteError, match=rf"example row:9 is nan at step {step};"):
        given.train(data)
    with pytest.raises(NonFiniteError, match=r"at step \d+ .*Lower the learning rate"):
        recipe(lr=1e300, task=Regress(), make_model=lambda: nn.Linear(5, 1).double()).train(data)


def test_weights_that_are_not_finite_after_the_last_step_are_refused() -> None:
    task = Custom(lambda module, x, y: module(x).squeeze(1).abs().sqrt())  # derivative infinite at 0
    linear = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(linear.weight)
    with pytest.raises(NonFiniteError, match="weights became NaN"):
        Recipe(linear, task, optimizer="sgd", batch_size=2).train((torch.ones(2, 1), torch.ones(2)))


def test_encoded_rows_travel_without_the_array_they_were_cut_from() -> None:
    x, y = torch.randn(400, 50), torch.randint(0, 2, (400,))
    encoded = Recipe(lambda: nn.Linear(50, 2), Classify()).encode((x, y))
    sent = cloudpickle.dumps(encoded.__getstate__()["items"])
    assert len(sent) < 50 * x.numel()  # a row that brings the whole array makes it 400 times that
    twin = pickle.loads(cloudpickle.dumps(encoded))
    assert all(torch.equal(a.tensors["x"], b.tensors["x"]) for a, b in zip(twin.items, encoded.items, strict=True))
