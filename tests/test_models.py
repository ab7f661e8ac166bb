"""Loading models, choosing parameters, checkpoints and fingerprints."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.support import TEXTS, batch_of, classifier, config, examples, language_model, saved, tokenizer
from torch import nn

import assay
from assay.errors import ModelError
from assay.gradients.blocks import lay_out
from assay.models import Checkpoint, Model, load
from assay.tasks import CausalLM, Classify, Loss, SequenceClassification

ROWS = examples(*TEXTS)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("Llama", tmp_path_factory.mktemp("models") / "llama")


def losses(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.task.measure(model.module, batch_of(model, ROWS), Loss())


# -- loading ---------------------------------------------------------------------------------------------------------


def test_a_language_model(llama: Path) -> None:
    model = load(llama)
    assert isinstance(model.task, CausalLM)
    assert model.task.max_length == 64  # its context
    assert model.name == "llama"
    assert not model.module.training
    assert model.size == sum(p.numel() for p in model.module.parameters())
    expected = Model(language_model("Llama", dtype=torch.float32), CausalLM(tokenizer(), 64))
    torch.testing.assert_close(losses(model), losses(expected))
    assert load(str(llama), max_length=16).task.max_length == 16  # pyright: ignore
    assert load(llama, max_length=1000).task.max_length == 64  # pyright: ignore


def test_a_sequence_classifier(tmp_path: Path) -> None:
    labels = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
    torch.manual_seed(0)
    module = transformers.AutoModelForSequenceClassification.from_config(config("Bert", **labels))
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path)
    assert isinstance(model.task, SequenceClassification)
    rows = examples({"text": "the cat", "label": "yes"})
    assert batch_of(model, rows).tensors["labels"].tolist() == [2]


def test_positions_that_begin_behind_the_padding_token(tmp_path: Path) -> None:
    """RoBERTa's 66 positions hold 64 tokens; a longer text would fall off its table."""
    sizes = config("Roberta", num_labels=2, max_position_embeddings=66, pad_token_id=1, bos_token_id=2, eos_token_id=0)
    transformers.AutoModelForSequenceClassification.from_config(sizes).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.task.max_length == 64  # pyright: ignore
    rows = examples({"text": "the cat " * 100, "label": 1})
    assert losses_of(model, rows).isfinite().all()


def losses_of(model: Model, rows: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.task.measure(model.module, batch_of(model, rows), Loss())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_widened_on_the_cpu(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved("Llama", tmp_path, dtype=dtype)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {dtype}
    assert {p.dtype for p in load(folder, device="cpu").module.parameters()} == {torch.float32}
    assert {p.dtype for p in load(folder, dtype=dtype).module.parameters()} == {dtype}


def test_loading_is_quiet_and_leaves_the_librarys_settings(
    llama: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    from transformers.utils import logging as library

    enabled = library.is_progress_bar_enabled()
    library.enable_progress_bar()  # a command that another test ran in this process may have silenced it
    request.addfinalizer(lambda: None if enabled else library.disable_progress_bar())
    before = library.get_verbosity(), library.is_progress_bar_enabled()
    assert before[1]
    with caplog.at_level(logging.DEBUG):
        load(llama)
    assert capfd.readouterr() == ("", "")
    assert (library.get_verbosity(), library.is_progress_bar_enabled()) == before
    with pytest.raises(ModelError):
        load(llama / "nothing")
    assert (library.get_verbosity(), library.is_progress_bar_enabled()) == before


# -- what cannot be loaded -------------------------------------------------------------------------------------------


def broken(llama: Path, folder: Path, *without: str) -> Path:
    """A copy of the model without some of its files."""
    folder.mkdir()
    for file in llama.iterdir():
        if file.name not in without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def change_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_no_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", "./nothing", "~/nothing", "a/b/c"):
        with pytest.raises(ModelError, match="There is no model directory"):
            load(path)


def test_a_hub_id_that_cannot_be_reached() -> None:
    with pytest.raises(ModelError, match="The model at some/model cannot be loaded"):
        load("some/model")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "no weights"),
        ("config.json", "no config.json"),
        ("tokenizer.json", "tokenizer at .* cannot be loaded"),
    ],
)
def test_a_directory_without(missing: str, message: str, llama: Path, tmp_path: Path) -> None:
    others = ("tokenizer_config.json", "special_tokens_map.json") if missing == "tokenizer.json" else ()
    with pytest.raises(ModelError, match=message):
        load(broken(llama, tmp_path / "model", missing, *others))


def test_missing_tensors(llama: Path, tmp_path: Path) -> None:
    folder = broken(llama, tmp_path / "model")
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"do not fit.*1 tensors.*model.layers.1.mlp.up_proj.weight"):
        load(folder)


