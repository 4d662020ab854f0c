"""Two processes train one network."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from maskrcnn.data.folder import read_split
from maskrcnn.data.loader import AugmentedDataset, training_batches
from maskrcnn.data.prepare import resize
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.data.transforms import compose
from maskrcnn.lock import claimed
from maskrcnn.training.checkpoint import load
from maskrcnn.training.distributed import ALONE, Processes, joined


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic_dataset(tmp_path_factory.mktemp("drawn"), train=6, val=2, size=64)


def test_shares_make_the_whole(data):
    dataset = AugmentedDataset(read_split(data, "train"), resize(64, 64), compose())
    batches = partial(training_batches, dataset, batch_size=4, stride=32, workers=0, seed=3)
    whole, _ = next(batches())
    parts = [next(batches(share=Processes(rank, 2).share(4)))[0] for rank in range(2)]
    assert torch.equal(parts[0].images, whole.images[::2])
    assert torch.equal(parts[1].images, whole.images[1::2])
    with pytest.raises(ValueError, match="multiple of the 3 processes, not 4"):
        Processes(0, 3).share(4)


def test_alone_nothing_is_exchanged(tmp_path):
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    ALONE.average(layer.parameters())
    assert torch.equal(layer.weight.grad, before)
    assert ALONE.agree(3.0, 15, torch.device("cpu")) == (3.0, 15)
    with joined("cpu", tmp_path) as (processes, place, output):
        assert (processes, place.type, output) == (ALONE, "cpu", tmp_path)


AVERAGES = """
import json, sys, torch
from pathlib import Path
from torch import nn
from maskrcnn.training.distributed import joined
with joined("cpu", Path(sys.argv[1])) as (processes, place, output):
    rank = processes.rank
    first, second = nn.Linear(3, 2, bias=False), nn.Linear(1, 1)
    first.weight.grad = torch.full((2, 3), float(rank + 1))
    if rank:
        second.weight.grad = torch.tensor([[4.0]])
    processes.average([*first.parameters(), *second.parameters()])
    agreed = processes.agree(10.0 + rank, 15 * rank, place)
    gradients = [p.grad.unique().tolist() for p in (first.weight, second.weight, second.bias)]
    values = [gradients, agreed, str(output) == sys.argv[1]]
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(values))
    print(f"from {rank}")
"""


def torchrun(*words: str, is_well: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--no-python", sys.executable, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (ran.returncode == 0) == is_well, ran.stderr
    return ran


@pytest.mark.slow
def test_gradients_are_averaged_the_clock_is_one_and_the_first_process_prints(tmp_path):
    ran = torchrun("-c", AVERAGES, str(tmp_path))
    assert ran.stdout.split() == ["from", "0"]
    for rank in range(2):
        gradients, agreed, writes_there = json.loads((tmp_path / f"{rank}.json").read_text())
        assert gradients == [[1.5], [2.0], [0.0]] and agreed == [11.0, 15]
        assert writes_there == (rank == 0)


@pytest.mark.slow
def test_torchrun_trains_and_the_first_process_writes(data, tmp_path):
    recipe = ["pyramid.channels=16", "boxes.hidden=16", "body.frozen=", "boxes.samples_per_image=16"]
    settings = ["steps=3", "batch_size=2", "short_sides=64", "long_side=64", "workers=0", "log_every=1"]
    run_cli = "import sys; from maskrcnn.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", str(data), "--recipe", "resnet18_fpn", "--output", str(tmp_path), "--device", "cpu"]
    ran = torchrun("-c", run_cli, *words, "--set", *settings, *recipe)
    assert "; 2 processes" in ran.stdout and ran.stdout.count("step 3") == 1
    assert load(tmp_path / "best.pt").step == 3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]


FAILS = """
import os, sys, time
from maskrcnn.cli import main
from maskrcnn.training import loop
train_step = loop.train_step
def step(state, *rest):
    if state.step == 2 and os.environ["RANK"] == sys.argv[1]:
        raise ValueError("a picture of this process is broken")
    return train_step(state, *rest)
loop.train_step = step
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_in_one_process_ends_all_and_the_last_step_is_saved(data, tmp_path, rank):
    recipe = ["pyramid.channels=16", "boxes.hidden=16", "body.frozen=", "boxes.samples_per_image=16"]
    settings = ["steps=4", "batch_size=2", "short_sides=64", "long_side=64", "workers=0", "log_every=1"]
    words = ["train", str(data), "--recipe", "resnet18_fpn", "--output", str(tmp_path), "--device", "cpu"]
    words += ["--set", *settings, *recipe]
    ran = torchrun("-c", FAILS, rank, *words, is_well=False)
    assert "a picture of this process is broken" in ran.stderr
    assert load(tmp_path / "last.pt").step == 2
    ran = torchrun("-c", FAILS, "none", *words, "--resume")
    assert "resumes after step 2" in ran.stdout and load(tmp_path / "last.pt").step == 4


@pytest.mark.slow
def test_a_folder_in_use_ends_all_processes(data, tmp_path):
    with claimed(tmp_path / "run"):
        words = ["train", str(data), "--output", str(tmp_path / "run"), "--device", "cpu"]
        ran = torchrun("-c", FAILS, "none", *words, "--set", "steps=1", is_well=False)
    assert f"in use by another process (process {os.getpid()} on" in ran.stderr
