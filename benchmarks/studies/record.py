"""What was run: one file for each task, written after every run."""
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from .arms import ARMS

__all__ = ['Key', 'Record', 'measure']


class Key(NamedTuple):
    optimizer: str
    arm: str
    lr: float
    seed: int


def measure(scores: Mapping[str, float]) -> float:
    """What an arm is judged by: AUROC where there is one (two unbalanced classes), else accuracy; in percent."""
    return scores.get('auroc', scores['accuracy'])


class Record:
    """The runs of one task.

    Args:
        path: Of the file, which is read if it is there.
        settings: What all runs have in common; None to read a file with whatever it has.
        machine: What they are run on.

    Raises:
        SystemExit: The file is of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None, machine: Mapping[str, Any] | None = None):
        self.path = path
        asked = json.loads(json.dumps(settings))
        self.data: dict[str, Any] = {'settings': asked, 'machine': machine, 'runs': []}
        if settings is None or path.exists():
            self.data = json.loads(path.read_text())
        if asked not in (None, self.data['settings']):
            raise SystemExit(
                f'{path} is of other settings: {self.data["settings"]}, asked for {asked}. '
                'Start with the same to go on with it, or name another folder by -o.')
        self.runs: dict[Key, dict] = {Key(*(r[k] for k in Key._fields)): r for r in self.data['runs']}

    def missing(self, keys: Iterable[Key]) -> Iterator[Key]:
        return (key for key in keys if key not in self.runs)

    def add(self, key: Key, result: Mapping[str, Any]) -> None:
        self.runs[key] = {**key._asdict(), **result}
        self.data['runs'] = list(self.runs.values())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix('.part')
        part.write_text(json.dumps(self.data, indent=1) + '\n')
        os.replace(part, self.path)

    def tried(self, optimizer: str, arm: str) -> dict[float, float]:
        """What each learning rate did on the validation part, with seed 0."""
        return {k.lr: measure(r['val']) for k, r in self.runs.items() if k[:2] == (optimizer, arm) and k.seed == 0}

    def best_lr(self, optimizer: str, arm: str) -> float:
        """The learning rate that did best on the validation part, with seed 0."""
        tried = self.tried(optimizer, arm)
        return max(tried, key=lambda lr: tried[lr])

    def seeds(self, optimizer: str, arm: str) -> dict[int, dict]:
        """The runs of an arm at its best learning rate, by seed."""
        lr = self.best_lr(optimizer, arm)
        return {k.seed: r for k, r in self.runs.items() if k[:3] == (optimizer, arm, lr)}

    def arms(self, optimizer: str) -> list[str]:
        """The arms that have been run."""
        return [arm for arm in ARMS if any(k[:2] == (optimizer, arm) for k in self.runs)]

    def winners(self, optimizer: str, seeds: int) -> list[str]:
        """What did best on the validation part over the first `seeds` seeds, of the main arms with our SE and of all.

        Only what has been run with each of them can win; none may have been.
        """
        scores = {
            arm: mean(measure(runs[s]['val']) for s in range(seeds)) for arm in self.arms(optimizer)
            if ARMS[arm].ours and (runs := self.seeds(optimizer, arm)).keys() >= set(range(seeds))}
        main = {arm: score for arm, score in scores.items() if ARMS[arm].main}
        return list(dict.fromkeys(max(some, key=lambda arm: some[arm]) for some in (main, scores) if some))
