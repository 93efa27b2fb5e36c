"""The loop of train.py as a function under `horovod.spark.run`."""

import horovod.spark
from pyspark.sql import SparkSession
from train import train

if __name__ == "__main__":
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    for report in horovod.spark.run(train, num_proc=2, use_gloo=True, nics=["lo"], verbose=0):
        print(report)
    spark.stop()
