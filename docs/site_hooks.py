"""Files that lie elsewhere in the repository are in the site as well, and links lead to where a file is in the site.

So each text is written once and reads in the repository as it does in the site.
"""
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Place in the site, by place in the repository
PAGES = {
    'README.md': 'index.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'SECURITY.md': 'reporting.md',
    'benchmarks/README.md': 'benchmarks.md',
    'notebooks/add_se_to_your_resnet.ipynb': 'add_se_to_your_resnet.ipynb',
    '.ci/oldest.txt': 'oldest.txt',
}
LINK = re.compile(r'(\]\()(?!https?:|#|mailto:)([^)#\s]+)')


def on_files(files, config):
    for source, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    results = ROOT / 'benchmarks' / 'results'
    for path in sorted(results.rglob('*')):
        if path.suffix in ('.md', '.png'):
            files.append(File.generated(
                config, f'results/{path.relative_to(results).as_posix()}', abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()

    def moved(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        place = PAGES.get(target) or target.removeprefix('docs/').replace('benchmarks/results/', 'results/')
        if files.get_file_from_path(place) is None:
            return match[0]  # mkdocs says what leads nowhere
        return match[1] + posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.')

    return LINK.sub(moved, markdown)
