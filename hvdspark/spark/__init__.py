"""The front ends on Spark."""

from hvdspark.spark.graph import SparkComputationGraph
from hvdspark.spark.multilayer import SparkDl4jMultiLayer, SparkMultiLayer

__all__ = ["SparkComputationGraph", "SparkDl4jMultiLayer", "SparkMultiLayer"]
