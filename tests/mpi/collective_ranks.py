"""What each rank runs under horovodrun, mpirun or torchrun: ``collective_ranks.py SCENE COLLECTIVE``.

Rank 0 prints one line of JSON where the scene ends well.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contracts.collective import ENDS, LAWS, levels_are_collectives, parts_are_collectives
from contracts.messages import check_gather
from hvdspark.collectives import arrays, open_collective
from hvdspark.errors import ConfigurationError, RankLost, RankMismatch, UnsupportedError


def laws(name):
    """All laws on one collective, once with large arrays sent in parts; then new ones in the same process."""
    arrays.DENSE_CHUNK_BYTES = 1 << 20
    passed = []
    with open_collective(name, timeout_s=30) as collective:
        for law in LAWS:
            law(collective)
            passed.append(law.__name__)
    for end in ENDS * 2:
        end(open_collective(name))
        passed.append(end.__name__)
    with open_collective(name) as outer, open_collective(name) as inner:
        for call in range(5):
            check_gather(outer, lambda rank: 10 + rank, call)
            check_gather(inner, lambda rank: 1000 - rank, call)
    return collective, {"name": collective.name, "size": collective.size, "passed": passed}


def module_tensors(name):
    """Frozen weights and buffers of all dtypes, on whole collectives and on parts."""
    import torch

    from contracts import tensors

    torch.set_num_threads(1)
    with open_collective(name, timeout_s=30) as collective:
        for law in tensors.LAWS:
            law(collective)
            law(collective.local())
    return collective, {"size": collective.size}


def two_hosts(name):
    """The ranks pretend to live on two hosts, the first with two of them."""
    with open_collective(name, timeout_s=30) as collective:
        place, collective.local_rank = divmod(collective.rank, 2)
        collective.host, collective.local_size = f"pretended-{place}", min(2, collective.size - 2 * place)
        parts_are_collectives(collective)
        sizes = [int(size[0]) for size in collective.allgather(np.array([collective.local().size], np.uint8))]
    with open_collective(name, timeout_s=30) as collective:
        collective.local_rank, collective.local_size, collective.host = 0, 1, f"pretended-{collective.rank}"
        levels_are_collectives(collective)
        flat, storeys = averaged(collective, 1), averaged(collective, 3)
        assert np.allclose(flat, storeys, rtol=0, atol=1e-6)
        prints = [bytes(each) for each in collective.allgather(storeys.view(np.uint8))]
        assert len(set(prints)) == 1
        assert collective.levels(2)[-1] is not None or collective.rank == 1
    return collective, {"local sizes": sizes, "levels": len(collective._levels[2])}


def averaged(collective, depth):
    """Return the mean of what the ranks' steps came to, weighted by examples."""
    import torch

    from hvdspark import ParameterAveraging

    torch.manual_seed(0)
    module = torch.nn.Linear(9, 7)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    optimizer = ParameterAveraging(optimizer, collective, averaging_frequency=2, aggregation_depth=depth)
    for step in range(4):
        optimizer.zero_grad()
        module(torch.full((1, 9), step - 2.0 * collective.rank)).square().sum().backward()
        optimizer.step(examples=1 + collective.rank)
    assert (optimizer._hosts is not None) == (depth > 2)
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()


def unsplittable(name):
    """Horovod runs without dynamic process sets; the collective goes on."""
    with open_collective(name) as collective:
        try:
            collective.local()
        except UnsupportedError as error:
            print(f"refused: {error}", flush=True)
        check_gather(collective, lambda rank: 10 + rank)


def survivors(name, fail):
    """The last rank fails after a few exchanges; the others go on until they notice."""
    collective = open_collective(name)
    try:
        with collective:
            for call in range(10_000):
                check_gather(collective, lambda rank: 500, call)
                if call == 5 and collective.rank == collective.size - 1:
                    print(f"FAILS AT {time.time()}", flush=True)
                    fail()
                time.sleep(0.01)
    except RankLost as error:
        print(f"rank {collective.rank} says RankLost: {error}", flush=True)
        raise


def fail_by_raising():
    raise ValueError("the user's own mistake")


def raising(name):
    survivors(name, fail_by_raising)


def killed(name):
    survivors(name, lambda: os.kill(os.getpid(), signal.SIGKILL))


def late(name):
    """The last rank comes too late."""
    try:
        with open_collective(name, timeout_s=1.0) as collective:
            collective.barrier()
            if collective.rank == collective.size - 1:
                time.sleep(8)
            collective.barrier()
    except RankLost as error:
        print(f"rank {collective.rank} says RankLost: {error}", flush=True)
        raise


def refused(name):
    """The collective cannot work under this launcher."""
    try:
        open_collective(name)
    except ConfigurationError as error:
        print(f"refused: {error}", flush=True)
        return
    raise AssertionError(f"{name} was opened")


