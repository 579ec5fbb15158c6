"""What other libraries make of a pushed repo; run where they are installed."""
from importlib.util import find_spec

import pytest
from hub_client import Client
from hub_helpers import SETUP

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.skipif(find_spec('transformers') is None, reason='transformers is not installed'),
]
TRANSFORMERS = """
from transformers import AutoImageProcessor, AutoModelForImageClassification
loaded = AutoModelForImageClassification.from_pretrained(repo).eval()
x = torch.linspace(-1, 1, 2 * channels * 64 * 64).view(2, channels, 64, 64)
with torch.no_grad():
    out = [type(loaded.timm_model).__name__, loaded.config.id2label, loaded(x).logits.tolist()]
processor = AutoImageProcessor.from_pretrained(repo)
assert list(processor.data_config['mean']) == mean
"""
PUSH = """
model = timm.create_model('se_resnet50_replace', num_classes=3, drop_path_rate=0.1)
push(model, 'ann/wrapped', portable=True, label_names=['x', 'y', 'z'])
x = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
with torch.no_grad():
    out = model.eval()(x).tolist()
"""


@pytest.mark.parametrize('plugin', [True, False])
def test_transformers(plugin, client, server, pushed, local, tmp_path):
    logits = client.good(PUSH)
    setup = SETUP.format(local=local) if plugin else ''
    other = Client(server.url, setup=setup, plugin=plugin)
    mean = [0.485, 0.456, 0.406]
    labels = {'0': 'x', '1': 'y', '2': 'z'}
    try:
        found = other.good(TRANSFORMERS, repo='ann/wrapped', channels=3, mean=mean)
        assert found == ['ResNet', labels, logits]
        if plugin:  # a repo that is not portable, and whose weights are bfloat16, which transformers keeps
            want = other.good("x = torch.linspace(-1, 1, 2 * 64 * 64).view(2, 1, 64, 64)\n"
                              "with torch.no_grad():\n    out = model.eval()(x.bfloat16()).tolist()")
            found = other.good(TRANSFORMERS, repo='ann/model', channels=1, mean=[0.25])
            assert found == ['SEResNet', {'0': 'cat', '1': 'dog', '2': 'eel'}, want]
    finally:
        other.close()
