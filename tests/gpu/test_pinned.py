"""Batches in page-locked memory, as ranks on a GPU read them."""

import numpy as np
import pytest
import torch

from contracts.runs import stage_here
from hvdspark.data import Batches, EpochPlan, Manifest, StagedRowGroups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_are_pinned_and_the_same(tmp_path, prefetch):
    stage_here(tmp_path)
    manifest = Manifest.read(tmp_path)
    groups, plan = StagedRowGroups(tmp_path, manifest), EpochPlan(manifest.rows_per_group, 2, 7, seed=1, epoch=0)
    plain = list(Batches(groups, plan, 1, prefetch=prefetch))
    copies = []
    for batch in Batches(groups, plan, 1, prefetch=prefetch, pin_memory=True):
        assert not batch.examples or (batch.features.is_pinned() and batch.labels.is_pinned())
        copies.append(
            batch.features.to("cuda", non_blocking=True)
        )  # the batch is let go while the copy may be under way
    torch.cuda.synchronize()
    for copied, batch in zip(copies, plain, strict=True):
        assert np.array_equal(copied.cpu().numpy(), batch.features.numpy())
