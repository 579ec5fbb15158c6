"""What the wheel holds: our files, all of them, and no other one; and no link out of it that leads nowhere."""
import posixpath
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_our_files_and_no_other_one(wheel):
    sources = [path for path in (ROOT / 'timm_se50').rglob('*') if path.suffix != '.pyc' and path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in sources} | {'timm_se50_autoload.py'}
    expected |= {f'timm_se50/hub_cards/{path.name}' for path in (ROOT / 'hub_cards').iterdir()}
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if '.dist-info/' not in name}
    assert own == expected
    assert {name.partition('.dist-info/')[2] for name in names - own} == {
        'METADATA', 'RECORD', 'WHEEL', 'entry_points.txt', 'licenses/LICENSE'}


def test_links_of_the_cards_lead_to_files_of_the_wheel(wheel):
    archive = zipfile.ZipFile(wheel)
    cards = [name for name in archive.namelist() if name.endswith('.md')]
    assert len(cards) == 3
    links = [(card, link) for card in cards for link in re.findall(r'\]\((.*?)\)', archive.read(card).decode())]
    assert links
    for card, link in links:
        where = posixpath.normpath(posixpath.join(posixpath.dirname(card), link))
        assert link.startswith('https://') or where in archive.namelist(), f'{card}: {link}'
