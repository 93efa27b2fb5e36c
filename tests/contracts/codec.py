"""The laws of the codec, one function each, for any encoder.

`make(n, **options)` returns a fresh `hvdspark.codec.Encoder` (or one like it) of n elements, always with the same
options; it hands `names` and `num_threads` on. A law about codes or residuals holds trivially where there are none.
"""

import copy
import inspect
import json

import numpy as np
import pytest

from hvdspark.codec import Stamp, decode_into, read_header, read_messages
from hvdspark.errors import MessageError, NonFiniteError

SIZES = (1, 2, 63, 64, 65, 1000)


def updates(n, steps, seed=0):
    """Updates as training makes them: heavy tails, a scale that drifts, at times nothing at all."""
    rng = np.random.default_rng([seed, n])
    for step in range(steps):
        update = rng.standard_normal(n) ** 3 * 1e-3 * (1 + step / 10)
        yield (update if step % 7 != 3 else np.zeros(n)).astype(np.float32)


def decoded(message, n):
    out = np.zeros(n, np.float32)
    decode_into([message], out)
    return out


def nothing_is_lost(make):
    """After every encode, sent + kept + clipped is what came in; exactly, where float32 holds the parts."""
    for n in SIZES:
        encoder = make(n)
        for update in updates(n, 30):
            total = encoder.residual + update
            clipped = encoder.clipped_mass
            sent = decoded(encoder.encode(update), n).astype(np.float64)
            missing = np.abs(sent + encoder.residual - total).sum()
            assert missing == pytest.approx(encoder.clipped_mass - clipped, abs=1e-6 * float(np.abs(total).max()))


def signs_are_treated_alike(make):
    """The negated update gives the negated message."""
    for n in SIZES:
        one, other = make(n), make(n)
        for update in updates(n, 10):
            sent = decoded(one.encode(update), n)
            assert np.array_equal(decoded(other.encode(-update), n), -sent)
            assert np.array_equal(other.residual, -one.residual)


def a_difference_is_the_update_it_makes(make):
    """encode_difference(before, after) equals encode(before - after), bit for bit."""
    n = 1000
    one, other = make(n), make(n)
    before = np.random.default_rng(1).standard_normal(n).astype(np.float32)
    for update in updates(n, 10):
        after = before - update
        sent = one.encode(before - after, Stamp(1, 2, 3, 4)).tobytes()
        assert other.encode_difference(before, after, Stamp(1, 2, 3, 4)).tobytes() == sent
        assert other.residual.tobytes() == one.residual.tobytes()


def what_was_accumulated_before_is_encoded_alike(make):
    """Adding the update to the residual by hand and encoding that gives the same message and residual."""
    n = 1000
    one, other = make(n), make(n)
    for update in updates(n, 10):
        sent = one.encode(update, Stamp(1, 2, 3, 4)).tobytes()
        other.residual[:] += update
        assert other.encode_accumulated(Stamp(1, 2, 3, 4)).tobytes() == sent
        assert other.residual.tobytes() == one.residual.tobytes()
    other.residual[7] = np.nan
    with pytest.raises(NonFiniteError, match="the residual is nan at element 7"):
        other.encode_accumulated()


def zeros_send_nothing(make):
    """An update of zeros moves nothing, and the encoder goes on from it as if new."""
    n = 100
    encoder = make(n)
    for _ in range(2):
        assert not decoded(encoder.encode(np.zeros(n, np.float32)), n).any()
        assert not encoder.residual.any()
    update = next(updates(n, 1))
    sent = decoded(encoder.encode(update), n)
    np.testing.assert_allclose(sent + encoder.residual, update, atol=1e-9)


def the_message_says_who_sent_it(make):
    encoder = make(10)
    header = read_header(encoder.encode(np.ones(10, np.float32), Stamp(run_id=2**64 - 1, rank=3, step=7, examples=32)))
    assert (header.run_id, header.rank, header.step, header.examples, header.n) == (2**64 - 1, 3, 7, 32, 10)
    header = read_header(encoder.encode(np.ones(10, np.float32)))
    assert (header.run_id, header.rank, header.step, header.examples) == (0, 0, 0, 0)


