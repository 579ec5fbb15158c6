"""pytest plugin: timm's own tests/test_models.py on our two models, and on three more settings.

Three of its functions choose models by the name of timm's source file; ours is added to that choice. A model with
settings has a name of its own, `se_resnet50_patch+pre`.
"""
import timm

SETTINGS = {
    'se_resnet50_patch+pre': dict(se_position='pre', se_stages=[2, 3, 4], se_reduction=8),
    'se_resnet50_replace+post': dict(se_position='post'),
    'se_resnet50_patch+identity': dict(se_position='identity', se_reduction=[4, 8, 16, 32])}
_list_models, _create_model, _get_value = timm.list_models, timm.create_model, timm.get_pretrained_cfg_value


def list_models(filter='', module='', *args, **kwargs):
    if isinstance(module, list):
        module = [*module, 'se_resnet50']
    names = _list_models(filter, module, *args, **kwargs)
    return names + [name for name in SETTINGS if name.partition('+')[0] in names]


def create_model(model_name, *args, **kwargs):
    return _create_model(model_name.partition('+')[0], *args, **SETTINGS.get(model_name, {}), **kwargs)


def get_pretrained_cfg_value(model_name, cfg_key):
    return _get_value(model_name.partition('+')[0], cfg_key)


timm.list_models, timm.create_model, timm.get_pretrained_cfg_value = list_models, create_model, get_pretrained_cfg_value
