"""Ways to share, by name, in sets. An arm is plain data: what it says of itself is part of the key of its results."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from topk import TopK
from torch.optim import SGD, Adam, AdamW, Optimizer

from hvdspark import (
    AdaptiveThresholdAlgorithm,
    Nesterov,
    ParameterAveraging,
    QuantileThresholdAlgorithm,
    ResidualClippingPostProcessor,
    SharedUpdates,
    TargetSparsityThresholdAlgorithm,
)
from hvdspark.collectives import Collective

__all__ = ["ARMS", "OPTIMIZERS", "SETS", "Arm", "Shares"]

#: How each optimizer is made of parameters and `lr`.
OPTIMIZERS = {"momentum": functools.partial(SGD, momentum=0.9), "adam": Adam, "sgd": SGD, "adamw": AdamW}
#: What wraps an optimizer on the threads collective, by the name of a method; "powersgd" runs in processes.
METHODS = {"shared": SharedUpdates, "averaging": ParameterAveraging, "topk": TopK}


class Shares(NamedTuple):
    """A schedule by shares of the run: ``Shares(((0, 1), (0.5, 8)))`` is 1, and 8 from the middle on."""

    pairs: tuple[tuple[float, int], ...]

    def at(self, steps: int) -> tuple[tuple[int, int], ...]:
        """Return the same by steps."""
        return tuple((round(share * steps), value) for share, value in self.pairs)


class Arm(NamedTuple):
    """A way to share.

    Parameters
    ----------
    name : str
        How it is called.
    method : str
        One of `METHODS`, or "powersgd".
    options : dict
        What the method is given; `Shares` become a schedule.
    optimizers : tuple of str
        Those that it makes sense with.
    """

    name: str
    method: str
    options: Mapping[str, Any]
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)

    def only(self, *optimizers: str) -> Self:
        """Return the same for these optimizers alone."""
        return self._replace(optimizers=optimizers)

    @property
    def definition(self) -> str:
        """All that makes this arm what it is, but for its name."""
        return f"{self.method}({', '.join(f'{name}={value!r}' for name, value in sorted(self.options.items()))})"

    def wrap(self, optimizer: Optimizer, world: Collective, steps: int) -> Any:
        """Return the optimizer that shares."""
        options = {
            name: value.at(steps) if isinstance(value, Shares) else value for name, value in self.options.items()
        }
        return METHODS[self.method](optimizer, world, **options)


def _coded(name: str, **options: Any) -> Arm:
    """Name thresholds and clipping, so that results are known by them if a default changes."""
    named = {
        "threshold_algorithm": AdaptiveThresholdAlgorithm(),
        "residual_post_processor": ResidualClippingPostProcessor(5.0, 5),
    }
    return Arm(name, "shared", named | options)


def _uncoded(name: str, exchange: str, **options: Any) -> Arm:
    return Arm(name, "shared", {"exchange": exchange, **options})


def _averaged(name: str, frequency: int | Shares, **options: Any) -> Arm:
    return Arm(name, "averaging", {"averaging_frequency": frequency, **options})


def _topk(name: str, density: float, **options: Any) -> Arm:
    return Arm(name, "topk", {"density": density, **options})


def _target(share: float) -> TargetSparsityThresholdAlgorithm:
    return TargetSparsityThresholdAlgorithm("auto", share)


DENSE = _uncoded("dense", "dense", encode="gradients")
_local = functools.partial(_coded, local_steps=10)
_denser = functools.partial(_local, threshold_algorithm=_target(1e-2))
_densest = functools.partial(_local, threshold_algorithm=_target(3e-2), magnitude="mean")
_outer = Nesterov(0.7, 0.5)

RIVALS = (
    DENSE,
    _uncoded("fp16", "fp16", encode="gradients"),
    *(Arm(f"powersgd {rank}", "powersgd", {"rank": rank, "start": 10}) for rank in (1, 2, 4)),
    *(_averaged(f"post-local {often}", Shares(((0, 1), (0.5, often))), save_updater=False) for often in (8, 16)),
    _topk("top-k 1e-2 masked", 1e-2, masking=True).only("momentum"),
    _topk("top-k 1e-3 masked", 1e-3, masking=True).only("momentum"),
    _topk("top-k 1e-2", 1e-2).only("adam", "adamw", "sgd"),
    _topk("top-k 1e-3", 1e-3).only("adam", "adamw", "sgd"),
    _topk("top-k gradients 1e-2", 1e-2, encode="gradients"),
    _topk("top-k gradients 1e-3", 1e-3, encode="gradients"),
)
#: What docs/benchmarks.md shows with every optimizer; then what it shows with momentum, and with Adam.
ENGINE = (
    DENSE,
    _coded("codes"),
    _coded("codes mean", magnitude="mean"),
    _coded("gradient codes", encode="gradients"),
    _coded("gradient codes mean", encode="gradients", magnitude="mean"),
    _averaged("average 10", 10, save_updater=True),
    _denser("local 10 codes 1e-2 mean", magnitude="mean"),
    _coded("codes unmasked", momentum_masking=False).only("momentum"),
    _coded("codes late", overlap="next_step").only("momentum"),
    _uncoded("dense late", "dense", overlap="next_step").only("momentum"),
    _averaged("average 10 own state", 10, save_updater=False).only("momentum"),
    _averaged("average 10 outer", 10, save_updater=False, outer_optimizer=_outer).only("momentum"),
    _local("local 10 codes").only("momentum"),
    _local("local 10 codes mean", magnitude="mean").only("momentum"),
    _denser("local 10 codes 1e-2").only("momentum"),
    _densest("local 10 codes 3e-2 mean").only("momentum", "adam"),
    _denser("local 10 codes 1e-2 mean masked", magnitude="mean", momentum_masking=True).only("momentum"),
    _denser("local 10 codes 1e-2 mean outer", magnitude="mean", outer_optimizer=_outer).only("momentum"),
    _uncoded("dense updates", "dense").only("adam"),
    _coded("codes 1e-3", threshold_algorithm=_target(1e-3)),
    _coded("codes 1e-3 unmasked", threshold_algorithm=_target(1e-3), momentum_masking=False).only("momentum"),
)
#: Ten local steps, the largest of what they came to, and ranks that look ahead; then what each part of it is worth.
_ahead = functools.partial(
    _local, magnitude="mean", residual_post_processor=None, residual_lookahead=0.3, momentum_masking=True
)
_quantile = QuantileThresholdAlgorithm
BEST: tuple[Arm, ...] = (
    DENSE,
    _ahead("ahead 1e-2", threshold_algorithm=_quantile(1e-2)).only("momentum"),
    _ahead("ahead 5e-3", threshold_algorithm=_quantile(5e-3)).only("momentum"),
    _ahead("ahead 3e-2", threshold_algorithm=_quantile(3e-2)).only("momentum"),
    _ahead("quantile 1e-2", threshold_algorithm=_quantile(1e-2), residual_lookahead=0.0).only("momentum"),
    _ahead("ahead 1e-2 unmasked", threshold_algorithm=_quantile(1e-2), momentum_masking=False),
    _ahead("ahead 1e-2 steered", threshold_algorithm=_target(1e-2)).only("momentum"),
    _ahead("ahead 1e-2 every 20", threshold_algorithm=_quantile(1e-2), local_steps=20).only("momentum"),
)

SETS: dict[str, tuple[Arm, ...]] = {"rivals": RIVALS, "engine": ENGINE, "best": BEST}
#: All of them, by name.
ARMS: dict[str, Arm] = {arm.name: arm for arms in SETS.values() for arm in arms}
