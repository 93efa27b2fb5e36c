"""What every rank does before it trains."""

import pytest
import torch

from hvdspark import Network
from hvdspark.training import Job, place, work, worker


@pytest.mark.parametrize(("own", "expected"), [("3", 3), ("1", 1)])
def test_torch_and_codec_get_the_share_and_the_device_that_ranks_agreed_on(tmp_path, monkeypatch, own, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", own)
    monkeypatch.setattr(place, "visible_gpus", tuple)
    given = []

    class Trainer:
        def __init__(self, job, world, events, device, num_threads, *data):
            given.extend([device, num_threads, torch.get_num_threads()])

        def train(self):
            return "report"

    monkeypatch.setattr(worker, "Trainer", Trainer)
    monkeypatch.setattr(worker, "_data", lambda job, world, batches: (job, None, None))
    before = torch.get_num_threads()
    network = Network(torch.nn.Linear(2, 1), torch.nn.MSELoss(), torch.optim.SGD)

    class Sharing:
        encoding_debug_mode = False

    job = Job(
        network=network,
        train_directory="",
        validation_directory=None,
        run_directory=str(tmp_path),
        epochs=1,
        batch_size=1,
        sharing=Sharing(),
        seed=1,
        prefetch=0,
        transport="solo",
        device="auto",
        max_local_ranks=1,
    )
    assert work(job) == "report"
    assert given == [torch.device("cpu"), expected, expected]
    assert torch.get_num_threads() == before
