"""The speed figures, each a ratio to a baseline in the same process: python scripts/benchmark.py.

The two sides of a training's ratio take turns of 50 batches, so that other work on the machine slows
both. The table has the median and the range over the rounds. `--device cuda` measures what a GPU changes.
`--short` runs everything once on little data, to see that it works.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from quartet.build import Run, build, compose
from quartet.compat import quieten
from quartet.data.split import Parts, Tensors
from quartet.training.callbacks.progress import Timer

ROOT = Path(__file__).parents[1]
MLP = ["model=mlp", "model.hidden=[512,512]", "data.batch_size=64"]
CNN = ["model=cnn", "data.batch_size=128"]
SGD = "optimizer=sgd"
BARE = ["metrics=none", "logger=none"]
RESNET = [
    *("data=cifar10", "model=torchvision", "data.batch_size=512", "trainer.max_epochs=3"),
    *("trainer.precision=bf16-mixed", "trainer.channels_last=true", "trainer.compile=true"),
]
Row = tuple[str, str, list[float]]  # what was measured, the value to reach, one value a round


class Bench:
    """Random images, and the two ways to train on them.

    Args:
        count: Training images, to which validation adds a tenth.
        device: cpu or cuda.
        rounds: Measurements of each figure.
        shape: Of an image; MNIST's by default.
    """

    def __init__(
        self, count: int, device: str, rounds: int, shape: tuple[int, int, int] = (1, 28, 28)
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def images(size: int) -> TensorDataset:
            pixels = torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator)
            return TensorDataset(pixels, torch.randint(0, 10, (size,), generator=generator))

        self.parts = Parts(images(count), images(count // 10), None)
        nests = (
            Tensors({"inputs": {"image": part.tensors[0]}, "targets": part.tensors[1]})
            for part in (self.parts.train, self.parts.val)
        )
        self.nested = Parts(*nests, None)
        self.device, self.rounds, self.count = device, rounds, count

    def build(self, overrides: Sequence[str], folder: str | None = None) -> Run:
        accelerator = f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}"
        common = ["data=fashion_mnist", accelerator, "trainer.max_epochs=1", "logger=tensorboard"]
        return build(compose([*common, *overrides]), folder)

    def train(
        self, *overrides: str, callbacks: Sequence[Callback] = (), nested: bool = False
    ) -> tuple[float, float]:
        """Seconds of a training epoch with everything on, and of its validation.

        With `nested` a batch is a dict, whose inputs are a dict, too.
        """
        with tempfile.TemporaryDirectory() as folder:
            run = self.build(overrides, folder)
            run.data.parts = self.nested if nested else self.parts
            if nested:
                run.module.model = Nested(run.module.model)
            timer = Timer()
            run.trainer.callbacks += [timer, *callbacks]
            run.trainer.fit(run.module, run.data)
        return statistics.median(timer.epochs), timer.validation

    def plain_loop(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, size: int, is_mixed: bool
    ) -> Iterator[None]:
        """The loop that a person would write by hand, a batch at a time, in 32 bits or in bfloat16."""
        images, labels = (tensor.to(self.device) for tensor in self.parts.train.tensors)
        images = images.float() / 255
        if is_mixed:
            images = images.to(memory_format=torch.channels_last)
        while True:
            for batch in torch.randperm(len(labels), device=self.device).split(size):
                optimizer.zero_grad()
                with torch.autocast(self.device, torch.bfloat16, enabled=is_mixed):
                    loss = F.cross_entropy(model(images[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                yield

    def speed(
        self, optimizer: Callable[..., torch.optim.Optimizer], *overrides: str
    ) -> list[float]:
        """Samples a second in each round, as a multiple of the plain loop's."""
        ratios = []
        for _ in range(self.rounds + 1):
            run = self.build(overrides)
            model, size = run.module.model.to(self.device), run.data.batch_size
            loop = self.plain_loop(
                optimizer(model.parameters()), model, size, "trainer.compile=true" in overrides
            )
            next(loop)  # which may compile the model
            turns, timer = Turns(loop), Timer()
            self.train(*overrides, callbacks=[turns, timer])
            # The last epoch: whatever is compiled is compiled in the first.
            ratios.append(turns.epochs[-1] / (timer.epochs[-1] - turns.epochs[-1]))
        return ratios[1:]  # the first warms up


