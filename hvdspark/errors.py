"""What can go wrong, as one tree.

::

    HvdsparkError
    ├── ConfigurationError (ValueError)  an option is unknown, out of range, or cannot act where it is given
    ├── DataError (ValueError)           a column, a value or a file cannot be trained on
    ├── ModelError (ValueError)          a module, loss or optimizer breaks what it must keep
    ├── NonFiniteError (ArithmeticError) NaN or infinity where a finite number must be
    ├── MessageError (ValueError)        bytes from the wire are not a message that was sent to us
    ├── StorageError (OSError)           a file is missing, damaged or cannot be written
    ├── CollectiveError (RuntimeError)   ranks cannot go on together
    │   ├── RankMismatch                 ranks disagree: other sizes, dtypes, versions or options
    │   └── RankLost (PeerFailed)        another rank failed, so this one stops: never the first cause
    └── UnsupportedError (TypeError)     what was given is of a kind that is not handled here

    LaunchError (of hvdspark_launch, which knows nothing of this package)
    ├── RankFailed                       a rank raised or died; its cause is the rank's own exception
    ├── TooFewSlots                      the cluster cannot run that many ranks at once
    ├── StartTimeout                     the ranks did not all start in time
    └── EnvironmentMismatch              workers run another Python or other package versions than the driver

Every message says what is wrong, where, and what to do.
"""

from hvdspark_launch.errors import (
    EnvironmentMismatch,
    LaunchError,
    PeerFailed,
    RankFailed,
    StartTimeout,
    TooFewSlots,
)

__all__ = [
    "CollectiveError",
    "ConfigurationError",
    "DataError",
    "EnvironmentMismatch",
    "HvdsparkError",
    "LaunchError",
    "MessageError",
    "ModelError",
    "NonFiniteError",
    "PeerFailed",
    "RankFailed",
    "RankLost",
    "RankMismatch",
    "StartTimeout",
    "StorageError",
    "TooFewSlots",
    "UnsupportedError",
]


class HvdsparkError(Exception):
    """Root of everything that hvdspark itself raises."""


class ConfigurationError(HvdsparkError, ValueError):
    """An option is unknown, out of range, or cannot act where it is given."""


class DataError(HvdsparkError, ValueError):
    """A column, a value or a file cannot be trained on."""


class ModelError(HvdsparkError, ValueError):
    """A module, loss or optimizer breaks what it must keep."""


class NonFiniteError(HvdsparkError, ArithmeticError):
    """NaN or infinity stands where a finite number must be."""


class MessageError(HvdsparkError, ValueError):
    """Bytes from the wire are not a message that was sent to us; nothing of them was applied."""


class StorageError(HvdsparkError, OSError):
    """A file is missing, damaged or cannot be written."""


class CollectiveError(HvdsparkError, RuntimeError):
    """Ranks cannot go on together."""


class RankMismatch(CollectiveError):
    """Ranks disagree about what they exchange: sizes, dtypes, versions or options."""


class RankLost(CollectiveError, PeerFailed):
    """Another rank failed, so this one stops. A consequence: the first cause is that rank's own exception."""


class UnsupportedError(HvdsparkError, TypeError):
    """What was given is of a kind that is not handled here."""
