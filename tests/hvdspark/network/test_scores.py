"""Weights and masks: each example's own loss, whatever the batch and the padding around it."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hvdspark import Network
from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.network import score_each

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def make(loss, module=None):
    return Network(module or nn.Linear(4, 3), loss, SGD)


def sequences(seed, batch, steps, width=3):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(batch, width, steps, generator=generator)
    labels = torch.randint(0, width, (batch, steps), generator=generator)
    mask = torch.rand(batch, steps, generator=generator) < 0.6
    return output, labels, mask


@given(seed=st.integers(0, 1000), batch=st.integers(2, 7), steps=st.integers(1, 5), cut=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_an_examples_loss_does_not_depend_on_its_batch(seed, batch, steps, cut):
    """What makes N ranks equal one rank with the whole batch: the mean of parts, weighted by examples, is the mean."""
    output, labels, mask = sequences(seed, batch, steps)
    weights = torch.rand(batch, generator=torch.Generator().manual_seed(seed))
    network, cut = make(nn.CrossEntropyLoss()), min(cut, batch - 1)

    def score(part):
        return network.score(output[part], labels[part], labels_mask=mask[part], weights=weights[part])

    first, rest = score(slice(0, cut)), score(slice(cut, None))
    assert torch.allclose((first * cut + rest * (batch - cut)) / batch, score(slice(None)), atol=1e-6)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy, nn.NLLLoss()])
def test_weights_multiply_each_examples_loss(loss):
    output, labels = torch.log_softmax(torch.randn(5, 3), 1), torch.tensor([0, 1, 2, 0, 1])
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])
    found = make(loss).score(output, labels, weights=weights)
    assert torch.allclose(found, (nn.functional.nll_loss(output, labels, reduction="none") * weights).sum() / 5)
    ones = make(loss).score(output, labels, weights=torch.ones(5))
    assert torch.allclose(ones, make(loss).score(output, labels))


def test_what_is_masked_does_not_count():
    output, labels, mask = sequences(1, 4, 6)
    mask[:, 0] = True
    mask[3] = False  # an example of padding alone has the loss 0
    network = make(nn.CrossEntropyLoss())
    found = network.score(output, labels, labels_mask=mask)
    plain = nn.CrossEntropyLoss(reduction="none")(output, labels)
    assert torch.allclose(found, sum(plain[i][mask[i]].mean() for i in range(3)) / 4)
    whole = network.score(output, labels, labels_mask=torch.ones_like(mask))
    assert torch.allclose(whole, network.score(output, labels))
    other = torch.where(mask[:, None], output, torch.randn_like(output))
    assert torch.equal(network.score(other, labels, labels_mask=mask), found)


def test_a_mask_of_the_first_axes_covers_the_rest():
    output, labels, mask = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.tensor([[1, 1, 0, 0]] * 3).bool()
    found = make(nn.MSELoss()).score(output, labels, labels_mask=mask)
    assert torch.allclose(found, (output - labels)[:, :2].square().mean())
    with pytest.raises(ModelError, match=r"mask of shape \[3, 2\] does not fit losses of shape \[3, 4, 2\]"):
        make(nn.MSELoss()).score(output, labels, labels_mask=mask[:, :2])


def test_a_loss_that_takes_the_mask_gets_it():
    def loss(output, target, labels_mask):
        return (output - target)[labels_mask].abs().sum()

    output, labels, mask = torch.randn(3, 2), torch.zeros(3, 2), torch.tensor([[True, False]] * 3)
    assert torch.equal(make(loss).score(output, labels, labels_mask=mask), output[:, 0].abs().sum())


def test_several_outputs_go_to_one_loss_of_all():
    def loss(outputs, targets):
        return sum(((o - t) ** 2).mean() for o, t in zip(outputs, targets, strict=True))

    outputs, labels = (torch.ones(4, 2), torch.zeros(4)), (torch.zeros(4, 2), torch.full((4,), 2.0))
    assert make(loss).score(outputs, labels) == 5.0
    with pytest.raises(ModelError, match="there are 2 labels, but the module returned 1 outputs"):
        make(loss).score(outputs[:1], labels)
    with pytest.raises(ModelError, match="returned a Tensor: return a tuple of all"):
        make(loss).score(outputs[0], labels)
    make(loss).check_roles(["feature", "label", "label"])
    with pytest.raises(ConfigurationError, match=r"MSELoss is the loss of one output, and there are 2: .*two tuples"):
        make(nn.MSELoss()).check_roles(["feature", "label", "label"])
    with pytest.raises(ConfigurationError, match="a loss that takes labels_mask, and loss does not"):
        make(loss).check_roles(["feature", "label", "label", "labels_mask"])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, image, text, features_mask=None):
        return image * self.w - text if features_mask is None else (image - text) * features_mask[1]


def test_inputs_come_in_order_or_by_name():
    network = make(nn.MSELoss(), Two())
    image, text = torch.full((2, 3), 5.0), torch.ones(2, 3)
    assert torch.equal(network.emit((image, text)), image - text)
    assert torch.equal(network.emit({"text": text, "image": image}), image - text)
    mask = torch.tensor([[1, 0, 1]] * 2)
    assert torch.equal(network.emit((image, text), (None, mask)), (image - text) * mask)


class Halving:
    """A normaliser, as a network sees one."""

    is_fitted, fits_labels = True, False

    def layer(self):
        layer = nn.Linear(1, 1, bias=False).requires_grad_(False)
        layer.weight.fill_(0.5)
        return layer

    def save(self, path):
        pytest.fail("no test of this file saves it")

    @classmethod
    def load(cls, path, *, expected_checksum=None):
        pytest.fail("no test of this file saves it")


class Masked(nn.Module):
    def forward(self, x, features_mask):
        return x * features_mask


def test_a_mask_passes_a_normaliser_by():
    network = Network(Masked(), sum, SGD, normalizer=Halving())
    network.check_roles(["feature", "features_mask", "label"])
    mask = torch.tensor([[True], [False]])
    assert network.emit(torch.full((2, 1), 4.0), mask).tolist() == [[2.0], [0.0]]
    with pytest.raises(ConfigurationError, match="normalizer knows one input and one output, and there are 2 of f"):
        network.check_roles(["feature", "feature", "label"])
    network.normalizer.fits_labels = True
    with pytest.raises(ConfigurationError, match="and there are 2 of label: normalise inside the module"):
        network.check_roles(["feature", "features_mask", "label", "label"])


class TestRefusals:
    def test_a_features_mask_that_no_module_takes(self):
        with pytest.raises(ConfigurationError, match=r"Linear\.forward takes no argument features_mask: add it"):
            make(nn.MSELoss()).check_roles(["feature", "features_mask"])
        make(nn.MSELoss(), Two()).check_roles(["feature", "features_mask"])

    @pytest.mark.parametrize(("role", "words"), [("weight", "a weight column"), ("labels_mask", "a labels mask")])
    def test_losses_without_one_number_an_example(self, role, words):
        with pytest.raises(ConfigurationError, match=f"{words} needs the loss of each example, and <lambda> gives"):
            make(lambda output, target: (output - target).mean()).check_roles([role])
        with pytest.raises(ConfigurationError, match="class weights of CrossEntropyLoss"):
            make(nn.CrossEntropyLoss(weight=torch.ones(3))).check_roles([role])
        for loss in (nn.MSELoss(), nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), nn.functional.mse_loss):
            make(loss).check_roles([role, "feature", "label"])

    def test_an_unreduced_loss_that_is_a_scalar_after_all(self):
        def loss(output, target, reduction="mean"):
            return (output - target).mean()

        with pytest.raises(ModelError, match=r"loss returned a scalar under reduction"):
            make(loss).score(torch.ones(2, 3), torch.ones(2, 3), weights=torch.ones(2))


def test_class_indices_of_sequences_fit():
    output, labels, _ = sequences(0, 4, 5)
    assert torch.equal(make(nn.CrossEntropyLoss()).target_for(output, labels.float()), labels)
    with pytest.raises(ModelError, match=r"labels of shape \[4, 4\] do not fit an output of shape \[4, 3, 5\]"):
        make(nn.CrossEntropyLoss()).target_for(output, labels[:, :4])


# ---- each example by itself ----------------------------------------------------------------------------------------


def batch_mean(output, target):
    return nn.functional.cross_entropy(output, target)


@given(seed=st.integers(0, 1000), batch=st.integers(1, 6), steps=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_scores_of_examples_are_those_of_batches_of_one(seed, batch, steps):
    output, labels, mask = sequences(seed, batch, steps)
    network = make(nn.CrossEntropyLoss())
    found = score_each(network.loss, output, labels, labels_mask=mask)
    alone = [network.score(output[i : i + 1], labels[i : i + 1], labels_mask=mask[i : i + 1]) for i in range(batch)]
    assert torch.allclose(found, torch.stack(alone), atol=1e-6)
    by_row = score_each(batch_mean, output, labels, weights=torch.arange(batch))
    assert torch.allclose(by_row, score_each(network.loss, output, labels) * torch.arange(batch), atol=1e-6)


def test_class_weights_multiply_scores_of_examples():
    weights = torch.tensor([1.0, 2.0, 0.5])
    output, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    found = score_each(nn.CrossEntropyLoss(weight=weights), output, labels)
    assert torch.allclose(found, nn.functional.cross_entropy(output, labels, reduction="none") * weights[labels])


def test_scores_of_several_outputs_row_by_row():
    def both(outputs, targets):
        return nn.functional.mse_loss(outputs[0], targets[0]) + nn.functional.l1_loss(outputs[1], targets[1])

    outputs, targets = (torch.randn(3, 2), torch.randn(3)), (torch.randn(3, 2), torch.randn(3))
    expected = (outputs[0] - targets[0]).square().mean(1) + (outputs[1] - targets[1]).abs()
    assert torch.allclose(score_each(both, outputs, targets), expected, atol=1e-6)


def test_scores_of_examples_that_are_refused():
    output, labels, mask = sequences(0, 3, 2)
    with pytest.raises(ConfigurationError, match="a labels mask needs the loss of each example"):
        score_each(batch_mean, output, labels, labels_mask=mask)

    def batch_of_losses(output, target):
        return (output - target).square()

    with pytest.raises(ModelError, match="the loss batch_of_losses must return a scalar"):
        score_each(batch_of_losses, torch.randn(3, 1), torch.randn(3, 1))
