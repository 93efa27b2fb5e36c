"""A plain PyTorch loop whose steps are shared by all ranks. The same file runs in six ways:

    python train.py
    horovodrun -np 2 python train.py
    mpirun -n 2 python train.py
    torchrun --nproc-per-node 2 train.py
    python on_horovod_spark.py        (horovod.spark.run)
    python on_barrier_launcher.py     (BarrierLauncher)

What differs from a loop for one process is marked with a `#>`.
"""

import torch
from sklearn.datasets import load_digits

import hvdspark


def train(epochs=8, batch_size=32):
    with hvdspark.open_collective("auto") as world:  # > who are the others?
        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images, dtype=torch.float32)[world.rank :: world.size] / 16  # > this rank's share of the data
        y = torch.tensor(labels)[world.rank :: world.size]
        steps = len(images) // world.size // batch_size  # the same on all ranks

        torch.manual_seed(7)
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = hvdspark.SharedUpdates(optimizer, world)  # > rank 0's weights go to all; every step is shared

        for _ in range(epochs):
            for rows in torch.randperm(len(x))[: steps * batch_size].split(batch_size):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
                loss.backward()
                optimizer.step()

        with torch.no_grad():
            accuracy = (model(x).argmax(dim=1) == y).float().mean().item()
        return {
            "rank": world.rank,
            "size": world.size,
            "accuracy": accuracy,
            "weights": f"{optimizer.fingerprint():08x}",  # equal on all ranks
            "bytes": optimizer.report().bytes_sent,
        }


if __name__ == "__main__":
    print(train())
