"""A normaliser in a network: in front of the module wherever that is used, and kept with it."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from hvdspark import Network, NormalizerMinMaxScaler, NormalizerStandardize
from hvdspark.data import DataSet
from hvdspark.errors import ConfigurationError, ModelError, StorageError

SGD = functools.partial(torch.optim.SGD, lr=0.1)
STANDARD, RANGE = NormalizerStandardize(), NormalizerMinMaxScaler(-1.0, 2.0)


def regression(normalizer, outputs=1):
    torch.manual_seed(0)
    return Network(nn.Linear(3, outputs), nn.MSELoss(), SGD, normalizer=normalizer)


def make_data():
    random = np.random.default_rng(0)
    x = random.normal([0, 100, 5], [1, 30, 0.1], (400, 3)).astype(np.float32)
    return x, (1000 + 50 * x[:, 0] + 2 * x[:, 1]).astype(np.float32)


def test_module_sees_normalised_features():
    x, _ = make_data()
    fitted = STANDARD.fit(x)
    network = regression(fitted)
    plain = network.module.get_submodule("module")
    assert network.own_module is plain is not network.module
    assert regression(None).own_module is not None
    expected = plain(torch.from_numpy(fitted.transform(x)))
    assert torch.equal(network.module(torch.from_numpy(x)), expected)
    assert list(network.module.state_dict()) == ["module.weight", "module.bias"]


def test_labels_are_compared_normalised_and_come_back_in_their_units():
    x, y = make_data()
    fitted = NormalizerStandardize(fit_labels=True).fit(DataSet(x, y))
    network = regression(fitted)
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    output = network.module(features)
    normalised = torch.from_numpy(fitted.transform(DataSet(x, y)).labels).reshape(-1, 1)
    assert network.score(output, labels).item() == pytest.approx(nn.MSELoss()(output, normalised).item())
    assert torch.equal(network.target_for(output, labels.long()), network.target_for(output, labels.long().float()))
    optimizer = network.optimizer(network.module.parameters())
    for _ in range(100):
        optimizer.zero_grad()
        network.score(network.module(features), labels).backward()
        optimizer.step()
    predicted = network.readable(network.module(features))
    assert (predicted.reshape(-1) - labels).abs().max() < 1.0  # of 1200 on average


def test_saved_and_loaded_with_the_weights(tmp_path):
    x, y = make_data()
    network = regression(NormalizerMinMaxScaler(fit_labels=True).fit(DataSet(x, y)))
    network.save(str(tmp_path))
    other = regression(NormalizerMinMaxScaler(fit_labels=True))
    with pytest.raises(ModelError, match="not fitted"):
        other.check_portable()
    other.load(str(tmp_path))
    other.check_portable()
    assert other.normalizer == network.normalizer
    ours, theirs = (each.readable(each.module(torch.from_numpy(x))) for each in (network, other))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("theirs", [None, RANGE])
def test_another_or_no_normaliser_is_refused_on_loading(theirs, tmp_path):
    regression(STANDARD.fit(make_data()[0])).save(str(tmp_path))
    with pytest.raises(ModelError, match="the normalizer saved there is NormalizerStandardize, that of this"):
        regression(theirs).load(str(tmp_path))
    regression(None).save(str(tmp_path))
    with pytest.raises(ModelError, match="saved there is none, that of this network is NormalizerStandardize"):
        regression(STANDARD).load(str(tmp_path))


def test_a_changed_normaliser_is_refused_on_loading(tmp_path):
    network = regression(STANDARD.fit(make_data()[0]))
    network.save(str(tmp_path))
    STANDARD.fit(np.ones((2, 3))).save(tmp_path / "normalizer.safetensors")
    with pytest.raises(StorageError, match=r"normalizer\.safetensors has changed"):
        network.load(str(tmp_path))


def test_it_travels():
    import cloudpickle

    x, _ = make_data()
    network = regression(STANDARD.fit(x))
    again = cloudpickle.loads(cloudpickle.dumps(network))
    assert torch.equal(again.module(torch.from_numpy(x)), network.module(torch.from_numpy(x)))


@pytest.mark.parametrize(
    ("loss", "normalizer", "text"),
    [
        (nn.CrossEntropyLoss(), NormalizerStandardize(fit_labels=True), "fit_labels=True cannot act"),
        (nn.MSELoss(), nn.Identity(), "a Normalizer is needed, this is a Identity"),
        (nn.MSELoss(), NormalizerStandardize, "a Normalizer is needed, this is a ABCMeta"),
    ],
)
def test_what_cannot_act_is_refused(loss, normalizer, text):
    with pytest.raises(ConfigurationError, match=text):
        Network(nn.Linear(3, 1), loss, SGD, normalizer=normalizer)
