"""The table and the plot of inference.py's results."""
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

BASELINE = 'seresnet50'
REFERENCES = (BASELINE, 'resnet50', 'resnet50 in the same form')


def report(results: dict[str, Any], folder: Path) -> None:
    """Write inference.md and inference.png for what is in `results`."""
    speeds = {part.partition('-')[2]: record for part, record in results.items() if part.startswith('speed-')}
    lines = ['# Inference', '']
    for part, record in speeds.items():  # '8' or '8, memory kept'
        lines += [f'## Batch {part}, 224 px, channels_last, float32', '', _about(record), '']
        speed = {to: record['speed'][to] for to in REFERENCES}
        lines += ['| | ms | ' + ' | '.join(f'speed, {to} = 1' for to in REFERENCES) + ' |', '| --- ' * 5 + '|']
        lines += [f'| {name} | {ms:.1f} | ' + ' | '.join(f'{row[name]:.2f}' for row in speed.values()) + ' |'
                  for name, ms in record['milliseconds'].items()]
        lines.append('')
    if 'memory' in results:
        record = dict(results['memory'])
        lines += ['## Memory', '']
        lines += ['MiB that a forward pass holds at its peak beyond weights and images. ' + _about(record), '']
        del record['machine']
        names = list(next(iter(record.values())))
        lines += ['| batch | ' + ' | '.join(names) + ' |', '| --- ' * (len(names) + 1) + '|']
        lines += [f'| {n} | ' + ' | '.join(f'{row[name]:.0f}' for name in names) + ' |' for n, row in record.items()]
        lines.append('')
    for part, record in results.items():
        if not part.startswith('growth'):
            continue
        names = list(record['rows'][0]['speed'])
        lines += [f'## {part.capitalize()}', '', "Speed, timm's eager seresnet50 = 1. " + _about(record), '']
        lines += ['| batch | px | ' + ' | '.join(names) + ' |', '| --- ' * (len(names) + 2) + '|']
        lines += [f'| {row["batch_size"]} | {row["size"]} | '
                  + ' | '.join(f'{row["speed"][name]:.2f}' for name in names) + ' |' for row in record['rows']]
        lines.append('')
    if 'agreement' in results:
        found = results['agreement']
        lines += [
            '## Agreement of the reparameterized model with the model', '',
            f'{found["same_argmax"]} of {found["images"]} images have the same arg-max; the largest difference is '
            f'{found["max_abs_difference"]:.1e} where the largest output is {found["largest_output"]:.1f}. '
            f'To float64: {found["max_abs_difference_to_float64"]["fused"]:.1e}, the model itself '
            f'{found["max_abs_difference_to_float64"]["model"]:.1e}.', '']
    (folder / 'inference.md').write_text('\n'.join(lines))
    if speeds:
        _plot(speeds, folder / 'inference.png')


def _about(record: dict[str, Any]) -> str:
    m = record['machine']
    versions = ', '.join(f'{k} {v}' for k, v in m['versions'].items())
    rounds = ''
    if 'rounds' in record:
        clock = 'processor time' if record['clock'] == 'process_time' else 'time passed'
        rounds = f'; medians of {record["rounds"]} rounds of {clock}'
    return (f'{m["date"]}; {m["cpu"]}, {m["threads"]} thread(s) on {m["cores"]} cores, load {m["load"]:.1f}; '
            f'{versions}{rounds}.')


def _plot(speeds: dict[str, Any], path: Path) -> None:
    fig, axes = plt.subplots(1, len(speeds), figsize=(6 * len(speeds), 4), sharey=True, squeeze=False)
    for ax, (part, record) in zip(axes[0], speeds.items()):
        speed = record['speed'][BASELINE]
        colors = ['tab:orange' if 'reparameterized' in name else 'tab:gray' for name in speed]
        ax.barh(range(len(speed)), list(speed.values()), color=colors)
        ax.set_yticks(range(len(speed)), list(speed))
        ax.invert_yaxis()
        ax.axvline(1.0, color='black', linewidth=0.8)
        ax.set_title(f'batch {part}')
        ax.set_xlabel("speed, timm's eager seresnet50 = 1")
    m = next(iter(speeds.values()))['machine']
    fig.suptitle(f'{m["cpu"]}, {m["threads"]} thread(s), torch {m["versions"]["torch"]}, {m["date"]}', fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    plt.close(fig)
