"""Network: what its output means, which labels fit, and how it is kept."""

import functools
import json
import threading

import pytest
import torch
from torch import nn

from hvdspark import Network
from hvdspark.errors import ConfigurationError, ModelError, StorageError

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def make(loss=None, outputs=3, **options):
    return Network(nn.Linear(4, outputs), loss or nn.CrossEntropyLoss(), SGD, **options)


class TestOutput:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])

    @pytest.mark.parametrize(
        ("loss", "expected"),
        [
            (nn.CrossEntropyLoss(), torch.softmax(logits, 1)),
            (nn.NLLLoss(), logits.exp()),
            (nn.BCEWithLogitsLoss(), logits.sigmoid()),
            (nn.MSELoss(), logits),
        ],
    )
    def test_by_the_losss_rule(self, loss, expected):
        assert torch.equal(make(loss).readable(self.logits), expected)

    def test_by_the_users_own(self):
        assert torch.equal(make(output=torch.neg).readable(self.logits), -self.logits)


class TestTargets:
    output = torch.zeros(4, 3)

    def test_class_indices(self):
        target = make().target_for(self.output, torch.tensor([0, 2, 1, 0]))
        assert target.dtype == torch.int64

    def test_whole_number_floats_become_class_indices(self):
        target = make().target_for(self.output, torch.tensor([0.0, 2.0, 1.0, 0.0]))
        assert target.tolist() == [0, 2, 1, 0]
        assert target.dtype == torch.int64

    def test_probabilities_pass(self):
        labels = torch.full((4, 3), 1 / 3)
        assert make().target_for(self.output, labels) is labels

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (torch.tensor([0, 3, 1, 0]), "from 0 to 3, the module has 3 outputs"),
            (torch.tensor([0, -1, 1, 0]), "from -1 to 1"),
            (torch.tensor([0.5, 1.0, 1.0, 0.0]), "a label is 0.5"),
            (torch.zeros(4, 2), r"\[4, 2\] do not fit an output of shape \[4, 3\]"),
        ],
    )
    def test_what_is_no_class_index(self, labels, words):
        with pytest.raises(ModelError, match=words):
            make().target_for(self.output, labels)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
    def test_values_take_the_outputs_shape(self, dtype):
        target = make(nn.MSELoss(), outputs=1).target_for(torch.zeros(4, 1), torch.arange(4).to(dtype))
        assert target.shape == (4, 1)
        assert target.dtype == torch.float32

    def test_nothing_is_broadcast(self):
        with pytest.raises(ModelError, match=r"labels of shape \[4\] do not fit an output of shape \[4, 3\]"):
            make(nn.MSELoss()).target_for(self.output, torch.zeros(4))

    def test_a_loss_of_the_users_own_gets_indices_as_they_are(self):
        network = make(nn.functional.cross_entropy)
        assert network.target_for(self.output, torch.tensor([0, 1, 2, 0])).dtype == torch.int64


def test_penalty_is_of_trainable_weights():
    network = make(l1=0.5, l2=2.0)
    network.module.bias.requires_grad_(False)
    w = network.module.weight
    assert torch.allclose(network.penalty(), 0.5 * w.abs().sum() + w.square().sum())
    assert make().penalty() is None


@pytest.mark.parametrize("value", [torch.zeros(4), 3.0])
def test_a_loss_must_be_a_scalar_tensor(value):
    with pytest.raises(ModelError, match="must return a scalar"):
        make(lambda output, target: value).score(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))


class TestConstruction:
    def test_parts_of_the_wrong_kind(self):
        with pytest.raises(ConfigurationError, match=r"torch\.nn\.Module is needed"):
            Network(len, nn.MSELoss(), SGD)
        with pytest.raises(ConfigurationError, match=r"MSELoss is a class; give an instance"):
            Network(nn.Linear(1, 1), nn.MSELoss, SGD)
        module = nn.Linear(1, 1)
        with pytest.raises(ConfigurationError, match=r"functools\.partial\(torch\.optim\.SGD"):
            Network(module, nn.MSELoss(), SGD(module.parameters()))
        with pytest.raises(ConfigurationError, match=r"Network\.l2.*-1"):
            make(l2=-1)
        with pytest.raises(ConfigurationError, match="scheduler_interval"):
            make(scheduler_interval="batch")
        for loss in (nn.MSELoss(reduction="sum"), nn.CrossEntropyLoss(reduction="none")):
            with pytest.raises(ConfigurationError, match="reduction='mean'"):
                make(loss)

    def test_what_cannot_travel_is_named(self):
        network = make()
        network.check_portable()
        network.module.lock = threading.Lock()
        with pytest.raises(ModelError, match=r"Network\.module cannot travel"):
            network.check_portable()

    def test_what_could_not_come_back_is_named(self):
        class Extra(nn.Linear):
            def get_extra_state(self):
                return {"calls": 3}

            def set_extra_state(self, state):
                pass

        with pytest.raises(ModelError, match="'_extra_state' in its state_dict is no tensor"):
            Network(Extra(4, 3), nn.CrossEntropyLoss(), SGD).check_portable()
        with pytest.raises(ModelError, match="weight has no shape yet"):
            Network(nn.LazyLinear(3), nn.CrossEntropyLoss(), SGD).check_portable()


class TestFiles:
    def test_round_trip_without_pickle(self, tmp_path):
        network, other = make(), make()
        network.save(str(tmp_path / "m"))
        other.load(str(tmp_path / "m"))
        assert torch.equal(network.module.weight, other.module.weight)
        facts = json.loads((tmp_path / "m" / "network.json").read_text())
        assert facts["tensors"]["weight"] == {"shape": [3, 4], "dtype": "torch.float32"}

    def test_tied_weights(self, tmp_path):
        def tied():
            module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            module[1].weight = module[0].weight
            return Network(module, nn.MSELoss(), SGD)

        network, other = tied(), tied()
        network.save(str(tmp_path))
        other.load(str(tmp_path))
        assert torch.equal(network.module[0].weight, other.module[1].weight)

    def test_a_flipped_bit_is_refused(self, tmp_path):
        make().save(str(tmp_path))
        path = tmp_path / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(StorageError, match=r"model\.safetensors"):
            make().load(str(tmp_path))

    def test_another_architecture_is_refused(self, tmp_path):
        make().save(str(tmp_path))
        with pytest.raises(ModelError, match=r"weight has shape \[3, 4\], the module's is \[5, 4\]"):
            make(outputs=5).load(str(tmp_path))
        with pytest.raises(ModelError, match=r"missing \['0.weight'\], unknown \['bias', 'weight'\]"):
            Network(nn.Sequential(nn.Linear(4, 3, bias=False)), nn.MSELoss(), SGD).load(str(tmp_path))

    def test_no_directory(self, tmp_path):
        with pytest.raises(StorageError, match="nowhere"):
            make().load(str(tmp_path / "nowhere"))
