"""What the autoload costs: time of `import torch` and `import timm` with and without the plugin, as ratios.

Run it where the plugin is installed: python benchmarks/import_cost.py [rounds [module ...]]. Each time is of a process
of its own, and the two sides take turns. "Without" is the same environment, with the entry point left out of what torch
sees. On a busy machine two processes differ by more than the plugin costs; so the time spent in it is measured too, and
gives a ratio within each process: all / (all - the plugin's).
"""
import argparse
import statistics
import subprocess
import sys

CODE = """
import importlib.metadata as m, sys, time
spent = [0., 0.]
def timed(call):
    def run(*args):
        start = time.perf_counter(), time.process_time()
        result = call(*args)
        spent[0] += time.perf_counter() - start[0]
        spent[1] += time.process_time() - start[1]
        return result
    return run
class Timed:
    def __init__(self, entry_point): self.entry_point, self.name = entry_point, entry_point.name
    def load(self):
        autoload = timed(self.entry_point.load)()
        hook = sys.modules['timm_se50_autoload']
        hook._import_plugin = timed(hook._import_plugin)
        return timed(autoload)
real = m.entry_points
def seen(**kwargs):
    found = real(**kwargs)
    return found if kwargs != dict(group='torch.backends') else [Timed(e) for e in found if e.name != {left_out!r}]
m.entry_points = seen
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu, *spent, 'timm' in sys.modules, 'timm_se50' in sys.modules)
"""


def measure(module, left_out):
    """Seconds of an import: wall, CPU, and of both the part spent in the plugin."""
    command = [sys.executable, '-c', CODE.format(module=module, left_out=left_out)]
    *seconds, timm, plugin = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert timm == str(module == 'timm')
    assert plugin == str(module == 'timm' and left_out != 'timm_se50')
    return tuple(map(float, seconds))


def main(rounds, modules):
    for module in modules:
        measure(module, 'timm_se50'), measure(module, None)  # fill the page cache
        times = {'with': [], 'without': []}
        for i in range(rounds):
            for side in ('with', 'without') if i % 2 else ('without', 'with'):
                times[side].append(measure(module, 'timm_se50' if side == 'without' else None))
        for clock, name in enumerate(('wall', 'CPU')):
            a, b = ([t[clock] for t in times[side]] for side in ('with', 'without'))
            spent = [t[2 + clock] for t in times['with']]
            print(f'import {module}, {name}: {statistics.median(a):.3f} s with, {statistics.median(b):.3f} s without, '
                  f'median of {rounds} ratios {statistics.median(x / y for x, y in zip(a, b)):.4f}; in the plugin '
                  f'{1000 * statistics.median(spent):.2f} ms, median ratio within a process '
                  f'{statistics.median(x / (x - s) for x, s in zip(a, spent)):.4f}', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rounds', nargs='?', type=int, default=15)
    parser.add_argument('modules', nargs='*', default=['torch', 'timm'], metavar='module')
    args = parser.parse_args()
    main(args.rounds, args.modules)
