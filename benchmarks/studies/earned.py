"""What the study found: tables and a picture, from the files of its runs."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from .arms import ARMS
from .data import TASKS
from .picture import plot
from .record import Record, measure

__all__ = ['difference', 'write_report']

TITLES = {
    'solar': 'Solar cells: good or broken, a new head',
    'fashion': 'Fashion-MNIST, which the network was trained on',
    'digits': "scikit-learn's digits, a new head",
}


def write_report(folder: Path) -> None:
    """Write study.md and study.png beside the folder study/ of the runs."""
    paths = {task: folder / 'study' / f'{task}.json' for task in TASKS}
    records = {task: Record(path) for task, path in paths.items() if path.exists()}
    (folder / 'study.md').write_text('\n'.join((_verdict(records), '', *_tables(records))) + '\n')
    plot(records, TITLES, folder / 'study.png')


def difference(values: dict[int, float], base: dict[int, float]) -> tuple[float, float] | None:
    """Mean difference over the seeds that both have, and its standard error; None with fewer than two seeds."""
    pairs = [values[s] - base[s] for s in values.keys() & base.keys()]
    return (mean(pairs), stdev(pairs) / len(pairs) ** 0.5) if len(pairs) > 1 else None


def _verdict(records: dict[str, Record]) -> str:
    """The goal, a winner ahead of plain by more than two standard errors at equal compute on fresh seeds, in words."""
    found = {}
    for task, record in records.items():
        seeds = record.data['settings']['seeds']
        fresh = range(seeds, 2 * seeds)
        for optimizer in record.data['settings']['learning_rates']:
            longer = _tested(record, optimizer, 'plain_longer', fresh)
            for arm in record.winners(optimizer, seeds):
                gain = difference(_tested(record, optimizer, arm, fresh), longer)
                if gain:
                    found[f'{task}, {optimizer}, {_title(record, arm)}'] = gain
    if not found:
        return '**Not known yet**: nothing has run on fresh seeds.'
    ahead = [name for name, (gain, error) in found.items() if gain > 2 * error]
    every = '; '.join(f'{name}: {gain:+.2f} ± {error:.2f}' for name, (gain, error) in found.items())
    return (f'**At equal compute SE is ahead of the plain network by more than two standard errors in {len(ahead)} of '
            f'{len(found)} comparisons on fresh seeds** ({every}).')


def _tables(records: dict[str, Record]) -> Iterator[str]:
    for task, record in records.items():
        settings = record.data['settings']
        seeds = settings['seeds']
        score = 'AUROC' if task == 'solar' else 'accuracy'
        train, val, test = settings['images']
        yield (f'**{TITLES[task]}** ({settings["size"]} px, {settings["steps"]:,} steps of {settings["batch_size"]}; '
               f'{train:,} to train on, {val:,} to choose by, {test:,} to test)')
        yield ''
        first = next(iter(settings['learning_rates']))
        left_out = [_title(record, arm) for arm in ARMS if arm not in record.arms(first)]
        if left_out:
            yield from (f'Not run: {"; ".join(left_out)}.', '')
        for optimizer in settings['learning_rates']:
            if not record.arms(optimizer):
                continue
            for fresh in (False, True):
                chosen = range(seeds, 2 * seeds) if fresh else range(seeds)
                rows = [row for arm in record.arms(optimizer) if (row := _row(record, optimizer, arm, chosen))]
                if rows:
                    yield f'{optimizer}{", fresh seeds" if fresh else ""}:'
                    head = ('arm', 'lr', 'n', 'gate spread', f'test {score}, %', 'minus plain',
                            'minus plain, equal compute')
                    yield from ('', f'| {" | ".join(head)} |', '| --- ' * len(head) + '|', *rows, '')


def _title(record: Record, arm: str) -> str:
    return ARMS[arm].title.format(**record.data['settings'])


def _tested(record: Record, optimizer: str, arm: str, seeds: Sequence[int]) -> dict[int, float]:
    """What an arm has on the test part, by seed."""
    if arm not in record.arms(optimizer):
        return {}
    return {s: measure(r['test']) for s, r in record.seeds(optimizer, arm).items() if s in seeds}


def _row(record: Record, optimizer: str, arm: str, seeds: Sequence[int]) -> str | None:
    values = _tested(record, optimizer, arm, seeds)
    if not values:
        return None
    spreads = [r['spread'] for s, r in record.seeds(optimizer, arm).items() if s in seeds and r['spread'] is not None]
    cells = [
        _title(record, arm), f'{record.best_lr(optimizer, arm):g}', str(len(values)),
        f'{mean(spreads):.3f}' if spreads else '',
        f'{mean(values.values()):.2f}' + (f' ± {stdev(values.values()):.2f}' if len(values) > 1 else ''),
        *(_difference(difference(values, _tested(record, optimizer, base, seeds)), bold=len(values) == len(seeds))
          if arm != base else '' for base in ('plain', 'plain_longer'))]
    return f'| {" | ".join(cells)} |'


def _difference(found: tuple[float, float] | None, bold: bool) -> str:
    """In bold where it is more than two standard errors, unless seeds are still to be run."""
    if found is None:
        return ''
    text = f'{found[0]:+.2f} ± {found[1]:.2f}'
    return f'**{text}**' if bold and abs(found[0]) > 2 * found[1] else text
