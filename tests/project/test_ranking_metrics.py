"""Mean reciprocal rank and mean average precision, by hand."""

from collections.abc import Callable

import pytest
import torch
from made import project_part
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.retrieval import RetrievalNormalizedDCG

pytestmark = pytest.mark.usefixtures("quiet")
MeanAveragePrecision = project_part("metrics.MeanAveragePrecision")
MeanReciprocalRank = project_part("metrics.MeanReciprocalRank")
# Two queries. By score the grades of the first read 1, 0, 2, 0 and those of the second 0, 1.
SCORES = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3, 0.6])
GRADES = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0, 0.0])
QUERIES = torch.tensor([0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("relevant_from", "rank", "precision"),
    [
        (1, (1 + 1 / 2) / 2, ((1 + 2 / 3) / 2 + 1 / 2) / 2),
        (2, (1 / 3 + 0) / 2, (1 / 3 + 0) / 2),
        (0.5, (1 + 1 / 2) / 2, ((1 + 2 / 3) / 2 + 1 / 2) / 2),
    ],
)
def test_relevance_begins_at_a_grade(relevant_from: float, rank: float, precision: float) -> None:
    mrr = MeanReciprocalRank(relevant_from=relevant_from)
    mean_precision = MeanAveragePrecision(relevant_from=relevant_from)
    for metric, expected in ((mrr, rank), (mean_precision, precision)):
        metric.update(SCORES, GRADES, indexes=QUERIES)
        assert metric.compute().item() == pytest.approx(expected)


@pytest.mark.parametrize("metric", [MeanReciprocalRank, MeanAveragePrecision])
@pytest.mark.parametrize("change", [lambda s: s - 10, lambda s: s * 1e-20, lambda s: s * 1e20])
def test_only_the_order_counts(metric: type[Metric], change: Callable[[Tensor], Tensor]) -> None:
    plain, changed = metric(relevant_from=1), metric(relevant_from=1)
    plain.update(SCORES, GRADES, indexes=QUERIES)
    changed.update(change(SCORES), GRADES, indexes=QUERIES)
    assert plain.compute() == changed.compute() > 0


def test_metrics_of_other_grades_do_not_mix_in_a_collection() -> None:
    metrics = MetricCollection(
        {
            "mrr": MeanReciprocalRank(relevant_from=1),
            "map": MeanAveragePrecision(relevant_from=2),
            "ndcg": RetrievalNormalizedDCG(),
        }
    )
    alone = {name: metric.clone() for name, metric in metrics.items()}
    # The first targets look the same to all three.
    for grades in (torch.tensor([0, 0, 0, 0, 0, 0]), GRADES.long(), 2 - GRADES.long()):
        metrics.update(SCORES, grades, indexes=QUERIES)
        for metric in alone.values():
            metric.update(SCORES, grades, indexes=QUERIES)
    assert metrics.compute() == {name: metric.compute() for name, metric in alone.items()}


@pytest.mark.parametrize("metric", [MeanReciprocalRank, MeanAveragePrecision])
def test_queries_without_a_relevant_document_count_as_zero(metric: type[Metric]) -> None:
    made = metric(relevant_from=1)
    made.update(torch.tensor([0.2, 0.1]), torch.zeros(2), indexes=torch.zeros(2).long())
    assert made.compute() == 0


@pytest.mark.parametrize("metric", [MeanReciprocalRank, MeanAveragePrecision])
def test_higher_values_of_ranking_metrics_are_better(metric: type[Metric]) -> None:
    assert metric(relevant_from=1).higher_is_better
