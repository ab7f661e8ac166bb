"""One record, however the run is driven: a loop, a recipe, the model library's trainer; resumed, saved, refused."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import classifier, examples
from torch import nn

import assay
from assay.dynamics import Record, Recorder
from assay.dynamics.statistics import COLUMNS
from assay.errors import DataError, InputError, MethodError, NonFiniteError
from assay.methods import AUM, EL2N, Forgetting, VoG
from assay.tasks import Classify
from assay.training import Recipe

ROWS = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS[:, 0] > 0).long()
TRAIN = assay.read((ROWS, LABELS))


def recipe(**changes: Any) -> Recipe:
    make = lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
    settings = {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 5, "checkpoints": 3} | changes
    return Recipe(make, Classify(), **settings)


def plain_loop(recorder: Recorder, how: Recipe) -> nn.Module:
    """The recipe's run, written out by hand on `torch.optim`."""
    from assay.training.randomness import forked, set_noise

    module, order = how.initial().train(), how.order(len(TRAIN))
    optimizer = torch.optim.SGD(module.parameters(), lr=how.lr)
    with forked():
        for step in range(order.total):
            rows = order.rows(step)
            set_noise(how.seed, step)
            logits = module(ROWS[rows])
            recorder.step([TRAIN.ids[row] for row in rows.tolist()], logits, LABELS[rows])
            optimizer.zero_grad()
            (nn.functional.cross_entropy(logits, LABELS[rows], reduction="sum") / order.size).backward()
            optimizer.step()
    return module


def same(one: Record, other: Record, tolerance: float = 0.0) -> None:
    assert (one.kind, one.step, list(one.ids)) == (other.kind, other.step, list(other.ids))
    np.testing.assert_allclose(one.numbers, other.numbers, atol=tolerance)
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.norms, other.norms, atol=tolerance)
    np.testing.assert_allclose(one.inputs.squares, other.inputs.squares, atol=tolerance)
    assert list(one.norm_steps) == list(other.norm_steps)


def test_a_recipe_gives_the_record_of_the_plain_loop_and_stays_as_it_is() -> None:
    by_hand, by_recipe, how = Recorder(TRAIN), Recorder(TRAIN), recipe()
    plain_loop(by_hand, how)
    run = how.train(TRAIN, recorder=by_recipe)
    same(by_recipe.record, by_hand.record, 1e-6)
    assert by_recipe.record.numbers.shape == (3, len(COLUMNS), 23)
    everything = Recorder(TRAIN, evaluations=4, gradients=2, inputs=3)
    watched, bare = how.train(TRAIN, recorder=everything), how.train(TRAIN)
    for other in (run, watched):
        assert torch.equal(other.states[-1].params, bare.states[-1].params)
    assert everything.record.kind == "evaluations"
    assert (everything.record.steps == np.array([4, 8, 11, 15])[:, None]).all()
    assert list(everything.record.norm_steps) == [8, 15]
    assert everything.record.inputs.count == 3
    logits = run.model.module(ROWS)
    expected = nn.functional.cross_entropy(logits, LABELS, reduction="none").detach()
    np.testing.assert_allclose(everything.record.column("loss")[-1], expected, atol=1e-6)
    assert not any(m._forward_hooks for m in run.model.module.modules())


def test_a_run_that_was_killed_goes_on_with_its_record(tmp_path: Path) -> None:
    how = recipe()
    whole = Recorder(TRAIN, gradients=3, inputs=3)
    how.train(TRAIN, recorder=whole)

    class Killed(Recorder):
        def look(self, model: Any, step: int, due: Any, rate: float) -> None:
            super().look(model, step, due, rate)
            if step == 15:  # after the look, before the checkpoint
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        how.train(TRAIN, out=tmp_path / "run", recorder=Killed(TRAIN, gradients=3, inputs=3, out=tmp_path / "record"))
    assert Record.load(tmp_path / "record").step == 10
    again = Recorder(TRAIN, gradients=3, inputs=3, out=tmp_path / "record")
    how.train(TRAIN, out=tmp_path / "run", recorder=again)
    same(again.record, whole.record)
    same(Record.load(tmp_path / "record"), whole.record)
    unknown = Recorder(TRAIN)
    how.train(TRAIN, out=tmp_path / "run", recorder=unknown)
    assert unknown.record.notes == ("Steps 1 to 15 were not recorded.",)


