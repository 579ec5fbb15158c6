"""Run the notebook, and keep its outputs in it; with --check, run it and write nothing."""
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).with_name('add_se_to_your_resnet.ipynb')


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def main():
    notebook = nbformat.read(PATH, as_version=4)
    kept = [bool(cell.outputs) for cell in code_cells(notebook)]
    NotebookClient(
        notebook, timeout=900, kernel_name='python3', resources={'metadata': {'path': PATH.parent}}).execute()
    if '--check' in sys.argv[1:]:  # a cell that raises has ended this already
        if kept != [bool(cell.outputs) for cell in code_cells(notebook)]:
            sys.exit(f'{PATH.name} has not the outputs that its cells give; run: python notebooks/run.py')
        return
    for cell in code_cells(notebook):
        cell.metadata.pop('execution', None)  # times of day
    notebook.metadata = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    nbformat.write(notebook, PATH)
    print(f'{PATH.name}: {PATH.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    main()
