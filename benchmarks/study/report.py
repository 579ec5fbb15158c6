"""The study's table and picture, from its JSON."""
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from .arms import ARMS

__all__ = ['routes_agree', 'summarise', 'write_report']

TITLES = {
    'fashion': 'The same task: Fashion-MNIST, head kept',
    'digits': "A second task: scikit-learn's digits, new head",
}


def summarise(study: dict) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Accuracy of each seed, in percent, by task, arm and step."""
    result: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in study['runs']:
        if run['arm'] != 'se_patch':
            for step, accuracy in run['accuracy'].items():
                result[run['task']][run['arm']][int(step)].append(accuracy)
    return result


def routes_agree(study: dict) -> dict[str, bool]:
    """By task, whether both routes gave the same losses, accuracies and final weights, bit for bit."""
    runs = {(r['task'], r['arm'], r['seed']): r for r in study['runs']}
    return {
        task: all(run[k] == runs[task, 'se_replace', seed][k] for k in ('loss', 'accuracy', 'state_sha256'))
        for (task, arm, seed), run in runs.items() if arm == 'se_patch' and (task, 'se_replace', seed) in runs}


def write_report(study: dict, folder: Path) -> None:
    """Write warm_start.md and warm_start.png."""
    (folder / 'warm_start.md').write_text('\n'.join(_table(study)) + '\n')
    _plot(study, folder / 'warm_start.png')


def _table(study: dict):
    settings, recipe, source = study['settings'], study['settings']['recipe'], study['settings']['source']
    yield (
        f'Source: ResNet-50 at {settings["size"]} px, {source["steps"]} steps of {source["batch_size"]} images of '
        f'Fashion-MNIST; test accuracy {list(study["source"]["accuracy"].values())[-1]:.1f}%. Then {recipe["steps"]} '
        f'steps of {recipe["batch_size"]} an arm, SGD with momentum 0.9, lr {recipe["lr"]:g} to 0 by a cosine. '
        'Accuracy in percent on '
        f'{" / ".join(f"{n:,} test images of {t}" for t, n in settings["test_images"].items())}: mean ± standard '
        'deviation over n seeds.')
    for task, arms in summarise(study).items():
        steps = sorted({s for arm in arms.values() for s in arm})
        yield from ('', f'**{TITLES[task]}**', '')
        yield f'| | n | {" | ".join(f"step {s}" for s in steps)} | the last, minus plain, by seed |'
        yield '| --- ' * (len(steps) + 3) + '|'
        plain = arms['plain'][steps[-1]]
        for arm in ARMS:
            if arm in arms:
                differences = ' '.join(f'{a - b:+.1f}' for a, b in zip(arms[arm][steps[-1]], plain))
                cells = [*(_cell(arms[arm][s]) for s in steps), differences]
                yield f'| {_name(arm)} | {len(arms[arm][steps[0]])} | {" | ".join(cells)} |'
    yield ''
    agree = routes_agree(study)
    if agree:
        yield (f'Both routes, seed 0: {", ".join(f"{t}: {_agreement(ok)}" for t, ok in agree.items())} (every loss, '
               'every accuracy, the final weights).')
    for arm in study['left_out']:
        yield f'Left out, its package was not installed: {_name(arm)}'


def _agreement(ok: bool) -> str:
    return 'equal bit for bit' if ok else 'DIFFERENT'


def _name(arm: str) -> str:
    return (ARMS[arm].__doc__ or arm).rstrip('.')


def _cell(values: list[float]) -> str:
    return f'{mean(values):.1f}' + (f' ± {stdev(values):.1f}' if len(values) > 1 else '')


def _plot(study: dict, path: Path) -> None:
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    summary = summarise(study)
    figure, axes = plt.subplots(1, len(summary), figsize=(6.5 * len(summary), 5.4), squeeze=False, layout='constrained')
    for axis, (task, arms) in zip(axes[0], summary.items(), strict=True):
        for i, arm in enumerate(ARMS):
            if arm in arms:
                steps = sorted(arms[arm])
                values = [arms[arm][s] for s in steps]
                x = range(len(steps))
                axis.plot(x, list(map(mean, values)), marker='o', markersize=3, color=f'C{i}', label=_name(arm))
                axis.fill_between(x, list(map(min, values)), list(map(max, values)), alpha=0.2, color=f'C{i}', lw=0)
        axis.set(title=TITLES[task], xlabel='steps', ylabel='test accuracy, %', xticks=x, xticklabels=steps)
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=2, fontsize='small')
    seeds = max((len(v) for arms in summary.values() for arm in arms.values() for v in arm.values()), default=0)
    figure.suptitle(f'SE into a trained ResNet-50: mean of up to {seeds} seeds, band from lowest to highest')
    figure.savefig(path, dpi=110)
    plt.close(figure)
