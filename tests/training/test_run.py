"""What a run keeps: checkpoints, the optimiser's memory, the learning curve; and resuming after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.errors import InputError, MethodError, StorageError
from assay.tasks import Classify, Custom, Loss, Margin
from assay.training import Recipe, Run

N, STEPS = 18, 12


class Net(nn.Module):
    """With dropout and BatchNorm, so that a run has every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.inner(x)).tanh()))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 4, generator=generator), torch.randint(3, (N,), generator=generator)


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 0.02, "epochs": 4, "batch_size": 6, "schedule": "linear"}
    settings |= {"weight_decay": 0.1, "checkpoints": 4, "seed": 3} | changes
    return Recipe(settings.pop("make_model", Net), settings.pop("task", Classify()), **settings)


def same(one: Run, other: Run) -> bool:
    """Bit for bit, in everything but the seconds."""
    states = [
        a.step == b.step
        and torch.equal(a.params, b.params)
        and all(torch.equal(a.moments[k], b.moments[k]) for k in a.moments.keys() | b.moments.keys())
        and all(torch.equal(a.buffers[k], b.buffers[k]) for k in a.buffers.keys() | b.buffers.keys())
        for a, b in zip(one.states, other.states, strict=True)
    ]
    curves = torch.equal(one.losses, other.losses) and torch.equal(one.rates, other.rates)
    return all(states) and curves and one.model.fingerprint() == other.model.fingerprint()


def test_checkpoints_are_the_run_at_their_step(data: Any) -> None:
    """Each equals the end of the run walked step by step to there, buffers included."""
    given = recipe()
    run = given.train(data)
    assert [state.step for state in run.states] == [3, 6, 9, 12]
    assert [c.name for c in run.checkpoints] == ["step-3", "step-6", "step-9", "step-12"]
    assert [c.rate for c in run.checkpoints] == pytest.approx([0.02 * (1 - (s - 1) / STEPS) for s in (3, 6, 9, 12)])
    steps = given.steps(data)
    params, moments = steps.start().params, steps.start().moments
    for step in range(6):
        gradient, loss = steps.gradient(params, step)
        assert loss == run.losses[step]
        params, moments = steps.update(params, moments, gradient, step)
    walked, kept = steps.layout.split(params), run.checkpoints[1].load().state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in walked.items())
    assert all(torch.equal(kept[name], buffer) for name, buffer in steps.module.named_buffers())
    assert all(torch.equal(run.moment("second", 1)[n], t) for n, t in steps.layout.split(moments["second"]).items())


