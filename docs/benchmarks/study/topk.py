"""A rival: each rank sends the k largest elements of what it holds back, values and indices, 64 bits each."""

from typing import Literal, final

import numpy as np
import torch
from rival import Rival
from torch.optim import Optimizer

from hvdspark.collectives import Collective
from hvdspark.errors import NonFiniteError
from hvdspark.sync.flat import FlatParameters, parameters_of

__all__ = ["TopK"]


@final
class TopK(Rival):
    """Top-k sparsification with error feedback, of updates: momentum is kept before it (Deep Gradient Compression).

    Lin et al., "Deep Gradient Compression", ICLR 2018, without clipping and without a denser beginning. Ranks must
    begin with the same weights.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own.
    collective : Collective
        The ranks.
    density : float
        Share of the elements that is sent in each step.
    encode : {"updates", "gradients"}
        What is sent; the optimizer runs after the exchange of gradients.
    masking : bool
        Zero the momentum of what was sent.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        collective: Collective,
        *,
        density: float,
        encode: Literal["updates", "gradients"] = "updates",
        masking: bool = False,
    ) -> None:
        super().__init__(optimizer, density)
        self._collective, self._encode, self._masking = collective, encode, masking
        self._flat = FlatParameters(parameters_of(optimizer))
        self._k = max(1, round(density * self._flat.n))
        self._residual, self._total = torch.zeros(self._flat.n), torch.zeros(self._flat.n)

    @torch.no_grad()
    def _step(self) -> None:
        parameters = self._flat.parameters
        if self._encode == "gradients":
            self._residual += torch.cat([p.grad.reshape(-1) for p in parameters])
            parts = self._exchange().split([p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad.copy_(part.view_as(parameter))
            self._optimizer.step()
            return
        before = self._flat.weights.clone()
        self._optimizer.step()
        self._residual += before - self._flat.weights
        self._flat.weights.copy_(before - self._exchange())

    def _exchange(self) -> torch.Tensor:
        """Send the largest of the residual; return the mean over ranks of what all have sent, ``[n] float32``."""
        chosen = self._residual.abs().topk(self._k, sorted=False).indices
        values = self._residual[chosen]
        if not torch.isfinite(values).all():
            raise NonFiniteError("what top-k has to send is not finite: lower the learning rate")
        self._residual[chosen] = 0.0
        message = np.concatenate([chosen.to(torch.int32).numpy().view(np.uint8), values.numpy().view(np.uint8)])
        self._total.zero_()
        for found in self._collective.allgather(message):
            theirs = torch.from_numpy(found[: 4 * self._k].view(np.int32).astype(np.int64))
            self._total.index_add_(0, theirs, torch.from_numpy(found[4 * self._k :].view(np.float32).copy()))
        if self._masking:
            self._clear_momentum(chosen)
        return self._total / self._collective.size

    def _clear_momentum(self, chosen: torch.Tensor) -> None:
        keep = torch.ones(self._flat.n)
        keep[chosen] = 0.0
        sizes = [p.numel() for p in self._flat.parameters]
        for parameter, part in zip(self._flat.parameters, keep.split(sizes), strict=True):
            self.state[parameter]["momentum_buffer"].mul_(part.view_as(parameter))