def test_a_checkpoint_before_the_last_state_finds_the_record_as_it_was(tmp_path: Path) -> None:
    recorder = Recorder(TRAIN, out=tmp_path)
    for step in (1, 2, 3):
        recorder.step(range(23), torch.randn(23, 2), LABELS)
        recorder.save()
        if step == 2:
            second = recorder.record
    recorder.resume(2)
    same(recorder.record, second)
    assert json.loads((tmp_path / "record.json").read_text())["states"][-1]["step"] == 3
    recorder.save()
    assert Record.load(tmp_path).step == 2
    assert len(list(tmp_path.glob("observation-*"))) == 2
    other = Recorder(TRAIN, out=tmp_path)
    other.step(range(23), torch.randn(23, 2), LABELS, step=9)
    other.save()
    same(Record.load(tmp_path), other.record)
    other.resume(2)
    assert other.record.notes == ("Steps 1 to 2 were not recorded.",)


def test_visits_in_any_order_fill_each_examples_next_row() -> None:
    recorder = Recorder(["a", "b", "c"])
    recorder.step(["b", "a", "b"], torch.tensor([[1.0, 0], [2, 0], [3, 0]]), [0, 0, 0])
    recorder.step(["b"], torch.tensor([[4.0, 0]]), [0])
    margins = recorder.record.column("margin")
    np.testing.assert_array_equal(margins, [[2, 1, np.nan], [np.nan, 3, np.nan], [np.nan, 4, np.nan]])
    assert recorder.record.steps.tolist() == [[1, 1, -1], [-1, 1, -1], [-1, 2, -1]]
    assert recorder.record.observations.tolist() == [1, 3, 0]
    train = assay.read([{"id": id, "text": id} for id in "ba"])
    found = assay.value(recorder.record, train, method=AUM())
    assert found.array.tolist() == [pytest.approx(8 / 3), 2]
    with pytest.raises(MethodError, match="c has 0"):
        assay.value(recorder.record, assay.read([{"id": "c", "text": "c"}]), method=AUM())
    with pytest.raises(MethodError, match="el2n needs 2 observations of every example, and a has 1"):
        assay.value(recorder.record, train, method=EL2N())


def test_a_module_that_is_watched_is_called_as_before() -> None:
    model = classifier(torch.float32)
    data = examples(
        *({"text": text, "label": label} for text, label in (("the cat", 0), ("a dog ran", 1), ("hello", 2)))
    )
    batch = model.task.collate([model.task.encode(one) for one in data]).tensors
    recorder = Recorder(data)
    with recorder.watch(model.module):
        model.module.train()
        out = model.module(**batch, example=torch.tensor([0, 1, 2]))
        model.module.eval()
        model.module(**batch)
        with pytest.raises(MethodError, match="without 'example'"):
            model.module.train()
            model.module(**batch)
    assert recorder.record.observations.tolist() == [1, 1, 1]
    expected = nn.functional.cross_entropy(out.logits, batch["labels"], reduction="none")
    np.testing.assert_allclose(recorder.record.column("loss")[0], expected.detach(), rtol=1e-5)
    assert not model.module._forward_hooks
    assert not model.module._forward_pre_hooks


