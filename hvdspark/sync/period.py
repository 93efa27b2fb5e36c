"""Periods: the local steps between two exchanges, and whose examples they stood on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

from hvdspark.errors import ConfigurationError
from hvdspark.sync.part import Part

__all__ = ["LocalSteps", "Period", "checked_local_steps", "local_steps_at"]

LocalSteps: TypeAlias = int | Sequence[tuple[int, int]]
"""A number of local steps, or a schedule: ``((0, 1), (500, 10))`` is 1 up to step 500, 10 from there on."""


def checked_local_steps(given: LocalSteps, name: str = "local_steps") -> tuple[tuple[int, int], ...]:
    """Return the schedule that was meant by the option of this name.

    Raises
    ------
    ConfigurationError
        If it is neither a number from 1 nor a schedule that starts at step 0 and rises.
    """
    pairs = ((0, given),) if isinstance(given, int) else given
    if isinstance(pairs, Sequence) and pairs and all(_is_pair(pair) for pair in pairs):
        firsts = [pair[0] for pair in pairs]
        rises = all(before < after for before, after in itertools.pairwise(firsts))
        if firsts[0] == 0 and rises and min(pair[1] for pair in pairs) >= 1:
            return tuple((first, steps) for first, steps in pairs)
    raise ConfigurationError(
        f"{name}: a whole number from 1 is needed, or pairs (from which step on, how many) that start at step 0, "
        f"such as ((0, 1), (500, 10)); not {given!r}"
    )


def _is_pair(given: object) -> bool:
    return (
        isinstance(given, Sequence)
        and len(given) == 2
        and all(isinstance(number, int) and not isinstance(number, bool) for number in given)
    )


def local_steps_at(schedule: tuple[tuple[int, int], ...], step: int) -> int:
    """Return how many local steps a period has that begins with this step."""
    return next(steps for first, steps in reversed(schedule) if first <= step)


@dataclasses.dataclass
class Period:
    """The local steps since the last agreement.

    Parameters
    ----------
    length : int
        Steps that it will have.
    steps : int
        Steps that it has.
    part : Part
        This rank's examples in it, and all ranks'; unknown if they were for any of its steps.
    ahead : float
        Share of its residual that this rank has in its weights, beside what was agreed.
    """

    length: int
    steps: int = 0
    part: Part = dataclasses.field(default_factory=lambda: Part(0, 0))
    ahead: float = 0.0

    def add(self, part: Part) -> None:
        """Count a step."""
        ours, ours_of = self.part.examples, self.part.total
        examples = None if ours is None or part.examples is None else ours + part.examples
        total = None if ours_of is None or part.total is None or examples is None else ours_of + part.total
        self.part = Part(examples, total)
        self.steps += 1

    @property
    def is_over(self) -> bool:
        """Whether the ranks meet now."""
        return self.steps >= self.length

    def numbers(self) -> tuple[int, int, int | None, int | None, float]:
        """Return all of it as numbers, for a checkpoint."""
        return self.length, self.steps, self.part.examples, self.part.total, self.ahead

    @classmethod
    def of(cls, numbers: Sequence[Any]) -> Self:
        """Make one of its numbers.

        Raises
        ------
        ValueError, ConfigurationError
            If no period that is not over has such numbers.
        """
        length, steps, examples, total, ahead = numbers
        if not isinstance(ahead, float) or not 0 <= ahead <= 1:
            raise ValueError(f"a rank is not ahead by {ahead!r} of its residual")
        first = 0 if ahead else 1  # who looks ahead is in the next period as soon as the last one ends
        if not isinstance(length, int) or not isinstance(steps, int) or not first <= steps < length:
            raise ValueError(f"a period has more than {steps} steps of {length}")
        return cls(length, steps, Part.checked(examples, total), ahead)
