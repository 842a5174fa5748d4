"""A name on the command line that nothing has: what it might mean, with exit status 2."""

import re
import shlex

import pytest
from processes import Cli

from quartet.build import compose
from quartet.config.compose import check_words
from quartet.core.problems import ConfigError

SLIPS = [
    ("optimizer=adma", r"^optimizer=adma: there is no such option; did you mean adamax\?$"),
    ("optimzer=adam", r"^optimzer=adam: there is no such key; did you mean optimizer\?$"),
    ("trainer.max_epoch=3", r"did you mean trainer\.max_epochs\?$"),
    ("scheduler=cosine scheduler.tmax=3", r"no such key; did you mean scheduler\.T_max\?$"),
    ("optimizer.momentm=1", r"there are .*\blr, betas, .* \+optimizer\.momentm=1 gives the class"),
    ("foo=1", r"^foo=1: there is no such key; there are directory, seed, .* 6 more\.$"),
    ("~optimizer.foo", r"^~optimizer\.foo: there is no such key; there are .* search\.$"),
    ("callbacks=[ema,swap]", r"^callbacks=swap: there is no such option; did you mean swa\?$"),
    ("data/task=regresion", r"^data/task=regresion: .*did you mean regression\?$"),
    ("experiment=foo", r"^experiment=foo: there is no such option; there are batch_sizes, .*\.$"),
    ("optimizer@my_optimizer=sgd", r"no such group; \+optimizer@my_optimizer=sgd adds one\.$"),
    ("seed=0 data=digit", r"^data=digit: there is no such option; did you mean digits\?$"),
    ("hydra.rund=1", r"^Could not override 'hydra\.rund'\. "),
    (
        "modl=mlp data=wein optimizer.l=1",
        r"^data=wein: .*wine\?\nmodl=mlp: .*model\?\noptimizer\.l=1: ",
    ),
    ("lr=0.1", r"^lr=0\.1: there is no such key; did you mean optimizer\.lr=0\.1\?$"),
    ("trainer.batch_size=16", r"no such key; did you mean data\.batch_size=16\?$"),
    ("optimzer.lr=1", r"did you mean optimizer\.lr=1\?$"),
    ("data.path=a.csv", r"^data\.path=a\.csv: is a setting of data=csv, .*; add one of them\.$"),
    ("scheduler.T_max=3", r"is a setting of scheduler=cosine; add scheduler=cosine\.$"),
    ("data=a.csv", r"^data=a\.csv: is a file; type data=csv data\.path=a\.csv data\.target=COLUMN"),
    ("data.drop=Customer ID", r"^ID: is no KEY=VALUE; .* all, 'data\.drop=Customer ID'\.$"),
    (
        "optimizer.lr_factors={layers.0.*: 0.1} seed=1",
        r"^0\.1}: is no KEY=VALUE; .* all, 'optimizer\.lr_factors=\{layers\.0\.\*: 0\.1\}'\.$",
    ),
    ("optimizer sgd", r"^optimizer sgd: is no KEY=VALUE; did you mean optimizer=sgd\?$"),
    ("--help optimizer", r"^optimizer: .*; optimizer=NAME chooses one of adadelta, .* sgd\.$"),
    ("--optimizer sgd", r"^--optimizer sgd: is no flag; did you mean optimizer=sgd\?$"),
    ("--lr=0.1", r"^--lr=0\.1: is no flag; did you mean optimizer\.lr=0\.1\?$"),
    ("model.hidden=64,32", r"python train.py -m; a list has brackets: model\.hidden=\[64,32\]\.$"),
    ("optimizer.lr=0,01", r"python train.py -m; a number has a point: optimizer\.lr=0\.01\.$"),
]


@pytest.mark.parametrize(("overrides", "message"), SLIPS)
def test_names_what_was_meant(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        compose(shlex.split(overrides))
    assert re.search(message, "\n".join(map(str, refusal.value.problems)), re.DOTALL)


def test_ways_out_work_when_typed() -> None:
    words = ["data=csv", "data.drop=Customer ID", "optimizer.lr_factors={layers.0.*: 0.1}"]
    found = compose([*words, "model.hidden=[64,32]"])
    assert found.data.drop == "Customer ID"
    assert found.optimizer.lr_factors == {"layers.0.*": 0.1}
    assert found.model.hidden == [64, 32]
    check_words(["-m", "--cfg", "job", "-cn", "train", "--config-dir", "/tmp", "~optimizer"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimzer=adam", "optimzer=adam: there is no such key; did you mean optimizer?"),
        ("optimizer=null", "optimizer=null: there is no such option; there are adadelta, "),
        ("model.hidden.x=1", "model.hidden: is [128], which has no keys; set it as a whole."),
        ("-m optimizer=sgd,adma seed=0", "optimizer=adma: there is no such option; did you mean"),
        ("--optimizer sgd", "--optimizer sgd: is no flag; did you mean optimizer=sgd?"),
        ("-m optimizer.lr=1,2 dat=wine", "dat=wine: there is no such key; did you mean data?"),
    ],
)
def test_command_ends_with_2_and_leaves_nothing(line: str, message: str, train_py: Cli) -> None:
    assert train_py(*line.split(), "check=only") == 2
    said = train_py.printed
    assert re.search(r"Refused(, before the first batch)?:\n  " + re.escape(message), said)
    assert "HYDRA_FULL_ERROR" not in said
    assert "search path" not in said
    assert "Traceback" not in said
