"""Draws positions.svg, the four places of an SE module in a residual block: `python docs/draw_positions.py`."""
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.rcParams['svg.hashsalt'] = 'timm-se50'  # the same file for the same drawing

RESIDUAL, SE, SUM, RELU = 'residual', 'SE', '+', 'ReLU'
# position -> boxes of the residual branch and of the shortcut, and what follows their sum, from input to output
PANELS = {
    'standard': ((RESIDUAL, SE), (), (RELU,)),
    'pre': ((SE, RESIDUAL), (), (RELU,)),
    'post': ((RESIDUAL,), (), (RELU, SE)),
    'identity': ((RESIDUAL,), (SE,), (RELU,)),
}
COLOURS = {RESIDUAL: '#dbe6f4', SE: '#f6b26b', SUM: 'white', RELU: '#e8e8e8'}
BRANCH, SHORTCUT, JOIN = 0.0, 1.5, 4.0


def box(axes: Axes, x: float, y: float, text: str) -> None:
    round_ = 'circle,pad=0.25' if text == SUM else 'round,pad=0.35'
    axes.text(x, y, text, ha='center', va='center', fontsize=11, zorder=2,
              bbox=dict(boxstyle=round_, facecolor=COLOURS[text], edgecolor='#444444'))


def line(axes: Axes, xs: tuple[float, ...], ys: tuple[float, ...]) -> None:
    axes.plot(xs, ys, color='#444444', linewidth=1.3, zorder=1)


def panel(axes: Axes, position: str) -> None:
    branch, shortcut, after = PANELS[position]
    line(axes, (BRANCH, BRANCH), (0.4, JOIN))
    line(axes, (BRANCH, SHORTCUT, SHORTCUT, BRANCH), (0.8, 0.8, JOIN, JOIN))
    for i, text in enumerate(branch):
        box(axes, BRANCH, 1.7 + 1.3 * i, text)
    for text in shortcut:
        box(axes, SHORTCUT, 2.35, text)
    box(axes, BRANCH, JOIN, SUM)
    for i, text in enumerate(after):
        box(axes, BRANCH, JOIN + 1.0 * (i + 1), text)
    top = JOIN + 1.0 * len(after) + 0.8
    axes.annotate('', (BRANCH, top), (BRANCH, JOIN), arrowprops=dict(arrowstyle='->', color='#444444'), zorder=1)
    axes.text(BRANCH, 0.15, 'x', ha='center', va='center', fontsize=11, style='italic')
    axes.set(xlim=(-1.0, 2.2), ylim=(-0.2, 7.0), title=f"'{position}'")
    axes.set_axis_off()


def draw() -> Figure:
    figure = Figure(figsize=(9, 4.2), layout='constrained')
    figure.get_layout_engine().set(h_pad=0.1)
    for axes, position in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        panel(axes, position)
    return figure


if __name__ == '__main__':
    draw().savefig(Path(__file__).with_name('positions.svg'), metadata={'Date': None})
