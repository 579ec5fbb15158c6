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
    count = max(len(record['speed'][BASELINE]) for record in speeds.values())
    fig, axes = plt.subplots(
        len(speeds), figsize=(8.3, (0.9 + 0.26 * count) * len(speeds)), squeeze=False, layout='constrained')
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    for ax, (part, record) in zip(axes[:, 0], speeds.items()):
        speed = record['speed'][BASELINE]
        colors = ['#d55e00' if name.startswith('se_resnet50') else '#999999' for name in speed]
        bars = ax.barh(range(len(speed)), list(speed.values()), color=colors)
        labels = ax.bar_label(bars, fmt='%.2f', padding=3, fontsize=9)
        for label in labels:
            label.set_bbox(dict(facecolor='white', edgecolor='none', pad=0.5))  # over the line at 1
        ax.set_yticks(range(len(speed)), list(speed))
        ax.invert_yaxis()
        ax.margins(x=0.1, y=0.02)
        ax.axvline(1.0, color='black', linewidth=0.8)
        ax.set_title(f'batch {part}', loc='left', fontsize='medium')
    fig.suptitle("Speed, timm's eager seresnet50 = 1 (more is better)", weight='bold')
    m = next(iter(speeds.values()))['machine']
    about = f'{m["cpu"]}, {m["threads"]} thread(s), torch {m["versions"]["torch"]}, {m["date"]}'
    fig.supxlabel(f'orange: this plugin, grey: timm. {about}', fontsize='small', color='#555555')
    fig.savefig(path, dpi=200)
    plt.close(fig)
