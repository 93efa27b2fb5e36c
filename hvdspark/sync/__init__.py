"""The synchronisers: optimizers whose steps all ranks share."""

from hvdspark.sync.base import Exchange, SyncReport, compared
from hvdspark.sync.flat import FlatParameters, mean_buffers_
from hvdspark.sync.options import DEFAULT_POST_PROCESSOR, DEFAULT_THRESHOLD_ALGORITHM, check_options
from hvdspark.sync.updates import SharedUpdates

__all__ = [
    "DEFAULT_POST_PROCESSOR",
    "DEFAULT_THRESHOLD_ALGORITHM",
    "Exchange",
    "FlatParameters",
    "SharedUpdates",
    "SyncReport",
    "check_options",
    "compared",
    "mean_buffers_",
]
