"""The codec: updates in, small messages out, and back. Nothing is lost: what is not sent stays in the residual.

::

    encoder = Encoder(n, threshold_algorithm=AdaptiveThresholdAlgorithm())
    message = encoder.encode(update)                 # [n] float32 -> 1-D uint8
    decode_into([message, other], out, scale=0.5)    # out += 0.5 * each, in order
"""

from hvdspark.codec.cutting import Cutter
from hvdspark.codec.decoder import Decoded, decode_into, read_messages
from hvdspark.codec.encoder import Encoder
from hvdspark.codec.groups import Groups
from hvdspark.codec.inspection import EncodingRecord, Magnitudes
from hvdspark.codec.message import Checked, Expected, Header, Message, Stamp, read_header
from hvdspark.codec.residual import (
    AnyResidualPostProcessor,
    NoOpResidualPostProcessor,
    ResidualClippingPostProcessor,
    ResidualPostProcessor,
)
from hvdspark.codec.threshold import (
    AdaptiveThresholdAlgorithm,
    AnyThresholdAlgorithm,
    FixedThresholdAlgorithm,
    Quantile,
    QuantileThresholdAlgorithm,
    TargetSparsityThresholdAlgorithm,
    ThresholdAlgorithm,
    ThresholdState,
)

__all__ = [
    "AdaptiveThresholdAlgorithm",
    "AnyResidualPostProcessor",
    "AnyThresholdAlgorithm",
    "Checked",
    "Cutter",
    "Decoded",
    "Encoder",
    "EncodingRecord",
    "Expected",
    "FixedThresholdAlgorithm",
    "Groups",
    "Header",
    "Magnitudes",
    "Message",
    "NoOpResidualPostProcessor",
    "Quantile",
    "QuantileThresholdAlgorithm",
    "ResidualClippingPostProcessor",
    "ResidualPostProcessor",
    "Stamp",
    "TargetSparsityThresholdAlgorithm",
    "ThresholdAlgorithm",
    "ThresholdState",
    "decode_into",
    "read_header",
    "read_messages",
]
