"""The table and the plot of training.py's results."""
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

LABELS = {'seresnet50': "timm's seresnet50", 'memory_efficient': 'memory_efficient=True'}


def report(results: dict[str, Any], folder: Path) -> None:
    """Write training.md and training.png for what is in `results`."""
    lines = [
        '# Training', '',
        "Against timm's resnet50, float32 unless said: bytes saved for the backward pass, exact, and the time of a "
        'step, median (quartiles) of the ratios within a round.', '',
        '| batch, pixels, format | bytes, ' + ' | bytes, '.join(LABELS.values()) + ' | time, '
        + ' | time, '.join(LABELS.values()) + ' | measured |', '| --- ' * 6 + '|']
    for part, record in results.items():
        models = [record['models'][name] for name in LABELS]
        saved = [f'{m["saved_ratio"]:.3f}' for m in models]
        step = ['{:.2f} ({:.2f} to {:.2f})'.format(m['step_ratio_median'], *m['step_ratio_quartiles']) for m in models]
        lines.append('| ' + ' | '.join([part, *saved, *step, _about(record)]) + ' |')
    (folder / 'training.md').write_text('\n'.join(lines) + '\n')

    fig, axes = plt.subplots(2, figsize=(8.3, 1.5 + 1.1 * len(results)), layout='constrained')
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    for ax, key, title in ((axes[0], 'saved_ratio', 'bytes saved for backward'),
                           (axes[1], 'step_ratio_median', 'time of a training step')):
        for i, (name, color) in enumerate(zip(LABELS, ('#999999', '#d55e00'))):
            values = [record['models'][name][key] for record in results.values()]
            at = [y + 0.4 * i - 0.2 for y in range(len(values))]
            bars = ax.barh(at, values, 0.38, color=color, label=LABELS[name])
            ax.bar_label(bars, fmt='%.2f', padding=3, fontsize=9)
        ax.axvline(1.0, color='black', linewidth=0.8)
        ax.set_title(f"{title}, timm's resnet50 = 1 (less is better)", loc='left', fontsize='medium')
        ax.set_yticks(range(len(results)), [_setting(part) for part in results])
        ax.margins(x=0.1)
        ax.invert_yaxis()
    fig.legend(*axes[0].get_legend_handles_labels(), loc='outside upper center', ncols=2)
    fig.supxlabel(_about(next(iter(results.values()))), fontsize='small', color='#555555')
    fig.savefig(folder / 'training.png', dpi=200)
    plt.close(fig)


def _setting(part: str) -> str:
    batch, pixels, how = part.split(', ', 2)
    return f'batch {batch}, {pixels} px,\n{how}'


def _about(record: dict[str, Any]) -> str:
    m = record['machine']
    where = m['cpu'] if record['device'] == 'cpu' else m['gpu']
    return (f'{m["date"]}, {where}, {m["threads"]} thread(s), {record["clock"]} time, {record["rounds"]} rounds, '
            f'torch {m["versions"]["torch"]}')