class Nested(nn.Module):
    """A model whose inputs are a dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model(inputs["image"].float().div_(255))  # as the loader does for a tensor


class Turns(Callback):
    """Runs 50 batches of another loop before each 50 of the training, and measures its seconds."""

    def __init__(self, loop: Iterator[None]) -> None:
        self.loop, self.epochs = loop, list[float]()

    def on_train_epoch_start(self, trainer: Trainer, module: object) -> None:
        self.epochs.append(0.0)

    def on_train_batch_start(
        self, trainer: Trainer, module: object, batch: object, number: int
    ) -> None:
        if number % 50 == 0:
            synchronize()
            start = time.perf_counter()
            for _ in islice(self.loop, 50):
                pass
            synchronize()
            self.epochs[-1] += time.perf_counter() - start


class Ends(Callback):
    """Measures from the last batch of each epoch to the start of the next one, validation included."""

    def __init__(self) -> None:
        self.last, self.seconds = 0.0, list[float]()

    def on_train_batch_end(self, *_: object) -> None:
        self.last = time.perf_counter()

    def on_train_epoch_start(self, *_: object) -> None:
        if self.last:
            self.seconds.append(time.perf_counter() - self.last)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def throughput(bench: Bench) -> Iterator[Row]:
    """Samples a second against the plain loop; the cost of validation, metrics and logging."""
    sgd, adam = functools.partial(torch.optim.SGD, lr=0.1), torch.optim.Adam
    yield "samples/s, MLP, SGD", ">= 0.95", bench.speed(sgd, *MLP, SGD)
    fused = bench.speed(adam, *MLP, "optimizer=adam", "optimizer.fused=true")
    yield "samples/s, MLP, Adam fused", ">= 1.1", fused
    yield "samples/s, MLP, Adam", ">= 0.88", bench.speed(adam, *MLP, "optimizer=adam")
    yield "samples/s, small cnn, SGD", ">= 0.95", bench.speed(sgd, *CNN, SGD)
    epochs = [bench.train(*MLP, SGD) for _ in range(bench.rounds)]
    yield "validation / training epoch", "<= 0.06", [val / train for train, val in epochs]
    pairs = [(bench.train(*MLP, SGD), bench.train(*MLP, SGD, *BARE)) for _ in epochs]
    yield "step with metrics and logging / without", "<= 1.03", [a[0] / b[0] for a, b in pairs]
    pairs = [(bench.train(*MLP, SGD, nested=True), bench.train(*MLP, SGD)) for _ in epochs]
    yield "step with a nested batch / flat", "<= 1.02", [a[0] / b[0] for a, b in pairs]
    ends, thirty = [Ends() for _ in epochs], [*MLP, SGD, "trainer.max_epochs=30"]
    for each in ends:
        Bench(600, bench.device, 1).train(*thirty, callbacks=[each])
    times = [1000 * statistics.median(each.seconds) for each in ends]
    yield "end of an epoch of 600 samples, ms", "<= 8", times


def convolutions(bench: Bench) -> Iterator[Row]:
    """A ResNet-18 on small images in bfloat16, channels last and compiled, as on a GPU."""
    images = Bench(bench.count, bench.device, bench.rounds, (3, 32, 32))
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    yield "samples/s, ResNet-18, bf16, compiled", ">= 0.95", images.speed(sgd, *RESNET, SGD)


def processes(bench: Bench) -> Iterator[Row]:
    """Seconds until commands answer; a sweep of digits against the sum of its fits."""
    for words in (["--help"], ["--cfg", "job"]):
        times = [seconds("train.py", *words) for _ in range(bench.rounds)]
        yield f"train.py {' '.join(words)}, seconds", "<= 0.5", times
    ratios, jobs = [], 20 if bench.rounds > 1 else 2
    for _ in range(bench.rounds):
        with tempfile.TemporaryDirectory() as folder:
            start = seconds("-c", "import lightning, torchvision, torchmetrics")
            total = seconds("train.py", "-m", f"seed=range({jobs})", f"hydra.sweep.dir={folder}")
            results = [json.loads(path.read_text()) for path in Path(folder).glob("*/result.json")]
        assert len(results) == jobs
        ratios.append((total - start) / sum(each["seconds"]["fit"] for each in results))
    yield f"sweep of {jobs} jobs, less a start / their fits", "<= 1.2", ratios


def files(bench: Bench) -> Iterator[Row]:
    """Seconds from files to a data set that is ready: tables, against pandas reading csv, and pictures."""
    count = 200_000 if bench.rounds > 1 else 1_000
    values = np.random.default_rng(0).normal(size=(count, 100)).round(6)
    frame = pd.DataFrame(values).add_prefix("x")
    frame["y"] = (values[:, 0] > 0).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        frame.to_csv(path, index=False)
        frame.to_parquet(path.with_suffix(".parquet"))
        for kind, goal in (("csv", "<= 2"), ("parquet", "<= 0.2")):
            words = ["data=csv", f"data.path={path.with_suffix(f'.{kind}')}", "data.target=y"]
            ratios = [start_of(*words) / elapsed(pd.read_csv, path) for _ in range(bench.rounds)]
            yield f"{kind} of {count:,} x 100, ready to train / pandas.read_csv", goal, ratios
    with tempfile.TemporaryDirectory() as folder:
        pictures = [Path(folder, str(number), f"{number}.png") for number in range(10)]
        for path in pictures:
            path.parent.mkdir()
            Image.new("RGB", (8, 8)).save(path)
        for number in range(10, count // 2):
            pictures[number % 10].with_stem(str(number)).hardlink_to(pictures[number % 10])
        words = ["data=image_folder", f"data.path={folder}", "data.check_files=false"]
        times = [start_of(*words) for _ in range(bench.rounds)]
    yield f"{count // 2:,} pictures, seconds until ready to train", "<= 2", times


def start_of(*overrides: str) -> float:
    return elapsed(lambda: build(compose([*overrides, *BARE])))


def elapsed(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def seconds(*arguments: str) -> float:
    """Seconds that Python takes with these arguments, from start to end."""
    command = [sys.executable, *arguments]
    return elapsed(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=60_000, help="training images")
    parser.add_argument("--short", action="store_true", help="once, on little data")
    options = parser.parse_args()
    if not (ROOT / "conf/data/fashion_mnist.yaml").exists():
        print("Nothing is measured: it needs the example data and models, which this fork dropped.")
        return
    if options.short:
        options.rounds, options.count = 1, 640
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TQDM_DISABLE", "0")
    quieten()
    cuda = options.device == "cuda"
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {device}"
    print(f"{versions}, {options.rounds} rounds, {date.today()}\n")
    print("| figure | to reach | median | range |\n|---|---|---|---|")
    bench = Bench(options.count, options.device, options.rounds)
    for figures in (throughput, convolutions) if cuda else (throughput, processes, files):
        for title, goal, values in figures(bench):
            median, low, high = statistics.median(values), min(values), max(values)
            print(f"| {title} | {goal} | {median:.3g} | {low:.3g} to {high:.3g} |", flush=True)


if __name__ == "__main__":
    main()
