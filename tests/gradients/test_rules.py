"""Every rule against automatic differentiation of each example alone, in float64."""

import pytest
import torch
import transformers
from tests.support import array_model, arrays, assert_gradients, batch_of
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from assay.compress import Factored
from assay.gradients.blocks import lay_out
from assay.gradients.verify import verified_layout
from assay.tasks import Loss


class Through(nn.Module):
    """A layer between two others, so that gradients arrive from behind and go on to the front."""

    def __init__(self, front: nn.Module, layer: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.front, self.layer, self.behind = front, layer, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(torch.tanh(self.layer(self.front(x))))


def check(module: nn.Module, x: Tensor, direct: tuple[str, ...] = (), tolerance: float = 1e-9) -> None:
    """Gradients are right, and no block but those of `direct` went example by example."""
    model = array_model(module)
    batch = batch_of(model, arrays(x))
    assert_gradients(model, batch, tolerance=tolerance)
    layout = lay_out(model)
    assert {layout.blocks[k].name for k in layout.direct} == set(direct)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 4, 5)])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    check(nn.Sequential(nn.Linear(5, 4, bias), nn.Tanh(), nn.Linear(4, 3, bias)), torch.randn(shape))


def test_linear_on_tokens_in_one_list() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.reshape(-1, 5)).reshape(*x.shape[:2], 4)

    check(Flat(), torch.randn(3, 6, 5))


def test_transposed_linear() -> None:
    check(nn.Sequential(Conv1D(4, 5), nn.Tanh(), Conv1D(2, 4)), torch.randn(3, 6, 5))


CONVOLUTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": 2, "bias": False},
    {"padding": "same", "dilation": 2},
    {"padding": 2, "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "reflect", "stride": 3},
    {"padding": 1, "padding_mode": "replicate"},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2, "bias": False},
    {"groups": 2, "padding": 1, "padding_mode": "circular", "dilation": 2},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution(dims: int, options: dict[str, object]) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    kernel = (3, 2, 3)[:dims] if options.get("padding") != 2 else 3
    layer = kind(4, 8, kernel, **options)  # pyright: ignore[reportArgumentType]
    check(Through(kind(2, 4, 1), layer, nn.Flatten()), torch.randn(2, 2, *(7, 6, 5)[:dims]))


def test_depthwise_convolution_with_multiplier() -> None:
    check(Through(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 3, groups=4), nn.Flatten()), torch.randn(3, 3, 6, 5))


class Embedded(nn.Module):
    """Tokens and positions, the latter looked up once for all examples."""

    def __init__(self, tokens: nn.Module) -> None:
        super().__init__()
        self.tokens, self.positions, self.out = tokens, nn.Embedding(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        where = torch.arange(x.shape[1])[None]
        return self.out(torch.tanh(self.tokens(x) + self.positions(where)))


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"padding_idx": -1}, {"sparse": True}], ids=str)
def test_embedding(options: dict[str, object]) -> None:
    tokens = nn.Embedding(8, 6, **options)  # pyright: ignore[reportArgumentType]
    check(Embedded(tokens), torch.tensor([[1, 2, 2, 7], [7, 0, 1, 2], [3, 3, 3, 3]]))


def test_embedding_with_scale() -> None:
    check(Embedded(Gemma3TextScaledWordEmbedding(8, 6, 2, embed_scale=6**0.5)), torch.tensor([[1, 2, 2], [7, 0, 1]]))


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}], ids=str)
def test_embedding_that_changes_its_gradient_goes_example_by_example(options: dict[str, object]) -> None:
    module = Embedded(nn.Embedding(8, 6, **options))  # pyright: ignore[reportArgumentType]
    model = array_model(module)
    layout = lay_out(model)
    assert [layout.blocks[k].name for k in layout.direct] == ["tokens.weight"]