def test_tensors_of_another_shape(llama: Path, tmp_path: Path) -> None:
    folder = broken(llama, tmp_path / "model")
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}))
    with pytest.raises(ModelError, match=r"do not fit.*model.norm.weight"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_files_cut_short(name: str, llama: Path, tmp_path: Path) -> None:
    folder = broken(llama, tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_an_architecture_that_no_task_knows(llama: Path, tmp_path: Path) -> None:
    folder = broken(llama, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForTokenClassification"]}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"LlamaForTokenClassification.*assay.Model"):
        load(folder)


# -- adapters --------------------------------------------------------------------------------------------------------


def adapter(base: Path, folder: Path, own_tokenizer: bool = False) -> Path:
    peft = pytest.importorskip("peft")
    module = load(base).module
    wrapped = peft.get_peft_model(module, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter.data)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(folder)
    if own_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("own", [True, False], ids=["own tokenizer", "the base model's"])
def test_an_adapter(own: bool, llama: Path, tmp_path: Path) -> None:
    model = load(adapter(llama, tmp_path, own))
    assert isinstance(model.task, CausalLM)
    assert model.task.max_length == 64
    assert all("lora" in name for name in model.parameters)
    assert len(model.parameters) == 4
    assert not any(m.training for m in model.module.modules())
    assert lay_out(model).coverage == 1
    assert float((losses(model) - losses(load(llama))).abs().min()) > 1e-3


def test_an_adapter_that_does_not_fit(llama: Path, tmp_path: Path) -> None:
    folder = adapter(llama, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != name}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter at .*cannot be loaded: Found missing adapter keys"):
        load(folder)
    save_file(tensors | {name: torch.ones(3, 3)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter at .*cannot be loaded"):
        load(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter at .*cannot be loaded"):
        load(folder)


def test_an_adapter_whose_base_is_gone(llama: Path, tmp_path: Path) -> None:
    folder = adapter(llama, tmp_path)
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match=r"no model directory .*gone"):
        load(folder)
    file.write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="names no base_model_name_or_path"):
        load(folder)
    file.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load(folder)


# -- parameters ------------------------------------------------------------------------------------------------------


def test_chosen_modules(llama: Path) -> None:
    model = load(llama, modules="*.mlp.*")
    assert {name.split(".")[-3] for name in model.parameters} == {"mlp"}
    assert len(load(llama, modules=["*.mlp.*", "lm_head"]).parameters) == len(model.parameters) + 1
    assert 0 < lay_out(model).coverage < 1
    assert model.size == load(llama).size


def test_a_pattern_that_matches_nothing(llama: Path) -> None:
    with pytest.raises(
        ModelError, match=r"'\*.attention.\*' matches no trainable parameter of llama.*model.embed_tokens"
    ):
        load(llama, modules="*.attention.*")


def test_a_module_without_trainable_parameters() -> None:
    for module in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ModelError, match="no trainable parameter"):
            Model(module, Classify())


# -- checkpoints and fingerprints ------------------------------------------------------------------------------------


def test_checkpoints_of_directories(llama: Path, tmp_path: Path) -> None:
    early = saved("Llama", tmp_path / "early", seed=3)
    model = load(llama, checkpoints=[(early, 0.1), (llama, 0.01)])
    assert [(stage.name, stage.rate) for stage in model.stages()] == [("early", 0.1), ("llama", 0.01)]
    first, last = (model.at(stage) for stage in model.stages())
    torch.testing.assert_close(losses(last), losses(model))
    assert not torch.allclose(losses(first), losses(model))


def test_checkpoints_of_states() -> None:
    module = nn.Linear(3, 2)
    earlier = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    stage = Checkpoint.of_state("step 1", 0.5, module, earlier)
    model = Model(module, Classify(), checkpoints=[stage], modules="*")
    before = copy.deepcopy(module.state_dict())
    at = model.at(stage)
    assert torch.equal(at.module.weight, earlier["weight"])  # pyright: ignore
    assert at.patterns == model.patterns
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(ModelError, match="checkpoint other do not fit"):
        Checkpoint.of_state("other", 0.5, module, {"weight": torch.zeros(3, 3)}).load()
    assert Model(module, Classify()).stages()[0].rate == 1.0


def test_fingerprints() -> None:
    def model(change: Any = None, **options: Any) -> str:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        if change:
            change(module)
        return Model(module, Classify(), **options).fingerprint()

    def one_bit(module: Any) -> None:
        module[0].weight.data[0, 0] = torch.nextafter(module[0].weight[0, 0], torch.tensor(9.0))

    changes: list[Any] = [one_bit, lambda m: m.double(), lambda m: m[1].running_mean.fill_(3.0)]
    assert model() == model()
    assert len({model(), *(model(change) for change in changes), model(modules="0")}) == 5


def test_fingerprints_know_how_texts_become_tokens() -> None:
    module = language_model("Llama")
    task = CausalLM(tokenizer(), 64)
    known = Model(module, task).fingerprint()
    task.tokenizer(["the cat", "a"], padding=True, truncation=True, max_length=3)  # leaves traces in the tokenizer
    others = [CausalLM(tokenizer(), 32), CausalLM(tokenizer(end=True), 64), CausalLM(tokenizer(chat="x"), 64)]
    assert Model(module, task).fingerprint() == Model(module, CausalLM(tokenizer(), 64)).fingerprint() == known
    assert len({known, *(Model(module, other).fingerprint() for other in others)}) == 4


def test_public_names() -> None:
    assert assay.Model is Model
    assert assay.load is load
    assert repr(classifier()).startswith("Model(BertForSequenceClassification, task='sequence-classification'")
