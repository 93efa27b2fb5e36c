"""How many codes the owner of a region may send, and the threshold that keeps to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hvdspark.codec import Checked

__all__ = ["Credit"]

_DENSER = 4  # times as many codes leave an owner as come to it from a rank: fewer cost loss
_ABOVE = 1 + 2**-7  # what codes are rounded to is coarser than float32: the next step of it


class Credit:
    """Codes that may be sent: four times what a rank sends, on the mean over steps.

    Most elements of a sum of sparse codes hold one code, all of the same size. No threshold lets a part of them
    through: it is all or none. So what a step leaves over counts for the next one, until all fit in.

    Parameters
    ----------
    ranks : int
        How many ranks send codes.

    Attributes
    ----------
    codes : float
        What may be sent now.
    """

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._least = 0.0
        self.codes = 0.0

    def earn(self, messages: Sequence[Checked]) -> None:
        """Take note of codes that have come, one message a rank."""
        sizes = [float(message.groups.magnitudes[0]) for message in messages if message.header.count]
        self._least = min(sizes, default=self._least)
        mean = sum(message.header.count for message in messages) / len(messages)
        # no more than would be needed to let everything of a step through
        self.codes = min(self.codes + _DENSER * mean, (self._ranks + _DENSER) * mean)

    def threshold(self, total: torch.Tensor) -> float | None:
        """Return the lowest threshold that keeps to the credit, never below the smallest code that has come.

        Parameters
        ----------
        total : torch.Tensor
            ``[n] float32``: what there is to send.

        Returns
        -------
        float or None
            None where no code has ever come.
        """
        if not self._least:
            return None
        magnitudes = total.abs()
        found = magnitudes[magnitudes >= self._least]
        if found.numel() <= self.codes:
            return self._least
        allowed = max(int(self.codes), 1)
        return float(found.kthvalue(found.numel() - allowed + 1).values) * _ABOVE

    def spend(self, codes: int) -> None:
        """Take note of what was sent."""
        self.codes = max(self.codes - codes, 0.0)
