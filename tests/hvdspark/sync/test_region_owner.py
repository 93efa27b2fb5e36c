"""What an owner lets through, and what it keeps."""

import numpy as np
import pytest
import torch

from hvdspark.codec import Encoder, FixedThresholdAlgorithm, Stamp, read_messages
from hvdspark.sync.region_owner import RegionOwner

N, RANKS, TAU = 400, 6, 1.0


def received(per_rank):
    """Read one message a rank, each with codes of its own elements, so that no two ranks' codes fall together."""
    messages = []
    for rank in range(RANKS):
        vector = np.zeros(N, np.float32)
        vector[rank * per_rank : (rank + 1) * per_rank] = TAU * (-1) ** rank
        encoder = Encoder(N, threshold_algorithm=FixedThresholdAlgorithm(TAU))
        messages.append(encoder.encode(vector, Stamp(run_id=1, rank=rank, step=0, examples=1)).copy())
    return read_messages(messages, N)


def decoded(message):
    out = np.zeros(N, np.float32)
    read_messages([message], N).add_to(out, None)
    return out


def joined(owner, per_rank, step=0):
    return owner.join(received(per_rank), Stamp(run_id=1, rank=0, step=step, examples=1)).copy()


def test_it_sends_four_times_what_a_rank_has_sent_and_keeps_the_rest():
    owner, total = RegionOwner(N, "cpu", 1), np.zeros(N, np.float32)
    received(10).add_to(total, None)
    sent = decoded(joined(owner, 10))
    assert np.count_nonzero(total) == 60
    assert np.count_nonzero(sent) == 40
    np.testing.assert_array_equal(sent + np.asarray(owner.residual), total)


def test_what_was_kept_grows_until_it_is_sent():
    owner, came, total = RegionOwner(N, "cpu", 1), np.zeros(N, np.float32), np.zeros(N, np.float32)
    for step in range(3):
        received(10).add_to(total, None)
        came += decoded(joined(owner, 10, step))
    assert np.count_nonzero(came) == 60
    np.testing.assert_allclose(came + np.asarray(owner.residual), total, rtol=0, atol=1e-6)


def test_undo_leaves_it_as_it_was():
    owner = RegionOwner(N, "cpu", 1)
    joined(owner, 10)
    before = torch.as_tensor(owner.residual).clone()
    owner.undo(joined(owner, 10, 1))
    np.testing.assert_allclose(np.asarray(owner.residual), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_where_no_rank_has_sent_a_code_it_sends_none(steps):
    owner = RegionOwner(N, "cpu", 1)
    for step in range(steps):
        assert not decoded(joined(owner, 0, step)).any()
    assert not np.asarray(owner.residual).any()