def a_restored_encoder_goes_on_bit_for_bit(make):
    """State out, through JSON, and in: the same messages and residuals as an encoder that was never stopped."""
    n = 500
    encoder = make(n)
    stream = list(updates(n, 40))
    for update in stream[:20]:
        encoder.encode(update)
    state = encoder.state_dict()
    residual = state.pop("residual")
    state = json.loads(json.dumps(state)) | {"residual": copy.deepcopy(residual)}
    restored = make(n)
    array = restored.residual
    restored.load_state_dict(state)
    assert restored.residual is array
    assert (restored.threshold, restored.density) == (encoder.threshold, encoder.density)
    for update in stream[20:]:
        assert restored.encode(update).tobytes() == encoder.encode(update).tobytes()
        assert restored.residual.tobytes() == encoder.residual.tobytes()
        assert restored.clipped_mass == encoder.clipped_mass


def what_is_not_finite_is_refused(make):
    """NaN, infinity and a sum that overflows are refused by place; the encoder is as it was, to a rounding or two."""
    n = 130
    encoder, twin = (make(n, names=[("weight", 0, 100), ("bias", 100, 130)]) for _ in range(2))
    stream = list(updates(n, 10))
    for i, (update, value) in enumerate(zip(stream, 3 * [np.nan, np.inf, -np.inf], strict=False)):
        place = (0, 63, 64, 99, 100, 129)[i % 6]
        spoiled = update.copy()
        spoiled[place] = value
        before = encoder.state_dict()
        with pytest.raises(NonFiniteError, match="'weight'" if place < 100 else "'bias'") as caught:
            encoder.encode(spoiled) if i % 2 else encoder.encode_difference(spoiled, np.zeros(n, np.float32))
        assert f"element {place} of {n}" in str(caught.value)
        after = encoder.state_dict()
        residual, kept = before.pop("residual"), after.pop("residual")
        assert np.all(np.abs(kept - residual) <= 2 * np.spacing(np.abs(residual) + np.abs(update)))
        assert residual[place:].tobytes() == kept[place:].tobytes()
        assert before == after
        encoder.load_state_dict({**before, "residual": residual})
        assert encoder.encode(update).tobytes() == twin.encode(update).tobytes()


def an_update_of_nan_changes_no_bit(make):
    """What a diverged loss gives: the first element says so, before anything is written."""
    n = 1000
    encoder = make(n)
    encoder.encode(next(updates(n, 1)))
    before = encoder.state_dict()
    with pytest.raises(NonFiniteError, match="element 0 of 1000"):
        encoder.encode(np.full(n, np.nan, np.float32))
    after = encoder.state_dict()
    assert before.pop("residual").tobytes() == after.pop("residual").tobytes()
    assert before == after


def a_sum_that_overflows_is_refused(make):
    encoder = make(3)
    encoder.residual[:] = [0.0, 3e38, 0.0]
    with pytest.raises(NonFiniteError, match="element 1 of 3"):
        encoder.encode(np.array([1.0, 3e38, 1.0], np.float32))
    assert encoder.residual.tolist() == [0.0, float(np.float32(3e38)), 0.0]
    large = np.array([1.0, -3e38, 1.0], np.float32)
    sent = decoded(encoder.encode(large), 3)
    assert np.isfinite(sent + encoder.residual).all()


def a_residual_spoiled_from_outside_is_noticed(make):
    encoder = make(200)
    encoder.encode(next(updates(200, 1)))
    encoder.residual[150] = np.nan
    with pytest.raises(NonFiniteError, match="150"):
        encoder.encode(next(updates(200, 1)))


