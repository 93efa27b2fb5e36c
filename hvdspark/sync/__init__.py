"""The synchronisers: optimizers whose steps all ranks share."""

from hvdspark.sync.base import Exchange, SyncReport
from hvdspark.sync.flat import FlatParameters, mean_buffers_
from hvdspark.sync.updates import SharedUpdates

__all__ = ["Exchange", "FlatParameters", "SharedUpdates", "SyncReport", "mean_buffers_"]
