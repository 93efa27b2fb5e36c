"""Ranks that exchange bytes and arrays: one seam, and an implementation for each way ranks can be joined."""

from hvdspark.collectives.base import Collective
from hvdspark.collectives.registry import Opener, open_collective, register
from hvdspark.collectives.solo import SoloCollective
from hvdspark.collectives.threads import ThreadsCollective, run_ranks

__all__ = ["Collective", "Opener", "SoloCollective", "ThreadsCollective", "open_collective", "register", "run_ranks"]
