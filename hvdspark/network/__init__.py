"""What every front end trains: a module, a loss, an optimizer factory, and what its output means."""

from hvdspark.network.inputs import check_inputs
from hvdspark.network.joint import JointLoss, each_loss
from hvdspark.network.network import Network
from hvdspark.network.scores import score_each
from hvdspark.network.targets import CLASS_LOSSES, VALUE_LOSSES, target_for

__all__ = [
    "CLASS_LOSSES",
    "VALUE_LOSSES",
    "JointLoss",
    "Network",
    "check_inputs",
    "each_loss",
    "score_each",
    "target_for",
]
