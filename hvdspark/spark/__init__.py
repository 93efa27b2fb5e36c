"""The front ends on Spark."""

from hvdspark.spark.multilayer import SparkDl4jMultiLayer, SparkMultiLayer

__all__ = ["SparkDl4jMultiLayer", "SparkMultiLayer"]
