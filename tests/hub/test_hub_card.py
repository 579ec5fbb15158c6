"""The card: true to the model, valid to the Hub, and nothing in it that nobody said or measured."""
import json

import numpy as np
import pytest
import timm
from helpers import NARROW
from hub_api import card_errors
from huggingface_hub import ModelCard

from timm_se50 import CardConfig, SEConfig, patch_blocks_, push_to_hub, save_checkpoint

RESULTS = [
    {'dataset': 'ImageNet-1k', 'split': 'validation', 'metric': 'accuracy', 'value': 0.81, 'how': 'validate.py, 224'},
    {'dataset': 'scikit-learn digits', 'metric': 'top-1', 'value': np.float32(97.5), 'how': 'timm-se50 demo'},
]


def saved_card(model, folder, **options):
    card = ModelCard.load(save_checkpoint(model, folder, **options) / 'README.md')
    assert card_errors(str(card)) == []
    assert (card.data.library_name, card.data.pipeline_tag) == ('timm', 'image-classification')
    return card


@pytest.mark.parametrize(('name', 'overlay', 'base_model', 'license'), [
    ('replace.fb_ssl_yfcc100m_ft_in1k', {}, 'timm/resnet50.fb_ssl_yfcc100m_ft_in1k', 'cc-by-nc-4.0'),
    ('patch.tv_in1k', {}, 'timm/resnet50.tv_in1k', 'bsd-3-clause'),
    ('replace.se_ra2_in1k', {}, 'timm/seresnet50.ra2_in1k', 'apache-2.0'),
    ('replace.bamboo', {}, 'timm/resnet50.bamboo', None),
    ('patch.tv_in1k', dict(hf_hub_id='timm/resnet50.tv_in1k@main'), 'timm/resnet50.tv_in1k', 'bsd-3-clause'),
    # of weights from elsewhere the tag's license is not claimed
    ('patch.tv_in1k', dict(hf_hub_id='me/my-resnet50'), 'me/my-resnet50', None),
    ('patch.tv_in1k', dict(hf_hub_id='me/my-resnet50@v1', license='mit'), 'me/my-resnet50', 'mit'),
    ('patch.tv_in1k', dict(url='https://example.com/mine.pth', hf_hub_id=None), None, None),
    ('patch.tv_in1k', dict(state_dict={'no': 'matter'}), None, None),
    ('patch', dict(file='mine.pth'), None, None),
    ('patch', dict(file='mine.pth', tag=None), None, None),
])
def test_origin_and_license_are_those_of_the_weights(name, overlay, base_model, license, tmp_path):
    """Also when the model is saved once more."""
    model = timm.create_model(f'se_resnet50_{name}', num_classes=2, pretrained_cfg_overlay=overlay, **NARROW)
    for folder in (tmp_path / 'm', tmp_path / 'again'):
        card = saved_card(model, folder)
        assert (card.data.base_model, card.data.license) == (base_model, license)
        cfg = json.loads((folder / 'config.json').read_text())['pretrained_cfg']
        assert not {'tag', 'origin_url', 'paper_ids'} & cfg.keys()
        model = timm.create_model(f'local-dir:{folder}')


def test_a_live_timm_model(tmp_path):
    model = patch_blocks_(timm.create_model('resnet50.tv2_in1k', num_classes=2), SEConfig((8, 32), (2, 3), 'pre'))
    card = saved_card(model, tmp_path / 'm')
    assert card.data.base_model == 'timm/resnet50.tv2_in1k'
    assert 'position pre, stages 2, 3, reduction 8, 32' in card.text
    assert card.data.eval_results is None
    assert not [heading for heading in ('## Results', '## Training') if heading in card.text]


def test_trained_from_scratch(tmp_path):
    """The origin that the pretrained cfg names is not claimed, now or when the model is saved once more."""
    model = timm.create_model('se_resnet50_patch', num_classes=2, **NARROW)
    for options in ({'card': CardConfig(base_model=None)}, {}):
        card = saved_card(model, tmp_path / 'm', **options)
        assert (card.data.base_model, card.data.license) == (None, None)
        assert 'Started from' not in card.text
        model = timm.create_model(f'local-dir:{tmp_path / "m"}')


def test_recipe_and_results(tmp_path):
    model = timm.create_model('se_resnet50_patch', num_classes=2, **NARROW)
    options = CardConfig(
        license='mit', recipe={'epochs': 30, 'optimizer': 'lamb'}, results=RESULTS, datasets=['imagenet-1k'])
    card = saved_card(model, tmp_path / 'm', card=options)
    assert card.data.license == 'mit'
    assert card.data.datasets == ['imagenet-1k']
    first, second = card.data.eval_results
    assert (first.dataset_type, first.dataset_split, first.metric_type, first.metric_value) == (
        'imagenet-1k', 'validation', 'accuracy', 0.81)
    assert (second.dataset_name, second.dataset_type, second.metric_value) == (
        'scikit-learn digits', 'scikit-learn-digits', 97.5)
    assert '- epochs: 30\n- optimizer: lamb\n' in card.text
    assert '- accuracy on ImageNet-1k (validation): **0.81**. Measured by: validate.py, 224' in card.text
    assert timm.create_model(f'local-dir:{tmp_path / "m"}').pretrained_cfg['license'] == 'mit'


@pytest.mark.parametrize(('wrong', 'message'), [
    ({'results': [RESULTS[0] | {'value': '97 %'}]}, r"results\[0\]=.*'value' \(a number\).*'97 %' is no number"),
    ({'results': [RESULTS[0] | {'value': True}]}, r'True is no number'),
    ({'results': [RESULTS[0] | {'how': 3}]}, r'or 3 no text'),
    ({'results': [RESULTS[0] | {'metric': True}]}, r"results\[0\]=.*'bool' object"),
    ({'results': [RESULTS[0] | {'top5': 1}]}, r"results\[0\]=.* unexpected keyword argument 'top5'"),
    ({'results': [{'dataset': 'x', 'metric': 'y', 'value': 1}]}, r"results\[0\]=.* missing .* argument: 'how'"),
    ({'results': ['good']}, r"results\[0\]='good': expected 'dataset'"),
    ({'datasets': 'timm/imagenet'}, "datasets='timm/imagenet': expected a list"),
    ({'recipe': ['epochs']}, r"recipe=\['epochs'\]: expected a mapping"),
])
def test_what_does_not_say_enough_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CardConfig(**wrong)


def test_snippets_are_for_who_reads_them():
    model = timm.create_model('se_resnet50_replace', num_classes=3, **NARROW)
    plain, portable = (push_to_hub(model, 'ann/x', dry_run=True, portable=portable).card for portable in (False, True))
    for card in (plain, portable):
        assert card_errors(card) == []
        assert "timm.create_model('hf-hub:ann/x', pretrained=True)" in card
        assert "timm_se50.pull_from_hub('ann/x')" in card
    assert "import timm_se50  # pip install timm-se50; registers" in plain
    assert 'AutoModelForImageClassification' not in plain
    assert "import timm_se50  # pip" not in portable
    assert "AutoModelForImageClassification.from_pretrained('ann/x')" in portable
    assert "seresnet50" in portable


def test_a_card_that_the_hub_would_not_take_is_refused_before_anything_is_sent(server, model):
    with pytest.raises(ValueError, match=r'(?s)Invalid metadata in README\.md.*"license" must be one of'):
        push_to_hub(model, 'ann/bad', card=CardConfig(license='my own'))
    assert server.repos['ann/bad'].messages == ['initial']
