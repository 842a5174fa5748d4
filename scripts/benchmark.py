"""The speed figures, each a ratio to a baseline in the same process: python scripts/benchmark.py.

The two sides of a training's ratio take turns of 50 batches, so that other work on the machine slows
both. The table has the median and the range over the rounds. `--short` runs everything once on little
data, to see that it works.
"""

import argparse
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

import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
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
Row = tuple[str, str, list[float]]  # what was measured, the value to reach, one value a round


class Bench:
    """Random images the size of MNIST's, and the two ways to train on them.

    Args:
        count: Training images, to which validation adds a tenth.
        device: cpu or cuda.
        rounds: Measurements of each figure.
    """

    def __init__(self, count: int, device: str, rounds: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def images(size: int) -> TensorDataset:
            pixels = torch.randint(
                0, 256, (size, 1, 28, 28), dtype=torch.uint8, generator=generator
            )
            return TensorDataset(pixels, torch.randint(0, 10, (size,), generator=generator))

        self.parts = Parts(images(count), images(count // 10), None)
        nests = (
            Tensors({"inputs": {"image": part.tensors[0]}, "targets": part.tensors[1]})
            for part in (self.parts.train, self.parts.val)
        )
        self.nested = Parts(*nests, None)
        self.device, self.rounds = device, rounds

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
        self, optimizer: torch.optim.Optimizer, model: nn.Module, size: int
    ) -> Iterator[None]:
        """The loop that a person would write by hand, a batch at a time."""
        images, labels = (tensor.to(self.device) for tensor in self.parts.train.tensors)
        images = images.float() / 255
        for batch in torch.randperm(len(labels), device=self.device).split(size):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
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
            turns = Turns(self.plain_loop(optimizer(model.parameters()), model, size))
            seconds, _ = self.train(*overrides, callbacks=[turns])
            ratios.append(turns.seconds / (seconds - turns.seconds))
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
        self.loop, self.seconds = loop, 0.0

    def on_train_batch_start(
        self, trainer: Trainer, module: object, batch: object, number: int
    ) -> None:
        if number % 50 == 0:
            synchronize()
            start = time.perf_counter()
            for _ in islice(self.loop, 50):
                pass
            synchronize()
            self.seconds += time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def throughput(bench: Bench) -> Iterator[Row]:
    """Samples a second against the plain loop; the cost of validation, metrics and logging."""

    def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    adam = torch.optim.Adam
    yield "samples/s, MLP, SGD", ">= 0.90", bench.speed(sgd, *MLP, SGD)
    fused = bench.speed(adam, *MLP, "optimizer=adam", "optimizer.fused=true")
    yield "samples/s, MLP, Adam fused", ">= 1.1", fused
    yield "samples/s, MLP, Adam", ">= 0.88", bench.speed(adam, *MLP, "optimizer=adam")
    yield "samples/s, small cnn, SGD", ">= 0.95", bench.speed(sgd, *CNN, SGD)
    epochs = [bench.train(*MLP, SGD) for _ in range(bench.rounds)]
    yield "validation / training epoch", "<= 0.06", [val / train for train, val in epochs]
    pairs = [(bench.train(*MLP, SGD), bench.train(*MLP, SGD, *BARE)) for _ in epochs]
    yield "step with metrics and logging / without", "<= 1.03", [a[0] / b[0] for a, b in pairs]
    pairs = [
        (bench.train(*MLP, SGD, nested=True), bench.train(*MLP, SGD)) for _ in range(bench.rounds)
    ]
    yield "step with a nested batch / flat", "<= 1.02", [a[0] / b[0] for a, b in pairs]


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


def seconds(*arguments: str) -> float:
    """Seconds that Python takes with these arguments, from start to end."""
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


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
    for figures in (throughput, processes)[: 1 if cuda else 2]:
        for title, goal, values in figures(bench):
            median, low, high = statistics.median(values), min(values), max(values)
            print(f"| {title} | {goal} | {median:.3g} | {low:.3g} to {high:.3g} |", flush=True)


if __name__ == "__main__":
    main()
