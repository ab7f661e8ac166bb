"""The modules of the settings on images; torch alone, so that a peer's environment can import this file."""

from torch import Tensor, nn


class Digits(nn.Module):
    """A small convolutional network for 28 x 28 images given as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 5, stride=2)
        self.second = nn.Conv2d(8, 16, 3, stride=2)
        self.hidden = nn.Linear(400, 48)
        self.last = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(-1, 1, 28, 28)).relu()
        return self.last(self.hidden(self.second(x).relu().flatten(1)).relu())


class Smooth(Digits):
    """The same on standardised images, with tanh for the kinks."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first((x.reshape(-1, 1, 28, 28) - 0.13) / 0.31).tanh()
        return self.last(self.hidden(self.second(x).tanh().flatten(1)).tanh())


def logistic() -> nn.Module:
    return nn.Linear(784, 10)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


MODULES = {"logistic": logistic, "mlp": mlp, "cnn": Smooth, "cnn-relu": Digits}
