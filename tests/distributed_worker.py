"""What each process of test_distributed.py runs: 3 steps on its half of a batch, compared with 3 on all of it.

The norms are GroupNorms. BatchNorm's statistics are of one process's share, and SyncBatchNorm, which joins them, has no
CPU kernel; a GroupNorm computes each image by itself, so that the halves and the whole differ in rounding alone. The
processes compute in float64, where rounding is far below the tolerance.
"""
from functools import partial

import timm
import torch
import torch.distributed as dist
from timm.layers import GroupNorm
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import timm_se50

# In float64, relative to a parameter's largest element: sums of two halves against sums of the whole, over 3 steps.
TOLERANCE = 1e-9


def make_plain(device=None):
    torch.manual_seed(0)
    norm = partial(GroupNorm, num_groups=8)
    return timm.create_model(
        'resnet26', num_classes=5, channels=(16, 32, 64, 128), norm_layer=norm, zero_init_last=False,
        device=device).double()


def make_model(route, device=None):
    insert = timm_se50.replace_blocks_ if route == 'replace' else timm_se50.patch_blocks_
    return insert(make_plain(device))


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


def main():
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 8, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (3, 8), generator=generator)
    single = make_model('replace')  # the routes compute the same, see test_routes.py
    start = {k: v.clone() for k, v in single.state_dict().items()}
    expected = train(single, images, labels)

    for engine, route in (('ddp', 'replace'), ('fsdp2', 'patch')):
        model = make_model(route)
        parallel = wrap(model, engine)
        losses = train(parallel, images, labels, share=slice(dist.get_rank(), None, dist.get_world_size()))
        dist.all_reduce(losses)
        torch.testing.assert_close(losses / dist.get_world_size(), expected, rtol=TOLERANCE, atol=0)
        for key, one in single.state_dict().items():
            weight = model.state_dict()[key]
            weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
            assert (weight - one).abs().max() <= TOLERANCE * one.abs().max(), (engine, route, key)
            assert not torch.equal(one, start[key]), key  # it was trained
        if engine == 'fsdp2':
            check_plain_weights_load(route, images[0])
        print(f'{engine}, {route}: equal', flush=True)
    dist.destroy_process_group()


@torch.no_grad()
def check_plain_weights_load(route, x):
    """A whole plain state dict into a model that was sharded before it had any weights: SE has them by itself."""
    plain = make_plain()
    model = wrap(make_model(route, device='meta'), 'fsdp2').to_empty(device='cpu')
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, plain.state_dict(), options=options)
    assert torch.equal(model(x), plain(x))


def wrap(model, engine):
    if engine == 'ddp':
        return DistributedDataParallel(model)
    for block in model.modules():
        if isinstance(block, timm_se50.SEBottleneck):
            fully_shard(block)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())  # the SE modules' are sharded too
    return model


if __name__ == '__main__':
    main()
