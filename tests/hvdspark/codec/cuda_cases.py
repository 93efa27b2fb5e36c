"""Run by test_cuda.py in a process of its own, in Numba's simulator: an encoder on a GPU beside one on the CPU."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from contracts import simulator
from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    Encoder,
    FixedThresholdAlgorithm,
    ResidualClippingPostProcessor,
    Stamp,
    TargetSparsityThresholdAlgorithm,
    decode_into,
)
from hvdspark.errors import ConfigurationError, NonFiniteError, UnsupportedError

N = 90
OPTIONS = {
    "auto": {
        "threshold_algorithm": AdaptiveThresholdAlgorithm(),
        "residual_post_processor": ResidualClippingPostProcessor(1.0, 1),
    },
    "groups": {
        "threshold_algorithm": TargetSparsityThresholdAlgorithm(sparsity_target=0.05),
        "group_ends": [30, 30, 71, N],
        "format": "rice",
    },
    "mean": {"threshold_algorithm": FixedThresholdAlgorithm(0.5), "magnitude": "mean", "format": "sparse"},
    "multiples": {
        "threshold_algorithm": FixedThresholdAlgorithm(0.5),
        "magnitude": "multiples",
        "group_ends": [30, 30, 71, N],
    },
    "dense": {"format": "dense"},
}


def check_same_bytes(options):
    rng = np.random.default_rng(1)
    seen = []
    here = Encoder(N, **options)
    there = Encoder(N, device="cuda", observer=seen.append, **options)
    for step in range(3):
        update = (rng.standard_normal(N) ** 3).astype(np.float32)
        before = rng.standard_normal(N).astype(np.float32)
        stamp = Stamp(1, 2, step, 4)
        if step % 2:
            message = here.encode_difference(before, update, stamp)
            other = there.encode_difference(cuda.to_device(before), cuda.to_device(update), stamp)
        else:
            message = here.encode(update, stamp)
            other = there.encode(cuda.to_device(update), stamp)
        assert other.tobytes() == message.tobytes()
        assert there.residual.copy_to_host().tobytes() == here.residual.tobytes()
        assert there.clipped_mass == here.clipped_mass
    assert seen
    check_decoding(here, there)
    state, same = there.state_dict(), here.state_dict()
    assert state.pop("residual").tobytes() == same.pop("residual").tobytes()
    assert state == same


def check_decoding(here, there):
    update = np.linspace(-2, 2, N, dtype=np.float32)
    messages = [here.encode(update).copy(), here.encode(-update).copy()]
    wanted = update.copy()
    decode_into(messages, wanted, [0.5, -1 / 3])
    out = cuda.to_device(update)
    decode_into(messages, out, [0.5, -1 / 3])
    assert out.copy_to_host().tobytes() == wanted.tobytes()
    state = here.state_dict()
    for encoder in (here, there):
        encoder.load_state_dict(state)
        encoder.put_back(messages[0])
    assert there.residual.copy_to_host().tobytes() == here.residual.tobytes()


def check_refusals():
    encoder = Encoder(N, device="cuda", threshold_algorithm=FixedThresholdAlgorithm(0.5))
    residual = np.linspace(-0.4, 0.4, N).astype(np.float32)
    encoder.load_state_dict({**encoder.state_dict(), "residual": residual})
    update = np.ones(N, np.float32)
    update[47] = np.nan
    refused(NonFiniteError, "the update is nan at element 47 of 90", lambda: encoder.encode(cuda.to_device(update)))
    assert np.all(np.abs(encoder.residual.copy_to_host() - residual) <= 2 * np.spacing(np.float32(1.5)))
    refused(UnsupportedError, "on the GPU, not a ndarray", lambda: encoder.encode(update))
    refused(ConfigurationError, "give it a copy", lambda: encoder.encode(encoder.residual))
    refused(ConfigurationError, "flatten it", lambda: encoder.encode(cuda.to_device(update[:3])))
    refused(UnsupportedError, "contiguous", lambda: encoder.encode(cuda.to_device(update.astype(np.float64))))
    update[47] = 1.0
    twin = Encoder(N, threshold_algorithm=FixedThresholdAlgorithm(0.5))
    for one in (encoder, twin):
        one.load_state_dict({**twin.state_dict(), "residual": update})
    assert encoder.encode_accumulated().tobytes() == twin.encode_accumulated().tobytes()
    assert encoder.residual.copy_to_host().tobytes() == twin.residual.tobytes()
    refused(UnsupportedError, "cuda:7", lambda: Encoder(N, device="cuda:7", format="dense"))


def refused(kind, text, call):
    with pytest.raises(kind, match=text):
        call()


if __name__ == "__main__":
    simulator.prepare()
    for name, options in OPTIONS.items():
        check_same_bytes(options)
        print(name, "ok", flush=True)
    check_refusals()
    print("done")
