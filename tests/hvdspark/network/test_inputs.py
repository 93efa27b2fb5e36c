"""What inputs a module takes: accepted exactly where Python would take the call."""

import functools

import pytest
from torch import nn

from hvdspark.errors import ConfigurationError
from hvdspark.network import JointLoss, check_inputs, each_loss

SIGNATURES = ["a", "a, b", "a, b=0", "a, /, b", "a, *, b", "a, *rest", "a, **more", "*rest", "a, b, features_mask=None"]


def module_of(signature):
    names = {}
    exec(f"def forward(self, {signature}):\n    return 0", names)
    return type("Made", (nn.Module,), {"forward": names["forward"]})()


def is_taken(call):
    try:
        call()
    except (TypeError, ConfigurationError):
        return False
    return True


@pytest.mark.parametrize("signature", SIGNATURES)
def test_inputs_are_accepted_where_the_call_is(signature):
    module = module_of(signature)
    # A features mask goes by name, and is no input.
    forward = functools.partial(module, features_mask=0) if "features_mask" in signature else module
    for count in range(1, 5):
        accepted = is_taken(lambda count=count: check_inputs(module, [""] * count, "x"))
        assert accepted == is_taken(lambda count=count: forward(*range(count))), count
    for names in ("a", "b", "c", "ab", "ac", "bc", "abc"):
        accepted = is_taken(lambda names=names: check_inputs(module, list(names), "x"))
        assert accepted == is_taken(lambda names=names: forward(**dict.fromkeys(names, 0))), names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", "", ""], r"x: Made.forward takes 2 inputs \(a, b\), and 3 are given"),
        ([""], "x: Made.forward needs the input 'b' as well: 1 are given"),
        (["a"], "x: Made.forward needs the input 'b' as well"),
        (["a", "c"], "x: Made.forward has no argument 'c' for an input: it has a, b"),
        (["a", "b", "features_mask"], "no argument 'features_mask' for an input"),
    ],
)
def test_what_is_refused_is_named(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        check_inputs(module_of("a, b, features_mask=None"), arguments, "x")


def test_layers_of_torch_take_one_input():
    for layer in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        check_inputs(layer, [""], "x")
        with pytest.raises(ConfigurationError, match="takes 1 inputs"):
            check_inputs(layer, ["", ""], "x")


def test_each_loss():
    one, other = nn.MSELoss(), nn.CrossEntropyLoss()
    assert each_loss(one) == (one,)
    assert each_loss(JointLoss([one, other])) == (one, other)
