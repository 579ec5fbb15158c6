"""Two processes under torchrun with gloo, DDP and FSDP2, against one process on the joined batch.

Each process runs this file: 3 steps on its half of a batch, compared with 3 on all of it. The norms are GroupNorms:
BatchNorm's statistics are of one process's share, and SyncBatchNorm, which joins them, has no CPU kernel. In float64
the halves and the whole differ in rounding alone.
"""
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from helpers import INSERT
from timm.layers import GroupNorm
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from timm_se50 import SEBottleneck

# In float64, relative to a parameter's largest element: sums of two halves against sums of the whole, over 3 steps.
TOLERANCE = 1e-9


@pytest.mark.thorough
def test_two_processes_equal_one():
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', __file__]
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('all equal') == 2


def make_plain(device=None):
    torch.manual_seed(0)
    norm = partial(GroupNorm, num_groups=8)
    return timm.create_model(
        'resnet26', num_classes=5, channels=(16, 32, 64, 128), norm_layer=norm, zero_init_last=False,
        device=device).double()


def train(model, images, labels, share=slice(None)):
    """Three steps of SGD; returns the losses on the share."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for x, y in zip(images, labels):
        loss = torch.nn.functional.cross_entropy(model(x[share]), y[share])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def shard(model):
    for block in model.modules():
        if isinstance(block, SEBottleneck):
            fully_shard(block)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())  # the SE modules' are sharded too
    return model


def check_training():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 8, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (3, 8), generator=generator)
    single = INSERT['replace'](make_plain())  # the routes compute the same, see test_routes.py
    start = {k: v.clone() for k, v in single.state_dict().items()}
    expected = train(single, images, labels)
    for wrap, route in ((DistributedDataParallel, 'replace'), (shard, 'patch')):
        model = INSERT[route](make_plain())
        losses = train(wrap(model), images, labels, share=slice(dist.get_rank(), None, dist.get_world_size()))
        dist.all_reduce(losses)
        torch.testing.assert_close(losses / dist.get_world_size(), expected, rtol=TOLERANCE, atol=0)
        for key, one in single.state_dict().items():
            weight = model.state_dict()[key]
            weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
            assert (weight - one).abs().max() <= TOLERANCE * one.abs().max(), (route, key)
            assert not torch.equal(one, start[key]), key  # it was trained


@torch.no_grad()
def check_plain_weights_load():
    """A whole plain state dict into a model that was sharded before it had any weights: SE has them by itself."""
    plain, x = make_plain(), torch.ones(2, 3, 32, 32, dtype=torch.float64)
    model = shard(INSERT['patch'](make_plain('meta'))).to_empty(device='cpu')
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, plain.state_dict(), options=options)
    assert torch.equal(model(x), plain(x))


if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    check_training()
    check_plain_weights_load()
    print('all equal', flush=True)
    dist.destroy_process_group()
