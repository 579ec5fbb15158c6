"""What the autoload costs: time of `import torch` and `import timm` with and without the plugin, as ratios.

Run it where the plugin is installed: python benchmarks/import_cost.py [rounds [module]]. Each time is of a process of
its own, and the two sides take turns. "Without" is the same environment, with the entry point left out of what torch
sees.
"""
import statistics
import subprocess
import sys

CODE = """
import importlib.metadata as m, sys, time
real = m.entry_points
m.entry_points = lambda **kwargs: [e for e in real(**kwargs) if e.name != {left_out!r}]
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu, 'timm' in sys.modules, 'timm_se50' in sys.modules)
"""


def measure(module, left_out):
    """Seconds of wall and of CPU time of an import."""
    command = [sys.executable, '-c', CODE.format(module=module, left_out=left_out)]
    wall, cpu, timm, plugin = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert timm == str(module == 'timm')
    assert plugin == str(module == 'timm' and left_out != 'timm_se50')
    return float(wall), float(cpu)


def main(rounds=15, *modules):
    for module in modules or ('torch', 'timm'):
        measure(module, 'timm_se50'), measure(module, None)  # fill the page cache
        times = {'with': [], 'without': []}
        for i in range(int(rounds)):
            for side in ('with', 'without') if i % 2 else ('without', 'with'):
                times[side].append(measure(module, 'timm_se50' if side == 'without' else None))
        for clock, name in enumerate(('wall', 'CPU')):
            a, b = ([t[clock] for t in times[side]] for side in ('with', 'without'))
            ratio = statistics.median(x / y for x, y in zip(a, b))
            print(f'import {module}, {name}: {statistics.median(a):.3f} s with, {statistics.median(b):.3f} s without; '
                  f'median of {rounds} ratios {ratio:.4f}, ratio of minima {min(a) / min(b):.4f}', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