def test_the_trainer_gives_the_record_of_the_plain_loop(tmp_path: Path) -> None:
    """The model library's own Trainer: batches by the hook, evaluations by the callback; and the same by hand."""
    pytest.importorskip("accelerate")
    import transformers

    texts = (
        "the cat sat",
        "a big red dog ran",
        "hello who are you",
        "I am a dog",
        "under the tree",
        "on the mat",
        "the dog",
    )
    rows = [{"text": text, "label": k % 3, "id": f"row-{k}"} for k, text in enumerate(texts)]

    def run(visits: bool) -> tuple[Record, Record]:
        model = classifier(torch.float32)
        for config in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            setattr(model.module.config, config, 0.0)
        for layer in model.module.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        data = assay.read(rows)
        items = [model.task.encode(one).tensors for one in data]
        encoded = [{**item, "example": k} for k, item in enumerate(items)]

        def collate(some: list[Any]) -> dict[str, Any]:
            from assay.tasks import Item

            batch = model.task.collate(
                [Item(str(one["example"]), {k: one[k] for k in ("input_ids", "labels")}) for one in some]
            )
            more = {"example": torch.tensor([one["example"] for one in some])} if visits else {}
            return {**batch.tensors, **more}

        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / str(visits)), num_train_epochs=2, per_device_train_batch_size=3, learning_rate=1e-2,
            lr_scheduler_type="constant", optim="adamw_torch", weight_decay=0.0, max_grad_norm=0.0, use_cpu=True, seed=1,
            remove_unused_columns=False, dataloader_pin_memory=False, save_strategy="epoch", report_to=[],
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        recorder = (
            Recorder(data, out=tmp_path / f"record-{visits}")
            if visits
            else Recorder(data, evaluations=[2, 6], gradients=[6])
        )
        callback = recorder.callback(None if visits else model)
        start = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        trainer = transformers.Trainer(
            model=model.module,
            args=arguments,
            train_dataset=encoded,
            data_collator=collate,
            callbacks=[callback],  # type: ignore[arg-type]
        )
        seen: list[Any] = []

        def spy(module: Any, args: Any, given: Any) -> None:
            if module.training:
                seen.append((given["input_ids"].clone(), given["labels"].clone()))

        handle = model.module.register_forward_pre_hook(spy, with_kwargs=True)
        with recorder.watch(model.module) if visits else nullcontext():
            trainer.train()
        handle.remove()
        model.module.load_state_dict(start)
        return recorder.record, by_hand(model, data, items, seen, visits)

    def by_hand(model: Any, data: Any, items: list[Any], seen: list[Any], visits: bool) -> Record:
        recorder = Recorder(data)
        optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-2, weight_decay=0.0)
        model.module.train()
        for step, (ids, labels) in enumerate(seen, 1):
            rows = [
                next(k for k, item in enumerate(items) if _is(item, one, y)) for one, y in zip(ids, labels, strict=True)
            ]
            logits = model.module(input_ids=ids, attention_mask=(ids != 0).long()).logits
            if visits:
                recorder.step(rows, logits, labels)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            if not visits and step in (2, 6):
                recorder.evaluate(model, step)
            if not visits and step == 6:
                recorder.gradient_norms(model, 1e-2, step)
        return recorder.record

    for visits in (True, False):
        by_trainer, other = run(visits)
        same(by_trainer, other, 2e-4)
        assert by_trainer.observations.tolist() == [2] * 7
    assert list(by_trainer.norm_rates) == [pytest.approx(1e-2)]
    assert Record.load(tmp_path / "record-True").step == 6


def _is(item: Any, ids: Any, label: Any) -> bool:
    real = ids[ids != 0]
    return (
        len(real) == len(item["input_ids"])
        and bool((real == item["input_ids"]).all())
        and int(item["labels"]) == int(label)
    )


def test_language_models_are_evaluated_over_their_tokens() -> None:
    from tests.support import TEXTS, text_model

    model = text_model("Llama", num_hidden_layers=1)
    data = examples(*TEXTS)
    values = assay.value(model, data, method=EL2N(at=1))
    item = model.task.collate([model.task.encode(data[1])])
    logits = model.module(input_ids=item.tensors["input_ids"]).logits[0, :-1].detach()
    target = item.tensors["input_ids"][0, 1:]
    each = (logits.softmax(1) - nn.functional.one_hot(target, logits.shape[1])).norm(dim=1)
    assert values.raw["el2n"][1] == pytest.approx(float(each.mean()), rel=1e-5)
    with pytest.raises(MethodError, match="evaluations=10"):
        assay.value(Recipe(model.module, model.task, epochs=2), data, method=Forgetting(runs=1))
    found = assay.value(Recipe(model.module, model.task, epochs=2), data, method=Forgetting(runs=1, evaluations=2))
    assert np.isfinite(found.array).all()


# -- on disk, and what is refused --------------------------------------------------------------------------------------


