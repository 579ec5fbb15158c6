"""The gates as a table, and as JSON."""
from collections.abc import Sequence
from typing import Any

from .collect import BlockGates, gate_warnings

__all__ = ['format_gates', 'gates_to_dict']


def format_gates(blocks: Sequence[BlockGates]) -> str:
    """A table, one row a block."""
    counts = ', '.join(f'{c} {int(n)}' for c, n in zip(blocks[0].classes, blocks[0].count.tolist()))
    width = max(22, *(len(b.name) + 1 for b in blocks))
    lines = [
        f'{int(blocks[0].count.sum())} images: {counts}',
        'Gate of each channel, averaged over images; spread within and between classes, averaged over channels',
        f'{"block":<{width}}{"channels":>9}{"mean":>9}{"min":>9}{"max":>9}{"within":>9}{"between":>9}']
    for block in blocks:
        name, channels, *numbers = block.summary().values()
        lines.append(f'{name:<{width}}{channels:>9}' + ''.join(f'{n:>9.4f}' for n in numbers))
    return '\n'.join(lines)


def gates_to_dict(blocks: Sequence[BlockGates]) -> dict[str, Any]:
    """All of it as plain JSON: by block, each class's mean gate and spread of each channel; and the warnings."""
    return {
        'classes': dict(zip(blocks[0].classes, map(int, blocks[0].count.tolist()))),
        'blocks': [
            b.summary() | {'scale': b.scale, 'class_mean': b.mean.tolist(), 'class_std': b.std.tolist()}
            for b in blocks],
        'warnings': gate_warnings(blocks),
    }
