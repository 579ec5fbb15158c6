"""pytest plugin: timm's own tests/test_models.py on our two models.

Three of its functions choose models by the name of timm's source file; ours is added to that choice. The settings in
SE_SETTINGS (JSON) go to every model of ours that the suite makes.
"""
import json
import os

import timm

SETTINGS = json.loads(os.environ.get('SE_SETTINGS', '{}'))
_list_models, _create_model = timm.list_models, timm.create_model


def list_models(filter='', module='', *args, **kwargs):
    if isinstance(module, list):
        module = [*module, 'se_resnet50']
    return _list_models(filter, module, *args, **kwargs)


def create_model(model_name, *args, **kwargs):
    return _create_model(model_name, *args, **(SETTINGS if model_name.startswith('se_resnet50_') else {}), **kwargs)


timm.list_models, timm.create_model = list_models, create_model
