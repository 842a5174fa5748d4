"""What tests compose in a short way is what `compose` gives; parts of the tests are all of them."""

from types import SimpleNamespace
from unittest.mock import Mock

import conftest
import pytest
from made import composed
from omegaconf import DictConfig, OmegaConf

from quartet.build import compose


def told(cfg: DictConfig) -> object:
    return OmegaConf.to_container(cfg), OmegaConf.is_struct(cfg), OmegaConf.is_struct(cfg.model)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "optimizer.lr=0.1 data=diabetes loss=huber seed=3",
        "loss=huber data=diabetes metrics=none",
        "data=csv data/task=multilabel data.target=[red,round] data.path=a.csv",
        "+model.hiden=[3] ++optimizer.new={a:{b:1}} ++optimizer.lr=2",
        "~model.hidden ~optimizer model._target_=a.B",
        "~optimizer.betas optimizer=muon",
        "callbacks=[ema,early_stopping] callbacks.early_stopping.patience=3",
        "logger=tensorboard trainer=smoke",
        "experiment=optimizers trainer.max_epochs=1",
        "+evil={_target_:os.system} +loss.a=${evil} model.hidden=${foo} seed=???",
        "callbacks.last=null model.weights='a=b'",
        "hydra.run.dir=x optimizer=sgd",
    ],
)
def test_composed_is_compose(line: str) -> None:
    words = line.split()
    expected = told(compose(words))
    for _ in range(2):  # the second from what was kept of the first
        assert told(composed(words)) == expected


@pytest.mark.parametrize("line", ["nothing=3", "optimizer=nope", "model.nope=1", "~nope", "a=[1"])
def test_what_cannot_be_composed_raises_the_same(line: str) -> None:
    with pytest.raises(Exception, match=r".") as short:
        composed([line])
    with pytest.raises(Exception, match=r".") as whole:
        compose([line])
    assert short.type is whole.type
    assert str(short.value) == str(whole.value)


def test_a_change_of_one_is_none_of_the_next() -> None:
    cfg = composed(["optimizer=sgd"])
    cfg.optimizer.lr, cfg.model.hidden = 7, []
    assert told(composed(["optimizer=sgd"])) == told(compose(["optimizer=sgd"]))


def test_each_test_is_in_one_of_three_parts() -> None:
    tests = [SimpleNamespace(nodeid=f"test_made.py::test[{number}]") for number in range(60)]
    kept: list[SimpleNamespace] = []
    for part in ("1/3", "2/3", "3/3"):
        config, items = Mock(), [*tests]
        config.getoption.return_value = part
        conftest.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
        assert 10 < len(items) < 30
        kept += items
    assert sorted(each.nodeid for each in kept) == sorted(each.nodeid for each in tests)