def test_the_last_checkpoint_is_the_model(data: Any) -> None:
    run = recipe().train(data)
    last, model = run.checkpoints[-1].load(), run.model.module
    assert all(torch.equal(last.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    assert not last.training
    assert run.model.stages() == run.checkpoints
    assert run.seconds > 0


def test_a_checkpoint_is_a_copy(data: Any) -> None:
    run = recipe().train(data)
    before = run.states[0].params.clone()
    with torch.no_grad():
        for module in (run.checkpoints[0].load(), run.model.module):
            for parameter in module.parameters():
                parameter.zero_()
    assert torch.equal(run.states[0].params, before)
    assert torch.equal(run.checkpoints[0].load().out.bias, run.layout.split(before)["out.bias"])


def test_moments_have_the_parameters_names_and_shapes(data: Any) -> None:
    run = recipe().train(data)
    shapes = {name: p.shape for name, p in run.model.module.named_parameters()}
    assert {name: t.shape for name, t in run.moment("second").items()} == shapes
    assert all(bool((t >= 0).all()) for t in run.moment("second").values())
    with pytest.raises(MethodError, match="remembers first, second"):
        run.moment("momentum")
    with pytest.raises(MethodError, match="remembers nothing"):
        recipe(optimizer="sgd").train(data).moment("second")


def test_more_checkpoints_change_no_bit(data: Any) -> None:
    one, many = recipe(checkpoints=1).train(data), recipe(checkpoints=99).train(data)
    assert torch.equal(one.states[-1].params, many.states[-1].params)
    assert len(many.states) == STEPS


def test_loss_of_is_the_models_loss(data: Any) -> None:
    given = recipe()
    run = given.train(data)
    x, y = data
    logits = run.model.module(x)
    expected = nn.functional.cross_entropy(logits, y, reduction="none").detach()
    torch.testing.assert_close(run.loss_of(data), expected)
    torch.testing.assert_close(run.loss_of(given.encode(data)), expected)
    assert not torch.equal(run.loss_of(data, Margin()), expected)


class Killed(BaseException):
    """A kill that no handler for errors sees."""


def killing(task: Classify, at: int) -> Custom:
    """The task, until its call number `at`."""
    calls = iter(range(10**6))

    def loss(module: nn.Module, x: Tensor, y: Any) -> Tensor:
        if next(calls) == at:
            raise Killed
        return nn.functional.cross_entropy(module(x), y.long(), reduction="none")

    return Custom(loss)


@pytest.mark.parametrize("at", [0, 2, 3, 8, 11])
def test_a_killed_run_goes_on_to_the_same_bits(at: int, data: Any, tmp_path: Path) -> None:
    weights = torch.linspace(0, 2, N)
    whole = recipe(task=killing(Classify(), 99)).train(data, weights)
    with pytest.raises(Killed):
        recipe(task=killing(Classify(), at)).train(data, weights, out=tmp_path)
    assert len(list(tmp_path.glob("step-*.safetensors"))) == at // 3
    assert not (tmp_path / "training.json").exists()
    count = STEPS - at // 3 * 3  # steps that are left
    with pytest.raises(Killed):
        recipe(task=killing(Classify(), count - 1)).train(data, weights, out=tmp_path)
    resumed = recipe(task=killing(Classify(), 3)).train(data, weights, out=tmp_path)  # at most three are left
    assert same(whole, resumed)


def test_a_complete_run_is_returned_at_once(data: Any, tmp_path: Path) -> None:
    run = recipe(task=killing(Classify(), 99)).train(data, out=tmp_path)
    again = recipe(task=killing(Classify(), 0)).train(data, out=tmp_path)
    assert same(run, again)
    assert again.seconds == run.seconds
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000003.safetensors",
        "step-00000006.safetensors",
        "step-00000009.safetensors",
        "step-00000012.safetensors",
        "training.json",
    ]


def test_killed_between_the_last_checkpoint_and_the_manifest(data: Any, tmp_path: Path) -> None:
    run = recipe().train(data, out=tmp_path)
    (tmp_path / "training.json").unlink()
    assert same(run, recipe().train(data, out=tmp_path))
    assert (tmp_path / "training.json").exists()


@pytest.mark.parametrize(
    ("changes", "weights", "says"),
    [
        ({"lr": 0.03}, None, "lr"),
        ({"seed": 4}, None, "seed, initial model"),
        ({"betas": (0.8, 0.9)}, None, "betas"),
        ({}, [0.5] * N, "weights"),
        ({"make_model": lambda: nn.Linear(4, 3)}, None, "initial model"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_directory_of_another_run_is_refused(
    complete: bool, changes: dict[str, Any], weights: Any, says: str, data: Any, tmp_path: Path
) -> None:
    recipe().train(data, out=tmp_path)
    if not complete:
        (tmp_path / "training.json").unlink()
    with pytest.raises(MethodError, match=rf"differs in: {says}\."):
        recipe(**changes).train(data, weights, out=tmp_path)
    with pytest.raises(MethodError, match="examples"):
        recipe().train((data[0] + 1, data[1]), out=tmp_path)


def test_damaged_files_are_refused(data: Any, tmp_path: Path) -> None:
    recipe().train(data, out=tmp_path)
    file = tmp_path / "step-00000006.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"step-00000006.safetensors is missing or not what was written"):
        recipe().train(data, out=tmp_path)
    (tmp_path / "training.json").unlink()
    file.write_bytes(content[:40])
    with pytest.raises(InputError, match="is damaged"):
        recipe().train(data, out=tmp_path)
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read"):
        recipe().train(data, out=tmp_path)
    (tmp_path / "training.json").write_text(json.dumps({"format": "x", "version": 9, "run": {}, "files": {}}))
    with pytest.raises(InputError, match="format x 9"):
        recipe().train(data, out=tmp_path)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(data: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        recipe().train(data, out=tmp_path / "file")


def test_loss_of_uses_the_mean_over_tokens_by_default() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from assay.tasks import CausalLM

    words = {word: k for k, word in enumerate(["<pad>", "<unk>", *"abcdefgh"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    texts = [{"text": text} for text in ("a b c d e", "a b", "c d e f g h a b", "b b b", "h g f")]
    given = Recipe(
        lambda: LlamaForCausalLM(config), CausalLM(tokenizer, 16), lr=0.01, epochs=2, batch_size=2, reduction="sum"
    )
    run, again = given.train(texts), given.train(texts)
    assert run.model.fingerprint() == again.model.fingerprint()
    predicted = torch.tensor([len(row["text"].split()) - 1 for row in texts])
    torch.testing.assert_close(run.loss_of(texts, Loss("sum")), run.loss_of(texts) * predicted)
    left = given.train(texts, [1, 1, 0, 1, 1])
    other = given.train([*texts[:2], {"text": "h h h h h h h h"}, *texts[3:]], [1, 1, 0, 1, 1])
    assert torch.equal(left.states[-1].params, other.states[-1].params)
