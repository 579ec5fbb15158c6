"""Functions that the tests share."""
import itertools
import subprocess
import sys
from pathlib import Path

import torch

import timm_se50

INSERT = {'replace': timm_se50.replace_blocks_, 'patch': timm_se50.patch_blocks_}  # the public function of each route
ROUTES = tuple(INSERT)
NARROW = dict(channels=(32, 32, 64, 128))  # all the keys of timm's resnet50 and a twelfth of its numbers


def by_turns(*axes) -> list[tuple]:
    """Every combination of what is in the axes, with one route each, in turn.

    For what a route has no part in, since both are one network bit for bit (test_routes.py, test_positions.py). Of two
    axes or more each value meets both routes.
    """
    return [(*(value for _, value in combination), ROUTES[sum(i for i, _ in combination) % 2])
            for combination in itertools.product(*map(enumerate, axes))]


def settle_(model: torch.nn.Module) -> torch.nn.Module:
    """Give a new model what a trained one has: norms that are no identity, and running statistics of real batches.

    timm initialises the last norm of each block to zero; left so, an error in the residual branch would not show.
    """
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)):
            torch.nn.init.uniform_(module.weight, 0.3, 1.0, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, model.in_chans, 64, 64, generator=generator))
    return model.eval()


def shake_(model: torch.nn.Module) -> torch.nn.Module:
    """Give each SE module weights of its own, so that no gate is neutral and no two are alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in timm_se50.se_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """Keys whose tensors are not bit for bit those of an earlier state dict (or are not in both)."""
    now = model.state_dict()
    return sorted(now.keys() ^ before.keys()) + [k for k in now if k in before and not torch.equal(now[k], before[k])]


def cached_repo(cache: Path, name: str) -> Path:
    """Make an empty repo in a cache, as huggingface_hub reads it offline, and return the folder of its one commit."""
    folder, commit = cache / ('models--' + name.replace('/', '--')), '0' * 40
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text(commit)
    (folder / 'snapshots' / commit).mkdir(parents=True)
    return folder / 'snapshots' / commit


def pip(command: str, *args) -> None:
    """Run pip on what is given and on none of its dependencies."""
    subprocess.run([sys.executable, '-m', 'pip', command, '-q', '--no-deps', *map(str, args)], check=True)


def in_forks(first: str, cases: dict[str, str]) -> str:
    """Code that runs `first` and then each case in a fork, since an import of torch and timm takes seconds."""
    return f'''
import os, traceback, warnings
{first}
failed = []
for name, code in {cases!r}.items():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # that torch has threads, from Python 3.12 on
        pid = os.fork()
    if pid:
        failed += [name] if os.waitpid(pid, 0)[1] else []
        continue
    try:
        exec(code, {{'__name__': '__main__'}})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert not failed, failed
'''
