"""JointLoss: the weighted sum of a loss for each output, in training, scoring, reading and files."""

import copy
import functools

import pytest
import torch
from torch import nn

from hvdspark import JointLoss, Network
from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.network import score_each

SGD = functools.partial(torch.optim.SGD, lr=0.1)
SCORES, VALUES, ANSWERS = torch.randn(5, 3), torch.randn(5, 1), torch.randn(5)
LABELS = torch.tensor([0, 2, 1, 1, 0]), torch.randn(5), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
OUTPUTS = SCORES, VALUES, ANSWERS
LOSSES = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()


class Heads(nn.Module):
    """Three outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(4, 6), nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 1), nn.Linear(6, 1)])

    def forward(self, x):
        first, second, third = (head(self.body(x).relu()) for head in self.heads)
        return first, second, third.reshape(-1)


def network(**options):
    return Network(Heads(), JointLoss(LOSSES, [1.0, 0.5, 2.0]), SGD, **options)


def by_hand(rows=slice(None)):
    first = nn.functional.cross_entropy(SCORES[rows], LABELS[0][rows])
    second = nn.functional.mse_loss(VALUES[rows].reshape(-1), LABELS[1][rows])
    return first + 0.5 * second + 2 * nn.functional.binary_cross_entropy_with_logits(ANSWERS[rows], LABELS[2][rows])


def test_it_is_the_weighted_sum():
    torch.testing.assert_close(network().score(OUTPUTS, LABELS), by_hand())
    torch.testing.assert_close(
        JointLoss([nn.MSELoss(), nn.functional.l1_loss])((VALUES, VALUES), (LABELS[1], LABELS[1])),
        nn.functional.mse_loss(VALUES[:, 0], LABELS[1]) + nn.functional.l1_loss(VALUES[:, 0], LABELS[1]),
    )


def test_the_loss_of_each_example_and_weights_of_examples():
    each = score_each(network().loss, OUTPUTS, LABELS)
    torch.testing.assert_close(each, torch.stack([by_hand([row]) for row in range(5)]))
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])
    torch.testing.assert_close(network().score(OUTPUTS, LABELS, weights=weights), (each * weights).mean())


def test_masks_act_on_their_output_alone():
    mask = torch.tensor([True, False, True, True, False])
    found = network().score(OUTPUTS, LABELS, labels_mask=(None, None, mask))
    answers = nn.functional.binary_cross_entropy_with_logits(ANSWERS, LABELS[2], reduction="none")
    first = by_hand() - 2 * answers.mean()
    torch.testing.assert_close(found, first + 2 * (answers * mask).mean())


def test_each_output_is_read_by_its_own_loss():
    first, second, third = network().readable(OUTPUTS)
    assert torch.equal(first, SCORES.softmax(1))
    assert torch.equal(second, VALUES)
    assert torch.equal(third, ANSWERS.sigmoid())
    assert network(output=lambda given: given[0]).readable(OUTPUTS) is SCORES


def test_weights_of_classes_go_where_the_loss_goes():
    loss = JointLoss([nn.CrossEntropyLoss(weight=torch.ones(3))])
    assert {each.dtype for each in loss.double().buffers()} == {torch.float64}
    assert loss.losses[0].weight.dtype == torch.float64
    twin = copy.deepcopy(loss)
    assert twin.losses[0].weight is next(twin.buffers())


def test_it_is_saved_with_its_network(tmp_path):
    loss = JointLoss([nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])), nn.HuberLoss(delta=2.0)], (1, 0.1))
    Network(Heads(), loss, SGD).save(str(tmp_path))
    again = Network.read(str(tmp_path), known=[Heads]).loss
    assert repr(again) == repr(loss)
    outputs, labels = OUTPUTS[:2], LABELS[:2]
    assert torch.equal(again(outputs, labels), loss(outputs, labels))


@pytest.mark.parametrize(
    ("losses", "weights", "text"),
    [
        ([], None, "a list with a loss for each output"),
        (nn.MSELoss(), None, "a list with a loss for each output"),
        ([nn.MSELoss], None, r"losses\[0\]: an instance"),
        ([nn.MSELoss(), 3], None, r"losses\[1\]: an instance"),
        ([nn.MSELoss(reduction="sum")], None, r"losses\[0\]: it must return the mean"),
        ([nn.MSELoss()], [1.0, 2.0], "weights: 1 are needed, one a loss, not 2"),
        ([nn.MSELoss()], [-1.0], r"weights\[0\]: a number from 0 on"),
        ([nn.MSELoss()], [float("nan")], r"weights\[0\]: a number from 0 on"),
    ],
)
def test_what_is_no_loss_is_refused(losses, weights, text):
    with pytest.raises(ConfigurationError, match=text):
        JointLoss(losses, weights)


def test_other_numbers_of_outputs_are_refused():
    with pytest.raises(ModelError, match="3 losses, but there are 2 outputs and 2 labels"):
        network().score(OUTPUTS[:2], LABELS[:2])
    with pytest.raises(ConfigurationError, match="JointLoss has 3 losses, and rows have 2 labels"):
        network().check_roles(["feature", "label", "label"])
    network().check_roles(["feature", "label", "label", "label", "weight", "labels_mask"])
    network().check_roles(["feature"])
    with pytest.raises(ConfigurationError, match=r"give JointLoss\("):
        Network(Heads(), nn.MSELoss(), SGD).check_roles(["feature", "label", "label"])


def test_one_loss_alone_is_given_as_it_is():
    with pytest.raises(ConfigurationError, match="JointLoss has one loss, and is for several outputs: give that loss"):
        Network(nn.Linear(4, 3), JointLoss([nn.CrossEntropyLoss()]), SGD)


@pytest.mark.parametrize(
    ("loss", "output", "words"),
    [
        (JointLoss(LOSSES), SCORES, "JointLoss has 3 losses, but the module returned a Tensor: let it return a tuple"),
        (JointLoss(LOSSES), {"a": SCORES}, "3 losses, but the module returned a dict"),
        (JointLoss(LOSSES), OUTPUTS[:2], "3 losses, but the module returned 2 outputs"),
        (nn.CrossEntropyLoss(), {"a": SCORES}, "returned a dict: let it return one tensor"),
        (nn.CrossEntropyLoss(), OUTPUTS, r"returned a tuple: .*Network\(output=...\)"),
        (nn.functional.l1_loss, {"a": SCORES}, "returned a dict"),
    ],
)
def test_what_a_loss_is_not_for_is_refused_by_name(loss, output, words):
    made = Network(Heads(), loss, SGD)
    with pytest.raises(ModelError, match=words):
        made.readable(output)
    assert Network(Heads(), loss, SGD, output=lambda given: given).readable(output) is output
