"""The laws of a format of codes, one function each, for any `hvdspark.codec.format.Format`."""

import inspect

import numpy as np

GUARD = 64


def cases():
    """Codes and n: no code, one, all, few, at both ends; 64 and 4,096 are where kernels change their way."""
    rng = np.random.default_rng(1)
    for n in (1, 2, 5, 63, 64, 65, 1000, 5000):
        for density in (0.0, 0.01, 0.5, 1.0):
            indices = np.flatnonzero(rng.random(n) < density) + 1
            yield np.where(rng.random(indices.size) < 0.5, -indices, indices).astype(np.int32), n
        yield np.array([-n], np.int32), n
    many = np.flatnonzero(rng.random(100_000) < 0.25) + 1
    yield many.astype(np.int32), 100_000


def written(form, codes, n):
    """Return the plan, and a payload whose bytes were something else before."""
    plan = form.plan(codes, n)
    payload = np.full(plan.payload_bytes, 0xA5, np.uint8)
    form.write(codes, n, plan, payload)
    return plan, payload


def read(form, payload, n, plan, count):
    """Return the number of good codes, and the codes; nothing beside them was written."""
    area = np.full(count + 2 * GUARD, 77, np.int32)
    codes = area[GUARD : GUARD + count]
    good = form.read(payload, n, plan, codes)
    assert (area[:GUARD] == 77).all()
    assert (area[GUARD + count :] == 77).all()
    return good, codes


def the_codes_come_back(form):
    for codes, n in cases():
        plan, payload = written(form, codes, n)
        good, found = read(form, payload, n, plan, codes.size)
        assert good == codes.size
        assert np.array_equal(found, codes)


def exactly_the_payload_is_written(form):
    """All of it, whatever was there before, and nothing beside it; the codes are left as they are."""
    for codes, n in cases():
        plan, payload = written(form, codes, n)
        area = np.full(plan.payload_bytes + 2 * GUARD, 0x5A, np.uint8)
        kept = codes.copy()
        form.write(codes, n, plan, area[GUARD : GUARD + plan.payload_bytes])
        assert area[GUARD : GUARD + plan.payload_bytes].tobytes() == payload.tobytes()
        assert (area[:GUARD] == 0x5A).all()
        assert (area[GUARD + plan.payload_bytes :] == 0x5A).all()
        assert np.array_equal(codes, kept)


def a_plan_fits_a_header(form):
    assert 0 < form.identity < 256
    for codes, n in cases():
        plan = form.plan(codes, n)
        assert type(plan.payload_bytes) is int
        assert type(plan.parameter) is int
        assert 0 <= plan.parameter < 256
        assert plan == form.plan(codes, n)


def bytes_may_lie_anywhere_and_be_read_only(form):
    for codes, n in cases():
        plan, payload = written(form, codes, n)
        for shift in (0, 1, 2, 4, 7):
            view = np.zeros(payload.size + 8, np.uint8)[shift : shift + payload.size]
            view[:] = payload
            for writeable in (True, False):
                view.flags.writeable = writeable
                good, found = read(form, view, n, plan, codes.size)
                assert good == codes.size
                assert np.array_equal(found, codes)
                assert view.tobytes() == payload.tobytes()


def its_own_plans_could_hold_their_codes(form):
    for codes, n in cases():
        assert form.could_hold(form.plan(codes, n), n, codes.size)


def no_plan_could_hold_what_it_has_no_room_for(form):
    """A list of all elements takes more than half a bit each; so few bytes set aside only so much memory."""
    for codes, n in cases():
        plan = form.plan(codes, n)
        for size in range(plan.payload_bytes + 9):
            other = type(plan)(size, plan.parameter)
            for count in (1, 10**3, n, 2**31 - 1, 2**32 - 1):
                if count > 8 * size:
                    assert not form.could_hold(other, n, count)
            if size == 500:
                break


def plans_of_other_parameters_or_sizes_are_refused(form):
    """By `could_hold`, before memory is taken, or by `read`, whatever it says of the codes."""
    for codes, n in cases():
        plan, payload = written(form, codes, n)
        assert not form.could_hold(type(plan)(plan.payload_bytes, 255), n, codes.size)
        for size in {0, plan.payload_bytes - 1, plan.payload_bytes + 1, plan.payload_bytes + 8} - {plan.payload_bytes}:
            other = type(plan)(max(size, 0), plan.parameter)
            if size >= 0 and form.could_hold(other, n, codes.size):
                assert read(form, np.resize(np.append(payload, 8 * [0]), size), n, other, codes.size)[0] < codes.size


def another_number_of_codes_is_refused(form):
    for codes, n in cases():
        plan, payload = written(form, codes, n)
        for count in {0, codes.size - 1, codes.size + 1, n} - {-1, codes.size}:
            if form.could_hold(plan, n, count):
                assert read(form, payload, n, plan, count)[0] < count


def codes_beyond_n_are_refused(form):
    for codes, n in cases():
        if codes.size and n > 1:
            plan, payload = written(form, codes, n)
            less = abs(int(codes[-1])) - 1
            if form.could_hold(plan, less, codes.size):
                assert read(form, payload, less, plan, codes.size)[0] < codes.size


def bad_bytes_are_refused_or_are_what_would_be_written(form):
    """Nothing is written beside the codes, and none is accepted that is out of order."""
    rng = np.random.default_rng(2)
    lists = [(codes, n, *written(form, codes, n)) for codes, n in cases() if codes.size]
    for _ in range(2000):
        codes, n, plan, payload = lists[int(rng.integers(len(lists)))]
        payload = payload.copy()
        place = int(rng.integers(payload.size))
        length = int(rng.choice([1, 2, 9, 600]))
        payload[place : place + length] = rng.integers(0, 256, payload[place : place + length].size)
        good, found = read(form, payload, n, plan, codes.size)
        assert good <= codes.size
        if good == codes.size:
            magnitudes = np.abs(found.astype(np.int64))
            assert (np.diff(magnitudes, prepend=0) > 0).all()
            assert magnitudes[-1] <= n
            twin = np.full(plan.payload_bytes, 0xA5, np.uint8)
            form.write(found, n, plan, twin)
            assert twin.tobytes() == payload.tobytes()


LAWS = [
    law
    for name, law in list(globals().items())
    if inspect.isfunction(law) and list(inspect.signature(law).parameters) == ["form"]
]
