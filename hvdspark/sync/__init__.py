"""The synchronisers: optimizers whose steps all ranks share.

`synchroniser` has the step, `meeting` the end of a period, `saved` the state. The ways to exchange are named as the
option names them: `coded` (for "codec"), `coded_regions` (for "regions", with its `region_owner`), `dense`, `fp16`,
`auto`.
"""

from hvdspark.sync.averaging import ParameterAveraging, check_aggregation_depth
from hvdspark.sync.base import Exchange, SyncReport, compared
from hvdspark.sync.flat import FlatParameters, mean_buffers_
from hvdspark.sync.options import (
    DEFAULT_POST_PROCESSOR,
    DEFAULT_THRESHOLD_ALGORITHM,
    UNCODED,
    CodecOptions,
    ExchangeName,
    check_options,
)
from hvdspark.sync.outer import Nesterov
from hvdspark.sync.period import LocalSteps, checked_local_steps
from hvdspark.sync.rules import Rules
from hvdspark.sync.synchroniser import Synchroniser
from hvdspark.sync.updates import SharedUpdates

__all__ = [
    "DEFAULT_POST_PROCESSOR",
    "DEFAULT_THRESHOLD_ALGORITHM",
    "UNCODED",
    "CodecOptions",
    "Exchange",
    "ExchangeName",
    "FlatParameters",
    "LocalSteps",
    "Nesterov",
    "ParameterAveraging",
    "Rules",
    "SharedUpdates",
    "SyncReport",
    "Synchroniser",
    "check_aggregation_depth",
    "check_options",
    "checked_local_steps",
    "compared",
    "mean_buffers_",
]