def every_changed_byte_is_noticed(make):
    """Each byte flipped, each prefix, and an added byte: refused, and `out` is as it was."""
    n = 40
    message = make(n).encode(next(updates(n, 1, seed=5))).copy()
    out = np.arange(n, dtype=np.float32)
    before = out.tobytes()
    wrong = [message[:length] for length in range(message.size)] + [np.append(message, np.uint8(0))]
    for place in range(message.size):
        changed = message.copy()
        changed[place] ^= 1 << place % 8
        wrong.append(changed)
    for each in wrong:
        with pytest.raises(MessageError):
            decode_into([message, each], out)
    assert out.tobytes() == before


def what_was_put_back_is_kept(make):
    """A message that nobody applied is taken back; nothing is lost."""
    n = 300
    encoder = make(n)
    for update in updates(n, 10):
        total = encoder.residual + update
        clipped = encoder.clipped_mass
        encoder.put_back(encoder.encode(update))
        missing = float(np.abs(encoder.residual - total).sum(dtype=np.float64))
        assert missing == pytest.approx(encoder.clipped_mass - clipped, abs=1e-5 * float(np.abs(total).max()))


def what_was_put_back_is_forgotten(make):
    """The next message is that of an encoder which has never made the one that was put back."""
    n = 300
    one, other = make(n), make(n)
    stream = list(updates(n, 8))
    for update in stream[:4]:
        one.encode(update)
        other.encode(update)
    residual = np.array(one.residual)
    one.put_back(one.encode(stream[4]))
    one.residual[:] = residual
    for update in stream[5:]:
        assert one.encode(update).tobytes() == other.encode(update).tobytes()


def a_failure_after_the_pass_loses_nothing(make):
    """An observer that raises undoes the encode, and the next one is as if it had not been."""
    n = 300
    broken = []

    def observer(record):
        if broken:
            raise RuntimeError("no")

    encoder = make(n, observer=observer)
    for update in updates(n, 8):
        total = encoder.residual + update
        clipped = encoder.clipped_mass
        broken.append(1)
        with pytest.raises(RuntimeError, match="no"):
            encoder.encode(update)
        broken.clear()
        missing = float(np.abs(encoder.residual - total).sum(dtype=np.float64))
        assert missing == pytest.approx(encoder.clipped_mass - clipped, abs=1e-5 * float(np.abs(total).max()))
        encoder.encode(np.zeros(n, np.float32))


def encoders_that_agree_use_the_same_thresholds(make):
    """After one exchange, ranks that see different updates go on with equal thresholds.

    But for a start that has failed (16 codes, and a density of 1/16): it is taken again from each rank's own numbers.
    """
    n = 400
    encoders = [make(n), make(n), make(n)]
    streams = [(update * 3**seed for update in updates(n, 20, seed)) for seed in range(3)]
    agreed = []
    for each in zip(*streams, strict=True):
        messages = [encoder.encode(update) for encoder, update in zip(encoders, each, strict=True)]
        for group in agreed:
            assert len({encoder.thresholds[group] for encoder in encoders}) == 1
        found = read_messages(messages, n).messages
        for encoder in encoders:
            encoder.agree(found)
        state = encoders[0].state_dict()
        pairs = enumerate(zip(state["thresholds"], state["densities"], strict=True))
        agreed = [
            group for group, (threshold, density) in pairs if threshold and (density < 1 / 16 or n * density < 16)
        ]
        assert len({encoder.density for encoder in encoders}) == 1


def messages_do_not_depend_on_threads(make):
    n = 600_000  # enough for two threads
    update = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    seen = set()
    for num_threads in (1, 2, 3):
        encoder = make(n, num_threads=num_threads)
        message = encoder.encode(update).tobytes()
        seen.add((message, encoder.residual.tobytes(), encoder.clipped_mass))
    assert len(seen) == 1


LAWS = [
    law
    for name, law in list(globals().items())
    if inspect.isfunction(law) and list(inspect.signature(law).parameters) == ["make"]
]