NORMS = [
    nn.LayerNorm(6),
    nn.LayerNorm((4, 6)),
    nn.LayerNorm(6, bias=False),
    nn.RMSNorm(6),
    nn.GroupNorm(2, 4),
    LlamaRMSNorm(6),
    Gemma2RMSNorm(6),
    nn.BatchNorm1d(4),
]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_norm(norm: nn.Module) -> None:
    if isinstance(norm, nn.BatchNorm1d):
        norm.train()(2 + 3 * torch.randn(20, 4, 6))
    single = isinstance(norm, Gemma2RMSNorm)  # the class itself computes in float32
    check(Through(nn.Linear(5, 6), norm, nn.Flatten()), torch.randn(3, 4, 5), tolerance=1e-6 if single else 1e-9)


def test_batch_norm_of_images() -> None:
    norm = nn.BatchNorm2d(4)
    norm.train()(2 + 3 * torch.randn(20, 4, 3, 3))
    check(Through(nn.Conv2d(2, 4, 1), norm, nn.Flatten()), torch.randn(3, 2, 3, 3))


class Odd(nn.Module):
    """Parameters that no rule knows: a scale, a matrix used functionally, a scalar, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.mix = nn.Parameter(torch.eye(4))
        self.shift = nn.Parameter(torch.zeros(()))
        self.unused = nn.Parameter(torch.zeros(2, 2, 2))
        self.first, self.recurrent = nn.Linear(5, 4), nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(torch.tanh(self.first(x)) * self.scale @ self.mix + self.shift)[0]


def test_any_other_module_example_by_example() -> None:
    recurrent = tuple(f"recurrent.{kind}_{place}_l0" for kind in ("weight", "bias") for place in ("ih", "hh"))
    check(Odd(), torch.randn(3, 4, 5), direct=("scale", "mix", "shift", "unused", *recurrent))


def overwriting() -> nn.Module:
    layers = [nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)]
    return nn.Sequential(*layers)


def test_layers_whose_outputs_are_overwritten() -> None:
    check(overwriting(), torch.randn(3, 5))


def test_layers_whose_outputs_are_views_and_overwritten() -> None:
    """No hook is told of the gradient of a view that was overwritten; the self-check finds it missing."""
    model = array_model(overwriting())
    batch = batch_of(model, arrays(torch.randn(3, 4, 5)))
    assert_gradients(model, batch, layout=verified_layout(model, batch, Loss(), Factored(rank=4)))


class Repeated(nn.Module):
    """One layer used three times, and a norm twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(5, 5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = torch.tanh(self.layer(self.norm(x)))
        return self.layer(x)


def test_layers_used_several_times() -> None:
    check(Repeated(), torch.randn(3, 4, 5))


class OtherLeaves(nn.Module):
    """Two branches, one of which starts from a tensor that requires gradients of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x.clone().requires_grad_())


def test_gradients_reach_layers_behind_leaves_that_are_not_ours() -> None:
    check(OtherLeaves(), torch.randn(3, 5))


def test_a_weight_shared_by_layers_is_one_block() -> None:
    module = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, 5, bias=False))
    module[2].weight = module[0].weight  # pyright: ignore[reportArgumentType]
    check(module, torch.randn(3, 5))
    assert [block.name for block in lay_out(array_model(module)).blocks] == ["0"]


class TiedWithBias(nn.Module):
    """As in BERT: the decoder shares the embedding's weight and has a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(8, 6), nn.Linear(6, 8)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.embedding(x)))


def test_a_weight_shared_by_layers_that_use_it_differently() -> None:
    check(TiedWithBias(), torch.tensor([[1, 2, 3], [4, 5, 1]]), direct=("embedding", "decoder.bias"))


def test_blocks_of_frozen_parameters() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.LayerNorm(4))
    module[0].weight.requires_grad_(False)
    module[3].bias.requires_grad_(False)
    check(module, torch.randn(3, 5), direct=("0.bias",))


def test_a_model_library_encoder_layer_of_images() -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4
    )
    vision = transformers.ViTModel(config, add_pooling_layer=False)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision = vision

        def forward(self, x: Tensor) -> Tensor:
            return self.vision(pixel_values=x).last_hidden_state

    names = ("vision.embeddings.cls_token", "vision.embeddings.position_embeddings")
    check(Last(), torch.randn(2, 3, 8, 8), direct=names)
