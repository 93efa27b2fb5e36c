"""Training masters: how a network is trained on a cluster."""

from hvdspark.masters.averaging import ParameterAveragingTrainingMaster
from hvdspark.masters.base import TrainingMaster
from hvdspark.masters.device import (
    check_device,
    copy_on,
    device_of,
    forget,
    inferring,
    inherited,
    is_fatal,
    task_device,
)
from hvdspark.masters.parcel import Parcel, PortableFunction
from hvdspark.masters.shared import SharedTrainingMaster

__all__ = [
    "ParameterAveragingTrainingMaster",
    "Parcel",
    "PortableFunction",
    "SharedTrainingMaster",
    "TrainingMaster",
    "check_device",
    "copy_on",
    "device_of",
    "forget",
    "inferring",
    "inherited",
    "is_fatal",
    "task_device",
]
