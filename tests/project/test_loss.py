"""The losses against torch and against values by hand, and what they refuse."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from made import rejections
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from project.loss import (
    FocalLoss,
    ListNetLoss,
    NLLLoss,
    RankNetLoss,
    WeightedBCE,
    WeightedCrossEntropy,
)

CLASSES = 3


def example(task: str) -> list[Tensor]:
    """Outputs that require gradients, targets and, for ranking, indexes."""
    generator = torch.Generator().manual_seed(0)
    columns = {"binary": 1, "ranking": 1}.get(task, CLASSES)
    outputs = torch.randn(6, columns, generator=generator).requires_grad_()
    if task == "multiclass":
        return [outputs, torch.tensor([0, 1, 2, 1, 0, 1])]
    if task == "ranking":
        relevances = torch.tensor([[2.0], [0.0], [1.0], [0.0], [0.0], [1.0]])
        return [outputs, relevances, torch.tensor([4, 4, 4, 7, 7, 9])]
    values = torch.randn(6, columns, generator=generator)
    return [outputs, values if task == "regression" else (values > 0).float()]


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def probabilities(logits: Tensor) -> Tensor:
    return logits.double().softmax(1)


def test_nll_of_raw_outputs_is_cross_entropy() -> None:
    outputs, targets = example("multiclass")
    torch.testing.assert_close(NLLLoss()(outputs, targets), F.cross_entropy(outputs, targets))


def test_given_class_weights_agree_with_torch() -> None:
    outputs, targets = example("multiclass")
    loss = WeightedCrossEntropy(weight=[0.5, 1.0, 4.0], num_classes=3)
    loss.fit(targets)
    expected = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 4.0]))(outputs, targets)
    assert torch.equal(loss(outputs, targets), expected)
    loss = WeightedCrossEntropy(weight=[1.0, 2.0], num_classes=2)
    with pytest.raises(ValueError, match=r"2 columns, as many as num_classes, got \(6, 3\)"):
        loss(outputs, targets)


def test_balanced_class_weights_agree_with_scikit_learn() -> None:
    targets = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    loss = WeightedCrossEntropy(weight="balanced", num_classes=3)
    loss.fit(targets)
    expected = compute_class_weight("balanced", classes=torch.arange(3).numpy(), y=targets.numpy())
    torch.testing.assert_close(loss.weight, torch.tensor(expected).float())


def test_balanced_class_weights_come_back_from_a_checkpoint() -> None:
    outputs, targets = example("multiclass")
    fitted = WeightedCrossEntropy(weight="balanced", num_classes=3)
    fitted.fit(targets)
    model = nn.ModuleDict({"loss": WeightedCrossEntropy(weight="balanced", num_classes=3)})
    model = copy.deepcopy(model)
    model.load_state_dict({"loss.weight": fitted.state_dict()["weight"]})
    assert torch.equal(model["loss"](outputs, targets), fitted(outputs, targets))


def test_balanced_class_weights_must_be_fitted_before_use() -> None:
    loss = WeightedCrossEntropy(weight="balanced", num_classes=3)
    with pytest.raises(RuntimeError, match=r"not set; call fit\(train_targets\)"):
        loss(*example("multiclass"))
    loss.load_state_dict(WeightedCrossEntropy(weight="balanced", num_classes=3).state_dict())
    with pytest.raises(RuntimeError, match="not set"):
        loss(*example("multiclass"))


test_balanced_class_weights_refuse_unsuitable_targets = rejections(
    WeightedCrossEntropy(weight="balanced", num_classes=4).fit,
    (torch.tensor([0, 2, 2]), "no sample of class 1, 3, .* give weight as a list"),
    (torch.tensor([0, 1, 4]), r"in 0 to 3, got \(3,\) int64 up to 4; correct num_classes"),
    (torch.tensor([0.0, 1.0]), r"int64 class indices \(samples,\) in 0 to 3, got \(2,\) float32"),
    (torch.tensor([[0], [1]]), r"int64 class indices \(samples,\) in 0 to 3, got \(2, 1\) int64"),
)


test_class_weights_out_of_range_are_refused = rejections(
    lambda weight, count: WeightedCrossEntropy(weight=weight, num_classes=count),
    ("even", 3, "weight must have one number for each of the 3 classes, got 'even'; balanced"),
    ([1.0, 2.0], 3, r"one number for each of the 3 classes, got \[1.0, 2.0\]; balanced computes"),
    ([1.0, 0.0, 1.0], 3, r"weight must hold positive numbers, got \[1.0, 0.0, 1.0\]"),
    ("balanced", None, "num_classes must be at least 2, got None; .* for multiclass"),
)


def test_balanced_positives_weigh_as_much_as_negatives() -> None:
    # The first label is there once in four, the second never, the third always.
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    loss = WeightedBCE(pos_weight="balanced", num_outputs=3)
    loss.fit(targets)
    assert loss.pos_weight.tolist() == [3, 1, 1]
    by_hand = [3 * math.log(2), *[math.log(2)] * 11]  # at outputs of zero
    assert loss(torch.zeros(4, 3), targets).item() == pytest.approx(sum(by_hand) / 12)


def test_focal_at_gamma_zero_is_cross_entropy() -> None:
    loss = FocalLoss(gamma=0, alpha=None)
    outputs, targets = example("multiclass")
    torch.testing.assert_close(loss(outputs, targets), F.cross_entropy(outputs, targets))
    for task in ("binary", "multilabel"):
        outputs, targets = example(task)
        expected = F.binary_cross_entropy_with_logits(outputs, targets)
        torch.testing.assert_close(loss(outputs, targets), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_multiclass_focal_is_the_formula_of_the_paper(gamma: float) -> None:
    outputs, targets = example("multiclass")
    alpha = [0.5, 1.0, 4.0]
    p = probabilities(outputs)[torch.arange(6), targets]
    expected = (-torch.tensor(alpha)[targets] * (1 - p) ** gamma * p.log()).mean().float()
    torch.testing.assert_close(FocalLoss(gamma=gamma, alpha=alpha)(outputs, targets), expected)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_binary_focal_is_the_formula_of_the_paper(task: str) -> None:
    outputs, targets = example(task)
    p = outputs.double().sigmoid()
    positive = -0.25 * (1 - p) ** 2 * p.log()
    negative = -0.75 * p**2 * (1 - p).log()
    expected = torch.where(targets == 1, positive, negative).mean().float()
    torch.testing.assert_close(FocalLoss(gamma=2.0, alpha=0.25)(outputs, targets), expected)


def test_binary_focal_is_multiclass_focal_of_two_classes() -> None:
    outputs, targets = example("binary")
    loss = FocalLoss(gamma=1.5, alpha=None)
    two_classes = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    expected = loss(two_classes, targets.squeeze(1).long())
    torch.testing.assert_close(loss(outputs, targets), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [0.0, 30.0, 1e4, 1e30])
def test_focal_and_its_gradient_stay_finite_for_huge_outputs(gamma: float, size: float) -> None:
    loss = FocalLoss(gamma=gamma, alpha=None)
    multiclass = torch.tensor([[size, 0.0, -size], [-size, size, size]]).requires_grad_()
    multilabel = torch.tensor([[size, -size], [size, -size]]).requires_grad_()
    value = loss(multiclass, torch.tensor([0, 0])) + loss(multilabel, torch.eye(2))
    value.backward()
    assert value.isfinite()
    for outputs in (multiclass, multilabel):
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()


def test_focal_alpha_moves_with_the_loss_and_is_not_saved() -> None:
    loss = FocalLoss(gamma=2.0, alpha=[1.0, 2.0]).to("meta")
    assert loss.alpha is not None
    assert loss.alpha.is_meta
    assert loss.state_dict() == {}


test_focal_out_of_range_is_refused = rejections(
    lambda gamma, alpha: FocalLoss(gamma=gamma, alpha=alpha),
    (-1, None, "gamma must be at least 0, got -1; 0 gives cross-entropy"),
    (math.nan, None, "gamma must be at least 0, got nan"),
    (2, 0.0, "alpha must lie between 0 and 1, got 0.0; null weighs both alike"),
    (2, 1.0, "alpha must lie between 0 and 1, got 1.0"),
    (2, [1.0, -1.0], r"alpha must hold positive numbers, got \[1.0, -1.0\]"),
    (2, [], r"alpha must hold positive numbers, got \[\]"),
)


test_focal_alpha_of_another_task_is_refused = rejections(
    lambda task, alpha: FocalLoss(gamma=2.0, alpha=alpha)(*example(task)),
    ("multiclass", 0.25, "one weight for each of the 3 classes, got one number"),
    ("multiclass", [1.0, 2.0], "one weight for each of the 3 classes, got 2 numbers"),
    ("binary", [1.0, 2.0], "one number for binary and multilabel targets, got 2 class weights"),
)


def test_ranknet_and_listnet_by_hand() -> None:
    scores, relevances = column(1.0, 3.0, 0.5, 2.0, -1.0), column(2.0, 1.0, 1.0, 0.0, 1.0)
    # Query 4 orders documents 0 over 1 and 0 over 2; query 7 orders 4 over 3.
    differences = torch.tensor([1.0 - 3.0, 1.0 - 0.5, -1.0 - 2.0])
    expected = torch.log(1 + torch.exp(-0.5 * differences)).mean()
    queries = torch.tensor([4, 4, 4, 7, 7])
    value = RankNetLoss(sigma=0.5)(scores, relevances, queries)
    torch.testing.assert_close(value, expected)
    first, second = (
        -(relevances[rows].softmax(0) * scores[rows].log_softmax(0)).sum()
        for rows in (slice(0, 3), slice(3, 5))
    )
    value = ListNetLoss()(scores, relevances, queries)
    torch.testing.assert_close(value, (first + second) / 2)


ranking_losses = pytest.mark.parametrize("loss", [RankNetLoss(sigma=1.0), ListNetLoss()])


@ranking_losses
def test_ranking_losses_have_the_gradient_of_differences_in_any_order(loss: nn.Module) -> None:
    outputs, targets, indexes = example("ranking")
    rows = torch.tensor([5, 0, 3, 2, 4, 1])
    shuffled = loss(outputs[rows], targets[rows], indexes[rows])
    torch.testing.assert_close(shuffled, loss(outputs, targets, indexes))
    assert torch.autograd.gradcheck(
        lambda scores: loss(scores, targets.double(), indexes),
        outputs.detach().double().requires_grad_(),
    )


@ranking_losses
def test_ranking_losses_stay_finite_for_huge_scores(loss: nn.Module) -> None:
    outputs = column(1e30, -1e30, 1e30, 1e4, -1e4).requires_grad_()
    value = loss(outputs, column(0.0, 1.0, 2.0, 1.0, 0.0), torch.tensor([0, 0, 0, 1, 1]))
    value.backward()
    assert value.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_ranknet_without_pairs_is_zero_and_has_a_gradient() -> None:
    outputs = column(1.0, 2.0, 3.0).requires_grad_()
    value = RankNetLoss(sigma=1.0)(outputs, column(1.0, 1.0, 0.0), torch.tensor([0, 0, 1]))
    value.backward()
    assert value == 0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="sigma must be above 0, got 0; 1 is the plain"):
        RankNetLoss(sigma=0)  # which orders nothing


WEIGHTED, FOCAL = (
    WeightedCrossEntropy(weight=[1.0] * 3, num_classes=3),
    FocalLoss(gamma=2.0, alpha=None),
)


@pytest.mark.parametrize("loss", [NLLLoss(), WEIGHTED, FOCAL])
@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4, 1)),
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 1), torch.zeros(4)),
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
    ],
)
def test_unsuited_shapes_are_refused(loss: nn.Module, outputs: Tensor, targets: Tensor) -> None:
    words = r"takes outputs \(batch, classes\) with targets \(batch,\)"
    with pytest.raises(ValueError, match=words):
        loss(outputs, targets)


@ranking_losses
@pytest.mark.parametrize(
    ("outputs", "targets", "indexes"),
    [
        (torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 1), torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(1, dtype=torch.int64)),
        (torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4)),
        (torch.zeros(4, 1), torch.zeros(4, 1).long(), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_shapes_of_no_ranking_are_refused(
    loss: nn.Module, outputs: Tensor, targets: Tensor, indexes: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"int64 indexes \(batch,\), the query of each row, got"):
        loss(outputs, targets, indexes)
