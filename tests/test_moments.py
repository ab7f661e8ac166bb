"""What Adam remembered, from a trainer's file and from a training run's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.cli.helpers import json_lines, run
from tests.support import TEXTS, language_model, saved, tokenizer
from torch import nn

import assay
from assay.errors import ModelError
from assay.moments import moments_file, read_moments
from assay.tasks import Classify


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread would only wait for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Rows(torch.utils.data.Dataset[Any]):
    """The texts as a trainer takes them."""

    def __init__(self) -> None:
        encode = tokenizer()
        self.items = [encode(text, max_length=8, padding="max_length", truncation=True) for text in TEXTS]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"input_ids": self.items[k]["input_ids"], "labels": self.items[k]["input_ids"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that the model library's trainer wrote, with weight decay on some parameters only."""
    folder = tmp_path_factory.mktemp("trainer")
    options = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, num_train_epochs=2, save_strategy="epoch",
        learning_rate=1e-2, weight_decay=0.1, report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
        adam_beta1=0.85, adam_beta2=0.95, adam_epsilon=1e-7, seed=0,
    )  # fmt: skip
    module = language_model("Llama", dtype=torch.float32, num_hidden_layers=1)
    transformers.Trainer(model=module, args=options, train_dataset=Rows(), processing_class=tokenizer()).train()
    return folder


def test_a_trainers_file_is_read_by_name(trained: Path) -> None:
    """The gradient of the last step is what the averages of the last two checkpoints differ by."""
    first, last = trained / "checkpoint-2", trained / "checkpoint-4"
    module = transformers.AutoModelForCausalLM.from_pretrained(last)
    file = moments_file(last)
    assert file is not None
    found = read_moments(file, module)
    assert (found.step, found.betas, found.eps) == (4, (0.85, 0.95), 1e-7)
    assert found.first.keys() == dict(module.named_parameters()).keys()
    before = read_moments(first / "optimizer.pt", module)
    then = dict(transformers.AutoModelForCausalLM.from_pretrained(first).named_parameters())
    for name, p in module.named_parameters():
        assert found.first[name].shape == p.shape
        # two steps of Adam (with decay) from one checkpoint lead to the other: a gross check of every name
        moved = (p - then[name]).detach()
        assert float((moved * found.first[name]).sum()) < 0 or float(found.first[name].abs().max()) == 0, name
        assert not torch.equal(before.first[name], found.first[name]) or float(moved.abs().max()) == 0


def test_a_model_with_trainers_checkpoints_knows_its_moments(trained: Path) -> None:
    places = [(trained / f"checkpoint-{k}", 1e-2) for k in (2, 4)]
    model = assay.load(trained / "checkpoint-4", checkpoints=places)
    scores = assay.attribute(model, list(TEXTS), list(TEXTS[:2]), "less")
    assert np.isfinite(scores.array).all()
    train = trained / "train.txt"
    train.write_text("\n".join(TEXTS) + "\n")
    given = [option for place, rate in places for option in ("--checkpoint", f"{place}={rate}")]
    done = run(
        "attribute", str(places[-1][0]), "--train", str(train), "--queries", str(train), "-m", "less", "--json", *given
    )
    assert json_lines(done)
    star = assay.attribute(model, list(TEXTS), list(TEXTS[:2]), "trackstar")
    assert "Adam's second moment after 4 steps" in star.provenance.notes[0]


def test_a_file_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    other = language_model("Llama", dtype=torch.float32, num_hidden_layers=2)
    with pytest.raises(ModelError, match="do not fit the model's"):
        read_moments(trained / "checkpoint-2" / "optimizer.pt", other)
    broken = tmp_path / "optimizer.pt"
    broken.write_bytes(b"no file of torch")
    with pytest.raises(ModelError, match="cannot be read as the state of Adam"):
        read_moments(broken, other)
    sgd = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    torch.save(sgd.state_dict(), broken)
    with pytest.raises(ModelError, match="cannot be read as the state of Adam"):
        read_moments(broken, other)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"state": {}, "param_groups": Harm()}, tmp_path / "optimizer.pt")
    with pytest.raises(ModelError):
        read_moments(tmp_path / "optimizer.pt", nn.Linear(2, 2))
    assert not (tmp_path / "harm").exists()


def test_the_steps_of_a_training_run_are_checkpoints(tmp_path: Path) -> None:
    """As files beside the model that was trained; the scores are those of the run."""
    place = saved("Llama", tmp_path / "model", num_hidden_layers=1)
    base = assay.load(place)
    recipe = assay.Recipe(base.module, base.task, optimizer="adamw", lr=1e-2, epochs=2, batch_size=2, checkpoints=2)
    run_ = recipe.train(list(TEXTS), out=tmp_path / "run")
    steps = [tmp_path / "run" / f"step-{k:08d}.safetensors" for k in (2, 4)]
    model = assay.load(place, checkpoints=[(step, 1e-2) for step in steps])
    for own, read, step in zip(run_.checkpoints, model.checkpoints, (2, 4), strict=True):
        for one, other in zip(own.load().parameters(), read.load().parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert own.moments is not None
        assert read.moments is not None
        found = read.moments()
        assert found.step == own.moments().step == step
        for name, moment in own.moments().second.items():
            torch.testing.assert_close(moment, found.second[name], rtol=0, atol=0)
    expected = assay.attribute(run_, list(TEXTS), list(TEXTS[:2]), "less").array
    np.testing.assert_allclose(assay.attribute(model, list(TEXTS), list(TEXTS[:2]), "less").array, expected, atol=1e-6)


def test_a_run_of_sgd_has_no_moments(tmp_path: Path) -> None:
    x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
    recipe = assay.Recipe(lambda: nn.Linear(3, 2), Classify(), optimizer="sgd", lr=0.1, batch_size=4)
    done = recipe.train((x, y), out=tmp_path)
    assert done.checkpoints[-1].moments is None
    with pytest.raises(ModelError, match="trained with sgd; the moments of adam or adamw"):
        read_moments(tmp_path / "step-00000002.safetensors", nn.Linear(3, 2))
