"""The gates as a table, as JSON, and as a picture in the manner of the paper's section on excitation."""
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .collect import BlockGates, gate_warnings

__all__ = ['check_plot', 'format_gates', 'gates_to_dict', 'plot_gates']

_COLUMNS = 2
_LINES = 10  # classes that can be told apart by colour


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


def check_plot(path: str | os.PathLike) -> None:
    """Raise, before any work is done, what would keep `plot_gates` from writing to `path`."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as e:
        raise RuntimeError("The picture needs matplotlib: pip install 'timm-se50[demo]'.") from e
    known = FigureCanvasBase.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(f'{path}: expected a name that ends in one of {", ".join(f".{k}" for k in sorted(known))}.')
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f'{path}: there is no folder {Path(path).parent}.')


def plot_gates(blocks: Sequence[BlockGates], path: str | os.PathLike, title: str = '') -> None:
    """Draw the mean gate of each channel: a line a class, black over all images, a grey band one deviation wide.

    Channels stand in order of their mean gate over all images, which the paper does not do: in the order of the
    weights, the lines of a block with 2,048 channels are a solid mass.

    Args:
        blocks: From `collect_gates`.
        path: Picture to write; its ending says the format (.png, .pdf, .svg).
        title: A line above the panels.

    Raises:
        RuntimeError: matplotlib is not installed.
        ValueError: matplotlib knows no such format.
        FileNotFoundError: There is no such folder.
    """
    check_plot(path)
    from matplotlib.figure import Figure
    rows = math.ceil(len(blocks) / _COLUMNS)
    figure = Figure(figsize=(8.3, 2.2 * rows + 1.2), layout='constrained')  # is read at the width of a page
    panels = figure.subplots(rows, min(len(blocks), _COLUMNS), squeeze=False, sharey=True).flat
    for panel, block in zip(panels, blocks):
        _draw(panel, block)
    for panel in panels[len(blocks):]:
        panel.set_visible(False)
    figure.supylabel('mean gate of each channel, sorted by it', fontsize='small')
    handles, labels = panels[0].get_legend_handles_labels()
    ncols = max(1, min(len(labels), 4, 100 // (6 + max(map(len, labels)))))  # some 100 letters are as wide as a page
    figure.legend(handles, labels, loc='outside lower center', ncols=ncols, fontsize='small')
    figure.suptitle(_literal(title), fontsize='medium', wrap=True)
    figure.savefig(path, dpi=200)


def _draw(panel: Any, block: BlockGates) -> None:
    order = block.overall_mean.argsort()
    mean, std = block.overall_mean[order].numpy(), block.overall_std[order].numpy()
    x = range(len(order))
    panel.fill_between(x, mean - std, mean + std, color='0.85', lw=0, label='all images ± 1 deviation')
    for name, values in list(zip(block.classes, block.mean))[:_LINES]:
        panel.plot(x, values[order].numpy(), lw=0.6, label=_literal(name))
    rest = len(block.classes) - _LINES
    panel.plot(x, mean, color='black', lw=1, label='all images' + (f' ({rest} more classes)' if rest > 0 else ''))
    panel.set_title(f'{block.name} ({len(order)} channels)', fontsize='small')
    panel.set_xlim(0, len(order) - 1)
    panel.grid(alpha=0.3)


def _literal(text: str) -> str:
    """Text as matplotlib shows it as it is: a dollar begins a formula, an underscore keeps a label from the legend."""
    text = text.encode(errors='replace').decode()  # a name that is no UTF-8 has bytes that no font has
    return (' ' if text.startswith('_') else '') + text.replace('$', r'\$')
