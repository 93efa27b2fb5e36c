"""The limit on threads reaches every kernel of an encode and a decode: ranks of one host share its cores."""

import numpy as np
import pytest

from hvdspark.codec import Encoder, FixedThresholdAlgorithm, decode_into
from hvdspark_kernels import threads


@pytest.mark.parametrize("form", ["sparse", "rice", "bitmap"])
@pytest.mark.parametrize("limit", [1, 2])
def test_no_kernel_takes_more_threads_than_it_may(monkeypatch, form, limit):
    n = 1_000_000  # enough for several threads everywhere
    update = np.random.default_rng(1).standard_normal(n).astype(np.float32)
    asked = []
    ranges = threads.ranges

    def watched(*arguments, **options):
        parts = ranges(*arguments, **options)
        asked.append(len(parts))
        return parts

    monkeypatch.setattr(threads, "ranges", watched)
    monkeypatch.setattr(threads, "default_num_threads", lambda: 8)
    encoder = Encoder(n, threshold_algorithm=FixedThresholdAlgorithm(1.0), format=form, num_threads=limit)
    message = encoder.encode(update)
    decode_into([message], np.zeros(n, np.float32), num_threads=limit)
    assert max(asked) == limit