def torch_of_the_user(name):
    """The user's own torch.distributed runs before and after; or is initialised while ours is open."""
    import torch
    import torch.distributed as dist

    def users_sum():
        one = torch.ones(3)
        dist.all_reduce(one)
        return one.tolist()

    with open_collective(name) as early:  # from the launcher's variables
        assert not dist.is_initialized()
        dist.init_process_group("gloo")
        total = [float(early.size)] * 3
        assert users_sum() == total
        check_gather(early, lambda rank: 9000 + rank)
        with open_collective(name, timeout_s=20) as late:  # a new group of the user's
            check_gather(late, lambda rank: 9000 - rank)
            assert users_sum() == total
            assert (late.rank, late.size) == (early.rank, early.size)
            parts_are_collectives(late)
            assert users_sum() == total
    assert users_sum() == total
    forgotten = open_collective(name)
    check_gather(forgotten, lambda rank: 10)
    dist.destroy_process_group()
    forgotten.abort()
    return forgotten, {"size": forgotten.size}


def initialised_only(name):
    """No launcher that we know, but the user has initialised torch.distributed."""
    import torch.distributed as dist

    rank, size = int(os.environ.pop("RANK")), int(os.environ.pop("WORLD_SIZE"))
    address = f"tcp://127.0.0.1:{os.environ.pop('MASTER_PORT')}"
    refused("torch")
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    with open_collective(name) as collective:
        check_gather(collective, lambda rank: 10 + rank)
    dist.destroy_process_group()
    return collective, {"name": collective.name, "size": collective.size}


def never_closed(name):
    """The program ends without closing."""
    collective = open_collective(name)
    collective.barrier()
    return collective, {"size": collective.size}


def interrupted(name):
    """Rank 0 is interrupted while it waits for the last rank, which comes much later."""
    collective = open_collective(name)
    collective.barrier()
    if collective.rank == collective.size - 1:
        time.sleep(8)
        return
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    start = time.monotonic()
    try:
        with collective:
            collective.barrier()
    except KeyboardInterrupt:
        print(f"interrupted after {time.monotonic() - start:.1f} s", flush=True)


def mis_sized(name):
    """MPI sees another number of ranks than the launcher started, as it does with two MPIs on one machine."""
    os.environ["OMPI_COMM_WORLD_SIZE"] = "4"
    refused(name)


def running_horovod(name):
    """Horovod runs already, started by the user: it is used, and left running."""
    import horovod.torch as hvd

    hvd.init()
    with open_collective(name) as collective:
        check_gather(collective, lambda rank: rank + 1)
    assert hvd.is_initialized()
    hvd.barrier()
    return collective, {"size": hvd.size()}


def other_version(name):
    """The last rank's software exchanges something else under our name; Horovod refuses on all ranks and goes on."""
    import horovod.torch as hvd
    import torch
    from horovod.common.exceptions import HorovodInternalError

    with open_collective(name) as collective:
        collective.barrier()
        odd = collective.rank == collective.size - 1
        try:
            hvd.allgather(torch.zeros(3), name="hvdspark.1.exchange") if odd else collective.barrier()
        except (HorovodInternalError, RankMismatch) as error:
            found = type(error).__name__, "Mismatched data types" in str(error)
        check_gather(collective, lambda rank: 30)
    assert found == ("HorovodInternalError" if odd else "RankMismatch", True)
    return collective, {"size": collective.size}


def timing(name):
    """Milliseconds an operation, after a warm-up."""
    generator = np.random.default_rng(3)
    varying = generator.integers(7400, 9000, 500)
    jumping = generator.integers(64, 30_000, 500)
    array = np.zeros(250_000, np.float32)
    small = np.zeros(8, np.float64)
    message = np.zeros(30_000, np.uint8)
    scenes = {
        "allgather of 8 KB": lambda call: collective.allgather(message[:8192]),
        "allgather of 7.4 to 9 KB": lambda call: collective.allgather(message[: varying[call]]),
        "allgather of 64 B to 30 KB": lambda call: collective.allgather(message[: jumping[call]]),
        "alltoall of 7.4 to 9 KB": lambda call: collective.alltoall([message[: varying[call]]] * collective.size),
        "alltoall of 64 B to 30 KB": lambda call: collective.alltoall([message[: jumping[call]]] * collective.size),
        "allreduce_ of 64 B": lambda call: collective.allreduce_(small),
        "allreduce_ of 1 MB": lambda call: collective.allreduce_(array),
        "barrier": lambda call: collective.barrier(),
    }
    found = {}
    with open_collective(name) as collective:
        for scene, operation in scenes.items():
            num_calls = 100 if "1 MB" in scene else 500
            for call in range(20):
                operation(call)
            collective.barrier()
            start = time.perf_counter()
            for call in range(num_calls):
                operation(call)
            found[scene] = round(1e3 * (time.perf_counter() - start) / num_calls, 4)
    return collective, found


SCENES = {
    scene.__name__: scene
    for scene in (
        laws,
        module_tensors,
        two_hosts,
        unsplittable,
        raising,
        killed,
        late,
        refused,
        mis_sized,
        running_horovod,
        torch_of_the_user,
        initialised_only,
        never_closed,
        interrupted,
        other_version,
        timing,
    )
}

if __name__ == "__main__":
    outcome = SCENES[sys.argv[1]](sys.argv[2])
    if outcome is not None and outcome[0].rank == 0:
        print("RESULT " + json.dumps(outcome[1]), flush=True)
