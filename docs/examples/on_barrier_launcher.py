"""The loop of train.py as a function inside one Spark barrier stage."""

from pyspark.sql import SparkSession
from train import train

from hvdspark_launch import BarrierLauncher

if __name__ == "__main__":
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    for report in BarrierLauncher(spark).run(train, num_proc=2):
        print(report)
    spark.stop()
