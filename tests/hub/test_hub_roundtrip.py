"""A model to the Hub and back: everything that went there comes back, in one commit."""
import pytest
from conftest import PUSH
from hub_client import Client

ROUND_TRIP = """
local_model = timm.create_model('local-dir:' + local, pretrained=True).eval()
models = [timm.create_model('hf-hub:' + name, pretrained=True, cache_dir=cache).eval() for name in names]
models += [timm_se50.pull_from_hub(name, cache_dir=cache).eval() for name in names]
x = torch.rand(2, 1, 64, 64)
with torch.no_grad():
    want = local_model(x)
    assert all(torch.equal(model(x), want) for model in models)
keys = ('num_classes', 'input_size', 'mean', 'std', 'label_names', 'license', 'architecture', 'hf_hub_id', 'source')
out = [[str(timm_se50.checkpoint_config.se_config(m)), {k: m.pretrained_cfg.get(k) for k in keys}] for m in models]
"""


def test_all_settings_come_back_in_a_fresh_process(client, server, pushed, local, tmp_path):
    commit = pushed['commit']
    names = ['ann/model', f'ann/model@{commit}']
    found = client.good(ROUND_TRIP, local=local, names=names, cache=tmp_path)
    ids = ['ann/model', f'ann/model@{commit}', f'ann/model@{commit}', f'ann/model@{commit}']
    for (se, cfg), hub_id in zip(found, ids):
        assert se == "SEConfig(reduction=(8, 32), stages=(3, 4), position='identity')"
        assert cfg == {
            'num_classes': 3, 'input_size': [1, 176, 176], 'mean': [0.25], 'std': [0.5], 'source': 'hf-hub',
            'label_names': ['cat', 'dog', 'eel'], 'license': 'bsd-3-clause', 'architecture': 'se_resnet50_patch',
            'hf_hub_id': hub_id}
