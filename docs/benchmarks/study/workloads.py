"""What is learned: data that are split once and for all, a network, and how it is judged."""

import abc
from collections.abc import Callable
from typing import ClassVar, final

import images
import terrain
import text
import torch
from torch import nn

__all__ = ["WORKLOADS", "Workload"]


class Workload(abc.ABC):
    """Abstract. Plain data, so that it can be handed to other processes.

    Parameters
    ----------
    hidden : int, optional
        Width of the hidden layers. None: `default_hidden`.

    Attributes
    ----------
    digest : str
        sha256 of the data.
    default_steps : int
        How long to train, unless told.
    middle_rates : dict
        By optimizer: the learning rate that the search for one starts from.
    """

    unit: ClassVar[str]
    default_hidden: ClassVar[int]
    default_steps: ClassVar[int]
    middle_rates: ClassVar[dict[str, float]]
    network: ClassVar[Callable[[int], nn.Module]]
    digest: str

    def __init__(self, hidden: int | None = None) -> None:
        self.hidden = hidden or self.default_hidden
        self._read()

    @abc.abstractmethod
    def _read(self) -> None:
        """Read the data and set `digest`."""

    @abc.abstractmethod
    def batch(self, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw inputs and targets to train on, with replacement."""

    @abc.abstractmethod
    def held_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets that are held out."""

    @abc.abstractmethod
    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss."""

    @final
    def build(self, seed: int) -> nn.Module:
        """Make the network, the same for the same seed: not in a rank's thread, since all share torch's generator."""
        torch.manual_seed(seed)
        return type(self).network(self.hidden)

    @final
    def held_out_loss(self, module: nn.Module) -> float:
        """Judge a network."""
        inputs, targets = self.held_out()
        with torch.no_grad():
            return self.loss(module(inputs), targets).item()


@final
class LanguageModel(Workload):
    """The next byte of Python's own library sources."""

    unit = "nats a byte"
    default_hidden, default_steps = 256, 1200  # 111,104 parameters; 2048: 858,368
    middle_rates: ClassVar = {"momentum": 0.4, "adam": 8e-3, "sgd": 2.0, "adamw": 8e-3}
    network = staticmethod(text.network)

    def _read(self) -> None:
        self._text = text.read_text()
        self.digest = self._text.digest

    def batch(self, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw contexts and the byte after each."""
        train = self._text.train
        return text.windows(train, torch.randint(len(train) - text.CONTEXT, (size,), generator=draw))

    def held_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return 16,384 contexts of other files."""
        return self._text.contexts, self._text.answers

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy."""
        return nn.functional.cross_entropy(output, target)


class _Digits(Workload):
    """Abstract: which network is the subclass's."""

    unit = "nats an image"
    default_steps = 240  # of 256 images: 15 epochs

    @final
    def _read(self) -> None:
        self._images = images.read_images()
        self.digest = self._images.digest

    @final
    def batch(self, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw images and their digits."""
        chosen = torch.randint(images.NUM_TRAIN, (size,), generator=draw)
        return self._images.pixels[chosen], self._images.digits[chosen]

    @final
    def held_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return 1,000 images."""
        return self._images.pixels[images.NUM_TRAIN :], self._images.digits[images.NUM_TRAIN :]

    @final
    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy: accuracy cannot tell arms apart here."""
        return nn.functional.cross_entropy(output, target)


@final
class Perceptron(_Digits):
    """MNIST-5k, 784-256-256-10."""

    default_hidden = 256
    middle_rates: ClassVar = {"momentum": 0.2, "adam": 2e-3, "sgd": 0.5, "adamw": 2e-3}
    network = staticmethod(images.perceptron)


@final
class Convolutional(_Digits):
    """MNIST-5k, two convolutions and two layers."""

    default_hidden = 128
    middle_rates: ClassVar = {"momentum": 0.1, "adam": 2e-3, "sgd": 0.5, "adamw": 2e-3}
    network = staticmethod(images.convolutional)


@final
class Terrain(Workload):
    """How high a place lies, 24-256-256-1."""

    unit = "squared error, as a share of the variance"
    default_hidden, default_steps = 256, 600
    middle_rates: ClassVar = {"momentum": 0.1, "adam": 2e-3, "sgd": 0.5, "adamw": 2e-3}
    network = staticmethod(terrain.network)

    def _read(self) -> None:
        self._table = terrain.read_table()
        self.digest = self._table.digest

    def batch(self, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw rows."""
        chosen = torch.randint(len(self._table.targets), (size,), generator=draw)
        return self._table.columns[chosen], self._table.targets[chosen]

    def held_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of the south."""
        return self._table.held_out_columns, self._table.held_out_targets

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error."""
        return nn.functional.mse_loss(output, target)


#: By the name that the command takes.
WORKLOADS: dict[str, type[Workload]] = {
    "lm": LanguageModel, "mlp": Perceptron, "conv": Convolutional, "terrain": Terrain,
}  # fmt: skip
