"""Residual post-processors: what happens to the residual after a message has been taken out of it."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializeAsAny

from hvdspark.config import Configuration, Kind, rebuild

__all__ = [
    "AnyResidualPostProcessor",
    "NoOpResidualPostProcessor",
    "ResidualClippingPostProcessor",
    "ResidualPostProcessor",
]


class ResidualPostProcessor(Kind):
    """Edits the residual after each message coded with a threshold (a dense message leaves none).

    To have an own one rebuilt from JSON, add its class to ``ResidualPostProcessor.known``.
    """

    known: ClassVar[list[type["ResidualPostProcessor"]]] = []
    """The classes that `from_json` and `from_yaml` of this class can make."""

    @abstractmethod
    def process(
        self, residual: NDArray[np.float32], iteration: int, threshold: float, num_threads: int | None = None
    ) -> float:
        """Edit the residual in place and return the mass that this threw away, ``sum |removed|``.

        Law: ``residual after + removed == residual before``, so that what is lost can be reported.

        Parameters
        ----------
        residual
            ``[n] float32``, owned by the encoder: a group's part of the residual, on its device.
        iteration
            The number of encodes before the one just done.
        threshold
            The threshold just used.
        num_threads
            The most threads to use; None for a default.
        """

    @classmethod
    def _from_mapping(cls, options: Any) -> Self:
        if cls is not ResidualPostProcessor:
            return super()._from_mapping(options)
        made: Self = rebuild(options, cls.known)  # type: ignore[assignment]  # cls is the base, Self any of its classes
        return made


def _read_processor(given: Any) -> Any:
    return rebuild(given, ResidualPostProcessor.known) if isinstance(given, dict) else given


AnyResidualPostProcessor = Annotated[SerializeAsAny[ResidualPostProcessor], BeforeValidator(_read_processor)]
"""The type of a configuration field that takes any residual post-processor, also from JSON."""


class NoOpResidualPostProcessor(ResidualPostProcessor):
    """Leaves the residual as it is."""

    def process(self, *_given: object, **_options: object) -> float:
        """Do nothing; nothing is thrown away."""
        return 0.0


class ResidualClippingPostProcessor(ResidualPostProcessor):
    """Clips the residual to a multiple of the threshold every few encodes, as Deeplearning4j does.

    Parameters
    ----------
    threshold_multiple
        The bound, in units of the threshold just used; at least 1.
    frequency
        Clip at encodes number `frequency`, 2 `frequency`, ... counted from zero; never at the first.
    """

    threshold_multiple: float = Field(ge=1.0, allow_inf_nan=False)
    frequency: int = Field(ge=1)

    def __init__(self, threshold_multiple: float, frequency: int) -> None:
        Configuration.__init__(self, threshold_multiple=threshold_multiple, frequency=frequency)

    def process(
        self, residual: NDArray[np.float32], iteration: int, threshold: float, num_threads: int | None = None
    ) -> float:
        """Clip to ``threshold_multiple * threshold`` if it is this encode's turn."""
        if iteration == 0 or iteration % self.frequency:
            return 0.0
        bound = min(self.threshold_multiple * threshold, float(np.finfo(np.float32).max))
        if not isinstance(residual, np.ndarray):
            from hvdspark_kernels.clip import cuda

            return cuda.clip_residual(residual, bound)
        from hvdspark_kernels.clip import cpu

        return cpu.clip_residual(residual, bound, num_threads)


ResidualPostProcessor.known += [NoOpResidualPostProcessor, ResidualClippingPostProcessor]