def test_a_record_comes_back_from_disk(tmp_path: Path) -> None:
    recorder = Recorder(TRAIN, gradients=1, inputs=2)
    recipe().train(TRAIN, recorder=recorder)
    recorder.record.save(tmp_path / "record")
    same(Record.load(tmp_path / "record"), recorder.record)
    state = next((tmp_path / "record").glob("state-*"))
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="not what was written"):
        Record.load(tmp_path / "record")
    (tmp_path / "record" / "record.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        Record.load(tmp_path / "record")
    with pytest.raises(InputError, match=r"holds no record\.json"):
        Record.load(tmp_path)


def test_another_directory_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(["a", "b"], out=tmp_path)
    recorder.step(["a"], torch.zeros(1, 2), [0])
    recorder.save()
    with pytest.raises(MethodError, match="other examples"):
        Recorder(["a", "c"], out=tmp_path)
    with pytest.raises(MethodError, match="record of batches, and this one is of evaluations"):
        Recorder(["a", "b"], evaluations=2, out=tmp_path)


Z = torch.zeros(2, 3)
BATCHES: list[tuple[Any, Any, Any, str]] = [
    (["a", "x"], Z, [0, 1], "'x' at place 1 of the batch is none of the 3"),
    ([0, 3], Z, [0, 1], "3 at place 1"),
    (["a"], Z, [0, 1], "1 ids were given with logits of 2"),
    (["a", "b"], Z[0], [0, 1], r"shape \(3,\)"),
    (["a", "b"], Z.long(), [0, 1], "floating"),
    (["a", "b"], Z, [0], "1 labels"),
    (["a", "b"], Z, [0.5, 1.0], "one class each"),
    (["a", "b"], Z, [0, 3], "A label is 3; with logits of 3 classes"),
    (["a", "b"], Z, [-100, 0], "A label is -100"),
    (["a", "b"], Z[:, :1], [0, 0], "two classes at least"),
]


@pytest.mark.parametrize(("ids", "logits", "labels", "message"), BATCHES)
def test_a_wrong_batch_is_told(ids: Any, logits: Any, labels: Any, message: str) -> None:
    recorder = Recorder(["a", "b", "c"])
    with pytest.raises(MethodError, match=message):
        recorder.step(ids, logits, labels)
    assert recorder.record.observations.tolist() == [0, 0, 0]


def test_what_is_not_finite_is_named() -> None:
    recorder = Recorder(["a", "b"])
    with pytest.raises(NonFiniteError, match=r"example b are NaN or infinite at step 1 \(1 of 2"):
        recorder.step(["a", "b"], torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), [0, 0])


def test_kinds_times_and_owners_do_not_mix() -> None:
    how, model = recipe(), assay.Model(recipe().initial(), Classify())
    recorder = Recorder(TRAIN)
    recorder.step([0], torch.zeros(1, 2), [0])
    with pytest.raises(MethodError, match="holds batches, and was given evaluations"):
        recorder.evaluate(model)
    with pytest.raises(MethodError, match="evaluations names step 16, and the run has 15"):
        how.train(TRAIN, recorder=Recorder(TRAIN, evaluations=[16]))
    with pytest.raises(MethodError, match="gradients is -1"):
        Recorder(TRAIN, gradients=-1)
    with pytest.raises(MethodError, match="other examples"):
        how.train(TRAIN, recorder=Recorder(TRAIN[:5]))
    with pytest.raises(MethodError, match="knows ids only"):
        Recorder(list(TRAIN.ids)).evaluate(model)
    with pytest.raises(MethodError, match=r"recorder\.callback\(assay\.Model"):
        Recorder(TRAIN, evaluations=2).callback()
    with pytest.raises(DataError, match="no examples"):
        Recorder([])
    with pytest.raises(DataError, match="same id"):
        Recorder(["a", "a"])
    with pytest.raises(MethodError, match="vog compares the input gradients of two looks"):
        assay.value(recorder.record, TRAIN, method=VoG())
    with pytest.raises(MethodError, match="is not in the record"):
        assay.value(recorder.record, assay.read([{"text": "a", "id": "new"}]), method=AUM())
