"""A saved network is made again: architecture, loss, optimizer and all; and what cannot be is told."""

import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hvdspark import DataSet, Network, NormalizerStandardize
from hvdspark.errors import ModelError, StorageError
from hvdspark.network.recipe import Indescribable, describe, follow

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Net(nn.Module):
    """A user's module with an argument."""

    def __init__(self, hidden=8, p=0.0):
        super().__init__()
        self.one, self.two, self.drop = nn.Linear(4, hidden), nn.Linear(hidden, 3), nn.Dropout(p)

    def forward(self, x):
        return self.two(self.drop(self.one(x).relu()))


class Plain(nn.Module):
    """A user's module without arguments, with tied weights."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x))


def halved(output):
    return output / 2


def steps(optimizer, every=2):
    return torch.optim.lr_scheduler.StepLR(optimizer, every)


LAYERS = [
    nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4, eps=1e-3),
                  nn.ReLU(inplace=True), nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Dropout(0.25), nn.LazyLinear(3)),
    nn.Sequential(nn.Embedding(10, 4, padding_idx=0), nn.Flatten(), nn.LayerNorm(8, elementwise_affine=False),
                  nn.Linear(8, 2)),
    nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.GELU(approximate="tanh")), nn.GroupNorm(2, 4), nn.PReLU(4),
                  nn.Softmax(dim=1)),
]  # fmt: skip


def save_and_read(network, directory, **options):
    network.save(str(directory), **options.pop("save", {}))
    return Network.read(str(directory), **options)


def same_weights(one, other):
    ours, theirs = one.module.state_dict(), other.module.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )


class TestArchitecture:
    @pytest.mark.parametrize("number", range(len(LAYERS)))
    def test_layers_of_torch_are_found_out(self, number, tmp_path):
        module = LAYERS[number]
        x = [torch.randn(2, 1, 9, 9), torch.tensor([[1, 2], [3, 0]]), torch.randn(2, 4)][number]
        module(x)  # shapes of lazy layers
        network = Network(module, nn.CrossEntropyLoss(), SGD)
        again = save_and_read(network, tmp_path)
        assert same_weights(network, again)
        assert repr(again.module) == repr(network.module)
        assert torch.equal(again.module.eval()(x), module.eval()(x))

    def test_a_class_without_arguments_is_made_if_it_is_known(self, tmp_path):
        network = Network(Plain(), nn.MSELoss(), SGD)
        again = save_and_read(network, tmp_path, known=[Plain])
        assert same_weights(network, again)
        assert again.module.two.weight is again.module.one.weight
        with pytest.raises(
            ModelError, match=r"uses .*Plain, which is not known here: import it and give known=\[Plain"
        ):
            Network.read(str(tmp_path))

    def test_a_class_can_be_known_to_every_network(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Network, "known", [Plain])
        assert isinstance(save_and_read(Network(Plain(), nn.MSELoss(), SGD), tmp_path).module, Plain)

    def test_arguments_are_those_of_the_architecture(self, tmp_path):
        network = Network(Net(5, p=0.5), nn.CrossEntropyLoss(), SGD)
        again = save_and_read(network, tmp_path, save={"architecture": functools.partial(Net, 5, p=0.5)}, known=[Net])
        assert same_weights(network, again)
        assert again.module.drop.p == 0.5

    @pytest.mark.parametrize(
        ("architecture", "text"),
        [
            (
                functools.partial(Net, 6, p=0.5),
                r"Linear\(in_features=4, out_features=6, .* instead of Linear\(in_features=4, out_features=5",
            ),
            (functools.partial(Net, 5, p=0.1), r"Dropout\(p=0.1, inplace=False\) instead of Dropout\(p=0.5"),
            (Plain, "instead of"),
            (lambda: Net(5, p=0.5), "<lambda> is no function or class of a module's top level"),
            (functools.partial(Net, object()), "object cannot be written down"),
            (SGD.func.__init__, "."),
        ],
    )
    def test_one_that_makes_something_else_is_refused(self, architecture, text, tmp_path):
        with pytest.raises((ModelError, TypeError), match=text):
            Network(Net(5, p=0.5), nn.MSELoss(), SGD).save(str(tmp_path / "new"), architecture=architecture)
        assert not (tmp_path / "new").exists()

    def test_a_module_that_nobody_could_make_again_keeps_its_weights_and_says_why(self, tmp_path):
        network = Network(Net(5), nn.MSELoss(), SGD)
        network.save(str(tmp_path))
        with pytest.raises(
            ModelError, match=r"without its module \(nobody can tell what Net was made with\): .*archit"
        ):
            Network.read(str(tmp_path), known=[Net])
        assert same_weights(network, Network(Net(5), nn.MSELoss(), SGD).load(str(tmp_path)))

    def test_a_module_changed_after_it_was_made_is_not_taken_for_the_one_that_would_be_made(self, tmp_path):
        module = Plain()
        module.two = nn.Linear(3, 3)  # no longer tied
        Network(module, nn.MSELoss(), SGD).save(str(tmp_path))
        with pytest.raises(ModelError, match=r"made again it would differ: what the weight 'two[.]weight' is tied to"):
            Network.read(str(tmp_path), known=[Plain])

    def test_one_layer_in_two_places_is_not_taken_for_two(self, tmp_path):
        layer = nn.Linear(3, 3)
        Network(nn.Sequential(layer, layer), nn.MSELoss(), SGD).save(str(tmp_path))
        with pytest.raises(ModelError, match="what the layer '1' is tied to"):
            Network.read(str(tmp_path))

    def test_frozen_weights_and_other_dtypes_come_back(self, tmp_path):
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).double()
        module[0].weight.requires_grad_(False)
        again = save_and_read(Network(module, nn.MSELoss(), SGD), tmp_path)
        assert same_weights(Network(module, nn.MSELoss(), SGD), again)
        assert [each.requires_grad for each in again.module.parameters()] == [False, True, True, True]

    def test_saving_draws_no_random_number(self, tmp_path):
        torch.manual_seed(1)
        Network(nn.Linear(3, 3), nn.MSELoss(), SGD).save(str(tmp_path))
        drawn = torch.rand(1)
        torch.manual_seed(1)
        nn.Linear(3, 3)
        assert torch.equal(drawn, torch.rand(1))


class TestParts:
    def test_all_of_them_come_back(self, tmp_path):
        network = Network(
            nn.Linear(4, 3), nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 1 / 3]), label_smoothing=0.1), SGD,
            lr_scheduler=functools.partial(steps, every=3), scheduler_interval="step", output=halved, l1=0.5, l2=1e-4,
        )  # fmt: skip
        again = save_and_read(network, tmp_path, known=[steps, halved])
        x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
        assert torch.equal(again.loss(again.module(x), y), network.loss(network.module(x), y))
        assert torch.equal(again.readable(again.module(x)), network.module(x) / 2)
        optimizer = again.optimizer(again.module.parameters())
        assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)
        assert again.lr_scheduler(optimizer).step_size == 3
        assert (again.scheduler_interval, again.l1, again.l2) == ("step", 0.5, 1e-4)

    def test_a_functional_loss_and_a_bare_optimizer_class(self, tmp_path):
        again = save_and_read(Network(nn.Linear(4, 3), nn.functional.mse_loss, torch.optim.AdamW), tmp_path)
        assert again.loss is nn.functional.mse_loss
        assert again.optimizer is torch.optim.AdamW

    def test_an_optimizer_that_cannot_be_written_down_is_missed_only_when_it_is_needed(self, tmp_path):
        again = save_and_read(Network(nn.Linear(4, 3), nn.MSELoss(), lambda p: torch.optim.SGD(p, 0.1)), tmp_path)
        with pytest.raises(ModelError, match=r"without its optimizer \(.*<lambda>.*set network.optimizer"):
            again.optimizer(again.module.parameters())

    def test_a_loss_that_cannot_be_written_down_is_missed_at_once(self, tmp_path):
        Network(nn.Linear(4, 3), lambda output, target: (output - target).mean(), SGD).save(str(tmp_path))
        with pytest.raises(ModelError, match="without its loss"):
            Network.read(str(tmp_path))

    def test_the_normaliser_comes_back_in_its_place(self, tmp_path):
        x = np.random.default_rng(0).normal(3, 2, (20, 4)).astype("float32")
        normalizer = NormalizerStandardize().fit(DataSet(x, np.zeros(20, "int64")))
        network = Network(nn.Linear(4, 3), nn.CrossEntropyLoss(), SGD, normalizer=normalizer)
        again = save_and_read(network, tmp_path)
        assert torch.equal(again.module(torch.from_numpy(x)), network.module(torch.from_numpy(x)))
        assert isinstance(again.normalizer, NormalizerStandardize)


class TestDamage:
    def test_a_flipped_bit_and_another_format_are_refused(self, tmp_path):
        Network(nn.Linear(4, 3), nn.MSELoss(), SGD).save(str(tmp_path))
        facts = json.loads((tmp_path / "network.json").read_text())
        (tmp_path / "network.json").write_text(json.dumps({**facts, "format": 9}))
        with pytest.raises(StorageError, match="format 9 is not 2"):
            Network.read(str(tmp_path))
        (tmp_path / "network.json").write_text(json.dumps(facts))
        data = bytearray((tmp_path / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(StorageError, match=r"model\.safetensors"):
            Network.read(str(tmp_path))

    def test_what_the_first_format_kept_is_still_loaded(self, tmp_path):
        network = Network(nn.Linear(4, 3), nn.MSELoss(), SGD)
        network.save(str(tmp_path))
        facts = json.loads((tmp_path / "network.json").read_text())
        old = {key: facts[key] for key in ("normalizer", "weights", "module", "loss", "tensors")}
        (tmp_path / "network.json").write_text(json.dumps({**old, "format": 1}))
        assert same_weights(network, Network(nn.Linear(4, 3), nn.MSELoss(), SGD).load(str(tmp_path)))
        with pytest.raises(ModelError, match="kept no recipes"):
            Network.read(str(tmp_path))

    @pytest.mark.parametrize(
        "recipe",
        [
            {"call": "os.system", "args": ["true"], "kwargs": {}},
            {"call": "torch.load", "args": ["x"], "kwargs": {}},
            {"call": "torch.nn.functional.handle_torch_function", "args": [], "kwargs": {}},
            {"call": "torch.nn.functional.warnings", "args": [], "kwargs": {}},
            {"call": "torch.optim.SGD", "args": [[]], "kwargs": {}},
            {"name": "torch.nn.modules.module.torch"},
            {"partial": "builtins.eval", "args": [], "kwargs": {}},
            {"call": "torch.nn.Linear"},
            {"dtype": "load"},
            {"what": 1},
            {},
        ],
    )
    def test_nothing_but_layers_and_what_is_known_is_called(self, recipe):
        with pytest.raises(ModelError):
            follow(recipe, [])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.sampled_from([torch.int8, nn.Linear]),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_plain_values_come_back_as_they_were_through_json(value):
    again = follow(json.loads(json.dumps(describe(value), allow_nan=False)), [])
    assert again == value
    assert type(again) is type(value)


@given(st.lists(st.floats(width=32), max_size=6), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@settings(max_examples=100, deadline=None)
def test_tensors_come_back_bit_for_bit(values, dtype):
    tensor = torch.tensor(values, dtype=dtype)
    again = follow(json.loads(json.dumps(describe(tensor), allow_nan=False)), [])
    assert again.dtype == dtype
    assert torch.equal(again.nan_to_num(7.0), tensor.nan_to_num(7.0))


@pytest.mark.parametrize("value", [object(), {1: 2}, Plain().forward, lambda: 0, torch.zeros(1 << 17), nn.LSTM(2, 3)])
def test_what_has_no_recipe_is_told(value):
    with pytest.raises(Indescribable):
        describe(value)
