"""Configuration objects refuse what they do not know, by name, and come back from text."""

import pytest
from pydantic import Field

from hvdspark.config import Configuration
from hvdspark.errors import ConfigurationError


class Sample(Configuration):
    """A configuration to test with."""

    batch_size: int = Field(default=4, gt=0)
    name: str | None = None


def bomb():
    """Aliases of aliases: small as text, a thousand million items when written out."""
    lines = ["name:", "  - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join(lines)


def test_round_trips():
    sample = Sample(batch_size=7, name="x")
    assert Sample.from_json(sample.to_json()) == sample
    assert Sample.from_yaml(sample.to_yaml()) == sample


def test_frozen_and_replaced():
    sample = Sample()
    with pytest.raises(Exception, match="frozen"):
        sample.batch_size = 3
    assert sample.replaced(batch_size=3) == Sample(batch_size=3)
    with pytest.raises(ConfigurationError, match="batch_size"):
        sample.replaced(batch_size=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sample(batchsize=3), "Sample has no option 'batchsize': did you mean 'batch_size'?"),
        (lambda: Sample(zzz=3), "the options are batch_size, name"),
        (lambda: Sample(batch_size=-3), r"Sample.batch_size: .*greater than 0 \(got -3\)"),
        (lambda: Sample.from_json('{"batch_size": "many"}'), "Sample.batch_size"),
        (lambda: Sample.from_json("[1]"), "a mapping of options is needed, this is a list"),
        (lambda: Sample.from_json("{"), "not JSON"),
        (lambda: Sample.from_yaml("a: ["), "not YAML"),
        (lambda: Sample.from_json("[" * 100_000), "not JSON"),
        (lambda: Sample.from_yaml("[" * 10_000), "not YAML"),
        (lambda: Sample.from_yaml(bomb()), r"^Sample.name: .{0,500}$"),
        (lambda: Sample.from_yaml("!!python/object/apply:os.getcwd []"), "not YAML"),
        (lambda: Sample.from_yaml("x" * (1 << 21)), "2097152 characters"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ConfigurationError, match=words):
        make()
