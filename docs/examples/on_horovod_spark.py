"""The loop of train.py as a function under `horovod.spark.run`.

Start it in this folder: the ranks import train.py from there.
"""

import os
import sys

import horovod.spark
from pyspark.sql import SparkSession
from train import train

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else Spark's workers run the first python3 on the PATH

if __name__ == "__main__":
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    for report in horovod.spark.run(train, num_proc=2, use_gloo=True, nics=["lo"], verbose=0):
        print(report)
    spark.stop()
