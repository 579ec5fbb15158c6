"""What transformers makes of a pushed repo's files."""
import pytest
import timm
import torch
from helpers import shake_

from timm_se50 import save_checkpoint

pytestmark = pytest.mark.ecosystem


def test_transformers(model, local, images, tmp_path):
    transformers = pytest.importorskip('transformers')
    portable = shake_(timm.create_model('se_resnet50_replace', num_classes=3, drop_path_rate=0.1, layers=(1, 1, 1, 1)))
    save_checkpoint(portable, tmp_path, portable=True, label_names=['x', 'y', 'z'])
    gray = images[:, :1].bfloat16()  # transformers keeps the dtype of the file
    for folder, source, x, kind, labels, mean in [
            (tmp_path, portable, images, 'ResNet', ['x', 'y', 'z'], [0.485, 0.456, 0.406]),
            (local, model, gray, 'SEResNet', ['cat', 'dog', 'eel'], [0.25])]:
        loaded = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
        assert type(loaded.timm_model).__name__ == kind
        assert loaded.config.id2label == dict(enumerate(labels))
        assert list(transformers.AutoImageProcessor.from_pretrained(folder).data_config['mean']) == mean
        with torch.no_grad():
            assert torch.equal(loaded(x).logits, source.eval()(x))
