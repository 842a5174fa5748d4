"""Epochs that draw every class equally often."""

import torch
from made import composed, refusals

from quartet.build import build
from quartet.data.datamodule import balancing_weights
from quartet.data.loader import Batches

CLASSES = torch.tensor([0] * 90 + [1] * 9 + [2])


def batches(**more: object) -> Batches:
    weights = balancing_weights(CLASSES)
    given = {"seed": 0, "shuffle": True, "drop_last": False, "weights": weights, **more}
    return Batches(len(CLASSES), 10, **given)  # type: ignore[arg-type]


def test_classes_and_the_samples_of_each_come_equally_often() -> None:
    made = batches()
    counts = torch.zeros(100)
    for epoch in range(600):
        made.set_epoch(epoch)
        drawn = torch.cat(list(made))
        assert len(drawn) == 100
        counts += drawn.bincount(minlength=100)
    classes = torch.stack([part.sum() for part in counts.split([90, 9, 1])])
    assert classes.sum() == 60_000
    assert (classes - 20_000).abs().max() < 4 * (60_000 * 2 / 9) ** 0.5
    expected = 600 * 100 / 3 / 9
    assert (counts[90:99] - expected).abs().max() < 4 * expected**0.5


def test_order_is_a_function_of_seed_and_epoch_and_begins_where_it_ended() -> None:
    whole, again, other = list(batches()), list(batches()), list(batches(seed=1))
    assert all(map(torch.equal, whole, again))
    assert not torch.equal(torch.cat(whole), torch.cat(other))
    rest = list(batches(start=(0, 4)))
    assert all(map(torch.equal, whole[4:], rest))
    shares = [list(batches(rank=rank, world_size=2)) for rank in (0, 1)]
    both = [torch.stack(pair, 1).flatten() for pair in zip(*shares, strict=True)]
    assert torch.equal(torch.cat(both), torch.cat(whole))


def test_run_draws_rare_classes_as_often_as_others() -> None:
    for data in ("wine", "breast_cancer"):
        names = [f"data={data}", "data.balance=true", "data.keep={0: 0.2}", "data.batch_size=full"]
        run = build(composed(names))
        run.data.load()
        loader = run.data.train_dataloader()
        drawn = []
        for epoch in range(30):
            loader.batch_sampler.set_epoch(epoch)
            drawn += [targets.flatten().long() for _, targets in loader]
        shares = torch.cat(drawn).bincount() / len(torch.cat(drawn))
        torch.testing.assert_close(shares, torch.ones_like(shares) / len(shares), atol=0.03, rtol=0)


test_balance_that_cannot_be_is_refused = refusals(
    ("data.shuffle=false", r"^data.balance=true: draws .*; set data.shuffle=true\.$"),
    ("trainer.overfit_batches=1", r"; set trainer.overfit_batches=0\.$"),
    ("data=diabetes", r"^data.balance=true: draws classes .* the task is regression; leave it"),
    given=["data.balance=true"],
)
