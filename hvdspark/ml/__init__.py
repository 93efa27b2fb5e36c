"""A network as a stage of pyspark.ml: `NetworkEstimator` is fitted to a DataFrame, `NetworkModel` transforms one."""

from hvdspark.ml.estimator import NetworkEstimator
from hvdspark.ml.model import NetworkModel

__all__ = ["NetworkEstimator", "NetworkModel"]

# pyspark.ml writes down where a class is, and imports it from there to load a pipeline: a public place, which stays.
NetworkEstimator.__module__ = NetworkModel.__module__ = __name__
