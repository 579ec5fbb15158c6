"""The pretrained tags are timm's, read from its registry."""
import pytest
import timm
from helpers import ROUTES
from timm.models import get_arch_pretrained_cfgs, is_model_pretrained

SOURCES = [(cfg.architecture, cfg.tag) for arch in ('resnet50', 'seresnet50')
           for cfg in get_arch_pretrained_cfgs(arch).values() if cfg.has_weights]


@pytest.mark.parametrize(('arch', 'tag'), SOURCES, ids=map('.'.join, SOURCES))
def test_each_tag_is_its_source(route, arch, tag):
    name = f'se_resnet50_{route}'
    ours = timm.get_pretrained_cfg(f'{name}.{"se_" if arch == "seresnet50" else ""}{tag}').to_dict()
    theirs = timm.get_pretrained_cfg(f'{arch}.{tag}').to_dict()
    assert ours.pop('architecture') == name
    assert ours.pop('tag') == ('se_' if arch == 'seresnet50' else '') + tag
    del theirs['architecture'], theirs['tag']
    assert ours == theirs
    assert {'hf_hub_id', 'mean', 'std', 'input_size'} <= ours.keys()


def test_all_are_listed_and_no_others():
    names = timm.list_pretrained('se_resnet50_*')
    assert set(names) == {f'se_resnet50_{route}.{"se_" if arch == "seresnet50" else ""}{tag}'
                          for route in ROUTES for arch, tag in SOURCES}
    assert timm.list_models('se_resnet50_*') == ['se_resnet50_patch', 'se_resnet50_replace']
    assert all(map(is_model_pretrained, names))


def test_the_default_is_timms(route):
    assert timm.get_pretrained_cfg(f'se_resnet50_{route}').tag == timm.get_pretrained_cfg('resnet50').tag
