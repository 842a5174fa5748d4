"""The speed figures, each a ratio to a baseline in the same process.

    python scripts/benchmark.py [--only throughput sweep]
    python scripts/benchmark.py --device cuda

20 to 45 minutes on 2 cores; `--short` runs everything once on little data, to see that it works.
The two sides of a ratio alternate, loops every 50 batches, so that what else a machine does slows
both; printed are the ratio's median and its range over the rounds.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

ROOT = Path(__file__).parents[1]
MLP = ["model=mlp", "model.hidden=[512,512]", "data.batch_size=64"]
CNN = ["model=cnn", "data.batch_size=128"]
FIGURES = (
    "throughput",
    "memory",
    "starts",
    "sweep",
    "planning",
    "saves",
    "scaling",
    "report",
    "resnet",
)
BARE = ["metrics=none", "logger=none"]


def made_images(count: int, classes: int = 10, shape: Sequence[int] = (1, 28, 28)) -> TensorDataset:
    """Random images as bytes, ``(count, *shape)``, and classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return TensorDataset(images, torch.randint(0, classes, (count,), generator=generator))


class Bench:
    """Training data and the two ways to train on it.

    Args:
        data: fashion_mnist, read from `folder`, or made.
        count: Training images, to which validation adds a tenth.
        device: cpu or cuda.
    """

    def __init__(self, data: str, folder: str, count: int, device: str) -> None:
        from project.data.vision import fashion_mnist
        from quartet.data.split import Parts

        if data == "fashion_mnist":
            parts = fashion_mnist(dir=folder, val_fraction=0, split_seed=0)
            train = TensorDataset(*(tensor[:count] for tensor in parts.train.tensors))
            val = TensorDataset(*(tensor[: count // 10] for tensor in parts.test.tensors))
        else:
            train, val = made_images(count), made_images(count // 10)
        self.parts, self.count, self.device = Parts(train, val, None), count, device

    def quartet(
        self, *overrides: str, epochs: int = 1, callbacks: Sequence[Callback] = ()
    ) -> tuple[float, float]:
        """Seconds of a training epoch with everything on, and of its validation."""
        from quartet.build import build, compose
        from quartet.training.callbacks.progress import Timer

        accelerator = "gpu" if self.device == "cuda" else "cpu"
        common = ["data=fashion_mnist", "logger=tensorboard", f"trainer.accelerator={accelerator}"]
        with tempfile.TemporaryDirectory() as folder:
            run = build(compose([*common, f"trainer.max_epochs={epochs}", *overrides]), folder)
            run.data.parts = self.parts
            timer = Timer()
            run.trainer.callbacks += [timer, *callbacks]
            run.trainer.fit(run.module, run.data)
        return statistics.median(timer.epochs), timer.validation

    def against(self, loop: Callable[[], Iterator[None]], *overrides: str) -> float:
        """An epoch's time as a multiple of another loop's, which takes turns with it."""
        turns = Turns(loop())
        seconds, _ = self.quartet(*overrides, callbacks=[turns])
        return (seconds - turns.seconds) / turns.seconds

    def plain(
        self, optimizer: Callable[..., torch.optim.Optimizer], *overrides: str
    ) -> Iterator[None]:
        """The batches of an epoch of the loop a person would write by hand."""
        model = self.model(*overrides)
        images, labels = self.parts.train.tensors
        images, labels = (images.float() / 255).to(self.device), labels.to(self.device)
        size = 128 if "model=cnn" in overrides else 64
        steps = optimizer(model.parameters())

        def loop() -> Iterator[None]:
            for batch in torch.randperm(self.count, device=self.device).split(size):
                steps.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                steps.step()
                yield

        return loop()

    def tutorial(self) -> Iterator[None]:
        """The batches of an epoch as tutorials have it: ToTensor a sample, DataLoader, SGD."""
        from torchvision.transforms import ToTensor

        images = self.parts.train.tensors[0].squeeze(1).numpy()
        labels = self.parts.train.tensors[1].tolist()

        class Images(Dataset[tuple[Tensor, int]]):
            def __len__(self) -> int:
                return len(labels)

            def __getitem__(self, index: int) -> tuple[Tensor, int]:
                from PIL import Image  # as torchvision's MNIST does

                return ToTensor()(Image.fromarray(images[index])), labels[index]

        model = self.model(*MLP)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def loop() -> Iterator[None]:
            for x, y in DataLoader(Images(), batch_size=64, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x.to(self.device)), y.to(self.device)).backward()
                optimizer.step()
                yield

        return loop()

    def model(self, *overrides: str) -> nn.Module:
        from quartet.build import build, compose

        run = build(compose(["data=fashion_mnist", *overrides]))
        return run.module.model.to(self.device)


class Turns(Callback):
    """Has another loop do 50 batches before each 50 of the training, and measures its seconds."""

    def __init__(self, loop: Iterator[None]) -> None:
        self.loop, self.seconds = loop, 0.0

    def on_train_batch_start(
        self, trainer: Trainer, module: object, batch: Any, number: int
    ) -> None:
        if number % 50 == 0:
            settle()
            start = time.perf_counter()
            for _ in islice(self.loop, 50):
                pass
            settle()
            self.seconds += time.perf_counter() - start


def settle() -> None:
    """Waits until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def warmed(rounds: int, ratio: Callable[[], float]) -> list[float]:
    """A ratio of each round; one round before is not counted."""
    return [ratio() for _ in range(rounds + 1)][1:]


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters)


def throughput(bench: Bench, rounds: int) -> Iterator[tuple[str, str, list[float]]]:
    """Samples a second against the loop written by hand, and what the extras cost."""

    def speed(optimizer: Callable[..., torch.optim.Optimizer], *overrides: str) -> list[float]:
        model = [o for o in overrides if o.startswith(("model", "data"))]
        loop = partial(bench.plain, optimizer, *model)
        return warmed(rounds, lambda: 1 / bench.against(loop, *overrides))

    yield "samples/s, MLP, SGD", ">= 0.90", speed(sgd, *MLP, "optimizer=sgd")
    fused = [*MLP, "optimizer=adam", "optimizer.fused=true"]
    yield "samples/s, MLP, Adam fused", ">= 1.1", speed(adam, *fused)
    yield "samples/s, MLP, Adam", ">= 0.88", speed(adam, *MLP, "optimizer=adam")
    yield "samples/s, small cnn, SGD", ">= 0.95", speed(sgd, *CNN, "optimizer=sgd")
    validations = [bench.quartet(*MLP, "optimizer=sgd") for _ in range(rounds)]
    yield "validation / training epoch", "<= 0.06", [v / t for t, v in validations]
    faster = warmed(rounds, lambda: 1 / bench.against(bench.tutorial, *MLP, "optimizer=sgd"))
    yield "samples/s, MLP, SGD, to the tutorial's loop", ">= 2", faster

    def extras() -> float:
        bare = bench.quartet(*MLP, "optimizer=sgd", *BARE)[0]
        return bench.quartet(*MLP, "optimizer=sgd")[0] / bare

    yield "step with metrics and logging / without", "<= 1.03", warmed(rounds, extras)


def memory(bench: Bench) -> Iterator[tuple[str, str, list[float]]]:
    """Peak memory of a process that trains, against one with the plain loop."""

    def peak(kind: str) -> float:
        command = [sys.executable, __file__, "--memory", kind, "--count", str(bench.count)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    plain, ours = peak("plain"), peak("quartet")
    yield f"peak memory ({plain:,.0f} and {ours:,.0f} MB)", "<= 1.2 + 100 MB", [ours / plain]


def peak_megabytes() -> float:
    """Of this process alone; `getrusage` would tell that of the one that started it, if it is larger."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on a Mac


def seconds(*arguments: str) -> float:
    """What Python with these arguments takes, from start to end."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def starts(rounds: int) -> Iterator[tuple[str, str, list[Any]]]:
    """Seconds until commands answer, beyond the imports they cannot do without."""
    empty = "import hydra; hydra.main(version_base='1.3', config_path=None)(lambda cfg: None)()"
    commands = (
        *(["train.py", "--help"], ["train.py", "--cfg", "job"]),
        *(["-c", "import hydra"], ["-c", empty, "--cfg", "job"]),
    )
    times = [[seconds(*each) for each in commands] for _ in range(rounds)]
    shown, job, hydra, floor = map(list, zip(*times, strict=True))
    alone, least = statistics.median(hydra), statistics.median(floor)
    name = f"--help, --cfg job, seconds (import hydra {alone:.2f}, --cfg job of an empty program {least:.2f})"
    yield name, "<= 0.5", [shown, job]
    imports = "import torch, torchvision, torchmetrics, lightning, hydra"
    to_first_step = (
        "import os, runpy, quartet.run\n"
        "begin = quartet.run.begin_logging\n"
        "def begin_a_step(*args):\n"
        "    begin(*args)\n"
        "    from quartet.training.module import Module\n"  # which train.py has imported
        "    Module.training_step = lambda *_: os._exit(0)\n"
        "quartet.run.begin_logging = begin_a_step\n"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    with tempfile.TemporaryDirectory() as folder:
        extra = []
        for number in range(rounds):
            start = seconds("-c", to_first_step, f"hydra.run.dir={folder}/{number}")
            extra.append(start - seconds("-c", imports))
    yield "first step of the default run, after the imports, seconds", "<= 0.5", extra


def sweep(jobs: int, rounds: int) -> Iterator[tuple[str, str, list[float]]]:
    """Sweeps of digits jobs against the sum of their fit times."""
    import json

    ratios = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            one_start = seconds("-c", "import lightning, torchvision, torchmetrics")
            total = seconds("train.py", "-m", f"seed=range({jobs})", f"hydra.sweep.dir={folder}")
            results = [json.loads(path.read_text()) for path in Path(folder).glob("*/result.json")]
        assert len(results) == jobs
        ratios.append((total - one_start) / sum(each["seconds"]["fit"] for each in results))
    yield f"sweep of {jobs} jobs, less a start / their fits", "<= 1.2", ratios


def saves(rounds: int) -> Iterator[tuple[str, str, list[float]]]:
    """Milliseconds of a checkpoint of the default run, on disk under its last name."""
    from quartet.build import build, compose

    times = []
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:  # what /tmp is on may be memory
        quick = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "callbacks.progress_bar=null"]
        run = build(compose(quick), folder)
        run.trainer.fit(run.module, run.data)
        for _ in range(10 * rounds):
            start = time.perf_counter()
            run.trainer.save_checkpoint(Path(folder) / "again.ckpt")
            times.append((time.perf_counter() - start) * 1e3)
    yield "a durable checkpoint of the default run, milliseconds", "<= 20", times


def planning(rounds: int, count: int) -> Iterator[tuple[str, str, list[float]]]:
    """Seconds of starting a sweep again all jobs of which have finished."""
    import shutil

    from quartet.sweeps.jobs import Table

    with tempfile.TemporaryDirectory() as folder:
        small = ["data=linear", "model=linear", "metrics=none", "trainer.max_epochs=1"]
        command = [sys.executable, "train.py", "-m", *small, f"hydra.sweep.dir={folder}"]
        subprocess.run([*command, "seed=0"], cwd=ROOT, check=True, capture_output=True)
        table = Table(folder)
        trained = table.jobs[0]
        for number in range(1, count):
            job = table.add([*trained.overrides[:-1], f"seed={number}"], trained.conf)
            shutil.copytree(trained.directory, job.directory)
        table.write()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            again = [*command, f"seed=range({count})"]
            done = subprocess.run(again, cwd=ROOT, check=True, capture_output=True, text=True)
            times.append(time.perf_counter() - start)
            assert done.stdout.startswith(f"{count} of {count} jobs finished")
    yield f"planning and skipping {count:,} finished jobs, seconds", "< 5", times


def scaling(bench: Bench, short: bool) -> Iterator[tuple[str, str, list[list[float]]]]:
    """What a sample costs as data, classes and model grow: the figures of each size."""
    sizes = (600, 6_000) if short else (600, 6_000, 60_000, 600_000)
    costs = []
    for size in sizes:
        made = Bench("made", "", size, "cpu")
        epochs = max(1, bench.count // size)
        run = partial(made.quartet, *MLP, "optimizer=sgd", epochs=epochs)
        costs.append([run()[0] / size * 1e6 for _ in range(3)])
    yield f"us a sample, of {listed(sizes)} samples", "flat", costs

    def to_plain(*overrides: str) -> list[float]:
        loop = partial(bench.plain, sgd, *overrides)
        return warmed(3, lambda: bench.against(loop, *overrides, "optimizer=sgd"))

    widths = (64, 512, 2_048)
    ratios = [
        to_plain("model=mlp", f"model.hidden=[{width},{width}]", "data.batch_size=64")
        for width in widths
    ]
    yield f"time / plain loop, {listed(widths)} hidden units", "flat", ratios
    ratios, numbers, parts = [], (2, 10, 100, 1_000), bench.parts
    for classes in numbers:
        train, val = (made_images(size, classes) for size in (bench.count, bench.count // 10))
        bench.parts = parts._replace(train=train, val=val)
        ratios.append(to_plain(*MLP, f"data.num_classes={classes}"))
    bench.parts = parts
    yield f"time / plain loop, {listed(numbers)} classes", "flat", ratios


def listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values)


class NoWaiting(Callback):
    """Turns a wait for the GPU within the steps of an epoch, the first apart, into an error."""

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        if trainer.current_epoch > 0 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")

    def on_train_epoch_end(self, *args: object) -> None:
        self.on_exception()

    def on_validation_start(self, *args: object) -> None:
        self.on_exception()

    def on_exception(self, *args: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


def resnet(count: int, device: str, short: bool) -> Iterator[tuple[str, str, list[float]]]:
    """ResNet-18 on 32x32 images: bf16, channels last, compiled, flipped and cropped on the device.

    On a GPU Quartet's steps run with every wait for it being an error.
    """
    from quartet.build import build, compose
    from quartet.data import augment
    from quartet.data.split import Parts
    from quartet.training.callbacks.progress import Timer

    epochs = 2 if short else 6
    settings = [
        *("data=cifar10", "data.batch_size=256", "data.flip=true", "data.crop=4"),
        *("model=torchvision", "model.name=resnet18", "optimizer=momentum", "logger=tensorboard"),
        *("trainer.precision=bf16-mixed", "trainer.channels_last=true"),
        *(
            f"trainer.max_epochs={epochs}",
            f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}",
            f"trainer.compile={device == 'cuda'}",
        ),
    ]
    parts = Parts(*(made_images(size, 10, (3, 32, 32)) for size in (count, count // 10)), None)

    def ours() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            run = build(compose(settings), folder)
            run.data.parts = parts
            timer = Timer()
            run.trainer.callbacks += [timer, NoWaiting()]
            run.trainer.fit(run.module, run.data)
        return timer.epochs[1:]  # the first compiles

    def by_hand() -> list[float]:
        run = build(compose(settings))
        model, data = run.module.model.to(device), run.config["data"]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        images, labels = (tensor.to(device) for tensor in parts.train.tensors)
        mean, std = (
            torch.tensor(data[key], device=device).view(-1, 1, 1) for key in ("mean", "std")
        )
        times = []
        for epoch in range(epochs):
            start = time.perf_counter()
            for batch in torch.randperm(count, device=device).split(256):
                x = augment.images(images[batch], batch, epoch, mirror=True, shift=4, seed=0)
                optimizer.zero_grad()
                with torch.autocast(device, torch.bfloat16):
                    loss = F.cross_entropy(model((x.float() / 255 - mean) / std), labels[batch])
                loss.backward()
                optimizer.step()
            settle()
            times.append(time.perf_counter() - start)
        return times[1:]

    theirs = by_hand()
    ratios = [plain / quartet for plain, quartet in zip(theirs, ours(), strict=True)]
    yield (
        f"samples/s, ResNet-18 ({count / statistics.median(theirs):,.0f} by hand)",
        ">= 0.95",
        ratios,
    )


def report(jobs: int) -> Iterator[tuple[str, str, list[float]]]:
    """Seconds of the report over many runs of 50 epochs, three seeds each, the imports included."""
    import json

    metrics = [f"{part}/{name}" for part in ("val", "train") for name in ("loss", "accuracy", "f1")]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(jobs):
            run, best = Path(folder, str(number)), 1 + number // 3 % 97 / 97 + number % 3 / 100
            (run / ".hydra").mkdir(parents=True)
            given = [("optimizer", f"o{number % 5}"), ("optimizer.lr", 10 ** -(number // 15 % 5))]
            given += [("model.dropout", number // 75 / 100), ("seed", number // 5 % 3)]
            lines = "".join(f"- {key}={value}\n" for key, value in given)
            (run / ".hydra" / "overrides.yaml").write_text(lines)
            rows = [["epoch", "step", *metrics]]
            rows += [[epoch, epoch * 40, *[best + 1 / epoch] * 6] for epoch in range(1, 51)]
            (run / "metrics.csv").write_text(
                "".join(",".join(map(str, row)) + "\n" for row in rows)
            )
            result = {
                "status": "finished",
                "monitor": {"metric": "val/loss", "mode": "min", "best": best, "epoch": 50},
                "metrics": dict.fromkeys([*metrics, "test/loss", "test/accuracy"], best),
                "seconds": {"fit": 1.0, "total": 2.0},
                "error": None,
            }
            (run / "result.json").write_text(json.dumps(result))
        start = time.perf_counter()
        command = [sys.executable, "scripts/report.py", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - start
    yield f"report over {jobs:,} runs of 50 epochs, seconds", "<= 20", [seconds]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="made", choices=["made", "fashion_mnist"])
    parser.add_argument("--dir", default="data", help="where Fashion-MNIST lies")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=60_000, help="training images")
    parser.add_argument("--only", nargs="+", choices=FIGURES)
    parser.add_argument("--short", action="store_true", help="once, on little data")
    parser.add_argument("--memory", choices=["plain", "quartet"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    from quartet.compat.lightning import quieten

    quieten()
    if options.short:
        options.rounds, options.count = 1, 640
    if options.only is None:
        gpu = options.device == "cuda"
        options.only = ["throughput", "resnet"] if gpu else [x for x in FIGURES if x != "resnet"]
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: there is no GPU here; without it come the figures of the CPU.")
    bench = Bench(options.data, options.dir, options.count, options.device)
    if options.memory:
        list(bench.plain(sgd, *MLP)) if options.memory == "plain" else bench.quartet(*MLP)
        print(peak_megabytes())
        return
    os.environ.setdefault("TQDM_DISABLE", "0")
    cuda = options.device == "cuda"
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {device}, {options.rounds} rounds, {date.today()}\n"
    )
    print("| figure | to reach | median | range |\n|---|---|---|---|")
    groups = {
        "throughput": lambda: throughput(bench, options.rounds),
        "memory": lambda: memory(bench),
        "starts": lambda: starts(options.rounds),
        "sweep": lambda: sweep(2 if options.short else 20, options.rounds),
        "saves": lambda: saves(options.rounds),
        "planning": lambda: planning(options.rounds, 20 if options.short else 1_000),
        "scaling": lambda: scaling(bench, options.short),
        "resnet": lambda: resnet(options.count * 5 // 6, options.device, options.short),
        "report": lambda: report(50 if options.short else 1000),
    }
    for name, figures in groups.items():
        if name in options.only:
            for title, goal, values in figures():
                of_sizes = values if isinstance(values[0], list) else [values]
                medians = listed([statistics.median(each) for each in of_sizes])
                spread = ", ".join(f"{min(each):.3g} to {max(each):.3g}" for each in of_sizes)
                print(f"| {title} | {goal} | {medians} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
