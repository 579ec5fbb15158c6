"""Neutrality lives in fc2: zero from its constructor on, whoever initializes the model, and not wiped when trained."""
import copy
import subprocess
import sys

import pytest
import timm
import torch
from helpers import INSERT, NARROW, changed, settle_, shake_
from safetensors.torch import load_file, save_file
from timm.models._manipulate import reinit_non_persistent_buffers
from timm.optim import create_optimizer_v2
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

import timm_se50
from timm_se50 import SEModule

SMALL = dict(layers=(1, 1, 1, 1), **NARROW)


def se_modules(model):
    return [m for m in model.modules() if isinstance(m, SEModule)]


def assert_neutral(model):
    """Each fc2 is zero, and each fc1 is none of what would never get a gradient or make the units alike."""
    assert se_modules(model)
    for se in se_modules(model):
        assert not any(p.any() for p in se.fc2.parameters())
        assert se.fc1.weight.std() > 0.01
        assert len(se.fc1.weight.unique(dim=0)) == se.fc1.out_channels


@pytest.fixture(params=['replace', 'patch', 'created'])
def live(request):
    """A live ResNet of timm with SE, of each kind, its SE trained."""
    if request.param == 'created':
        return shake_(timm.create_model('se_resnet50_replace', **SMALL))
    return shake_(INSERT[request.param](timm.create_model('resnet50', **SMALL)))


def reset_each(model):
    for module in model.modules():
        if hasattr(module, 'reset_parameters'):
            module.reset_parameters()


@pytest.mark.parametrize('initialize', [
    reset_each, lambda m: m.init_weights(), lambda m: [se.reset_parameters() for se in se_modules(m)]],
    ids=['each reset_parameters()', "timm's init_weights()", 'SEModule.reset_parameters()'])
def test_initialized_anew(live, initialize):
    initialize(live)
    assert_neutral(live)


def no_init(name):
    if name == 'transformers':
        return pytest.importorskip('transformers.initialization').no_init_weights()
    return pytest.importorskip('lightning.fabric.utilities.init')._EmptyInit()


@pytest.mark.ecosystem
@pytest.mark.parametrize('library', ['transformers', 'lightning'])
def test_made_while_torchs_init_is_switched_off(route, library):
    with no_init(library):
        model = timm.create_model(f'se_resnet50_{route}', **SMALL)
    assert_neutral(model)


@pytest.mark.parametrize('materialize', [
    lambda m: m.to_empty(device='cpu'), lambda m: m.to('cpu'), lambda m: m.half().to_empty(device='cpu').float()],
    ids=['to_empty', 'to', 'half'])
def test_made_on_meta(route, materialize):
    with torch.device('meta'):
        model = timm.create_model(f'se_resnet50_{route}', **SMALL)
        se = SEModule(64, neutral=True)
    assert_neutral(materialize(nn.ModuleList([*se_modules(model), se])))


@pytest.mark.filterwarnings('ignore')  # that FSDP1 is old, and of one process
def test_fsdp_from_meta(tmp_path):
    """FSDP1 empties what is on meta module by module, and calls each one's reset_parameters()."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = nn.Sequential(SEModule(64, neutral=True, device='meta'))
        sharded = FullyShardedDataParallel(model, device_id=torch.device('cpu'), use_orig_params=True)
        assert_neutral(sharded)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.ecosystem
def test_accelerate_from_an_empty_model(route, plain, plain_file, images):
    accelerate = pytest.importorskip('accelerate')
    with accelerate.init_empty_weights():
        model = timm.create_model(f'se_resnet50_{route}', **NARROW)
    model = accelerate.load_checkpoint_and_dispatch(model, str(plain_file), device_map={'': 'cpu'})
    assert torch.equal(model.eval()(images), plain(images))
    assert_neutral(model)


def trained(route, tmp_path):
    model = shake_(settle_(timm.create_model(f'se_resnet50_{route}', num_classes=10, **NARROW))).eval()
    timm_se50.save_checkpoint(model, tmp_path)
    return model


def test_reinit_non_persistent_buffers_leaves_trained_se(route, tmp_path):
    """timm has it for 'after loading a checkpoint'."""
    model = trained(route, tmp_path)
    before = copy.deepcopy(model.state_dict())
    for loaded in (model, timm.create_model(f'local-dir:{tmp_path}', pretrained=True)):
        reinit_non_persistent_buffers(loaded)
        assert changed(loaded, before) == []
    with torch.device('meta'):
        loaded = timm.create_model(f'se_resnet50_{route}', num_classes=10, **NARROW)
    loaded.load_state_dict(before, assign=True)
    reinit_non_persistent_buffers(loaded)
    assert changed(loaded, before) == []


@pytest.mark.ecosystem
def test_reinit_after_transformers_and_accelerate(route, tmp_path):
    transformers, accelerate = pytest.importorskip('transformers'), pytest.importorskip('accelerate')
    model = trained(route, tmp_path)
    wrapper = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path)
    with accelerate.init_empty_weights():
        empty = timm.create_model(f'se_resnet50_{route}', num_classes=10, **NARROW)
    accelerate.load_checkpoint_and_dispatch(empty, str(tmp_path / 'model.safetensors'), device_map={'': 'cpu'})
    for loaded in (copy.deepcopy(wrapper.timm_model), copy.deepcopy(empty), wrapper.timm_model, empty):
        reinit_non_persistent_buffers(loaded)
        assert changed(loaded, model.state_dict()) == []


@pytest.mark.ecosystem
@pytest.mark.parametrize('auto', ['TimmWrapperForImageClassification', 'TimmWrapperModel'])
def test_transformers_on_plain_weights(route, plain, plain_file, images, tmp_path, auto):
    """It gives what a file lacks random weights. What it has had drawn is no longer fresh once it is trained."""
    transformers = pytest.importorskip('transformers')
    timm_se50.save_checkpoint(timm.create_model(f'se_resnet50_{route}', **NARROW), tmp_path)
    save_file(load_file(plain_file), tmp_path / 'model.safetensors', {'format': 'pt'})
    model = getattr(transformers, auto).from_pretrained(tmp_path).timm_model.eval()
    assert_neutral(model)
    assert torch.equal(model.forward_features(images), plain.forward_features(images))
    before = copy.deepcopy(shake_(model).state_dict())
    reinit_non_persistent_buffers(model)
    assert changed(model, before) == []


@pytest.mark.ecosystem
@pytest.mark.parametrize('mend', ['put SE in afterwards', 'reset_parameters'])
def test_a_transformers_class_of_the_users_own(route, plain, plain_weights, images, tmp_path, mend):
    """transformers gives each convolution that a file lacks random weights: what docs/ecosystem.md says mends it."""
    transformers = pytest.importorskip('transformers')

    class Classifier(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig
        with_se = False

        def __init__(self, config):
            super().__init__(config)
            self.net = timm.create_model('resnet50', **NARROW)
            if self.with_se:
                INSERT[route](self.net)
            self.post_init()

        def forward(self, x):
            return self.net(x)

    source = Classifier(transformers.PretrainedConfig())
    source.net.load_state_dict(plain_weights)
    source.save_pretrained(tmp_path)
    Classifier.with_se = mend == 'reset_parameters'
    model = Classifier.from_pretrained(tmp_path).eval()
    if mend == 'reset_parameters':
        assert not torch.equal(model(images), plain(images)), 'transformers leaves it alone now: say so in the docs'
        for module in model.modules():
            if isinstance(module, SEModule):
                module.reset_parameters()
    else:
        INSERT[route](model)
    assert torch.equal(model(images), plain(images))


def draws(model):
    return [se.fc1.weight.detach() for se in se_modules(model)]


def test_fc1_follows_the_users_seed(route):
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        found.append(draws(timm.create_model(f'se_resnet50_{route}', **SMALL)))
    assert all(map(torch.equal, found[0], found[2]))
    assert not any(map(torch.equal, found[0], found[1]))
    assert len({w.flatten()[0].item() for w in found[0]}) == len(found[0]), 'two blocks have the same numbers'


def test_a_process_that_sets_no_seed_gets_the_same_model():
    code = f'''
import timm
print(timm.create_model('se_resnet50_patch', **{SMALL}).layer4[0].se_standard.fc1.weight.sum().item())
'''
    first, second = (subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
                     for _ in range(2))
    assert float(first) == float(second) != 0


def test_copies_in_one_holder_stay_copies(insert_, plain):
    """Student and teacher: numbers are of the ResNet, not of all that holds it."""
    both = insert_(nn.ModuleDict({'student': plain, 'teacher': copy.deepcopy(plain)}))
    assert changed(both['student'], both['teacher'].state_dict()) == []


@pytest.mark.parametrize('make', [
    lambda route: timm.create_model(f'se_resnet50_{route}', **SMALL),
    lambda route: timm.create_model(f'se_resnet50_{route}', features_only=True, **SMALL),
    lambda route: INSERT[route](timm.create_model('resnet50', **SMALL)),
    lambda route: INSERT[route](nn.ModuleDict({'net': timm.create_model('resnet50', **SMALL)})),
], ids=['created', 'features_only', 'live', 'live in a holder'])
def test_fc2_is_not_decayed_where_timm_asks(route, make):
    model = make(route)
    optimizer = create_optimizer_v2(model, 'sgd', lr=0.1, weight_decay=0.1)
    assert_not_decayed(model, optimizer)


def assert_not_decayed(model, optimizer):
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert {decay[id(se.fc2.weight)] for se in se_modules(model)} == {0}
    assert {decay[id(se.fc1.weight)] for se in se_modules(model)} == {0.1}


def test_fc2_is_not_decayed_in_a_holder_of_a_created_model(route):
    """timm asks the model that it is given only, so docs/train.md has a line for a model of the user's own."""
    model = nn.ModuleDict({'net': timm.create_model(f'se_resnet50_{route}', **SMALL), 'head': nn.Linear(4, 4)})
    optimizer = create_optimizer_v2(timm_se50.param_groups(model, lr=0.1, weight_decay=0.1), 'sgd', lr=0.1)
    assert_not_decayed(model, optimizer)


def test_selective_activation_checkpointing(insert_, plain, images):
    """What convolutions give is kept, so nothing may change it in place."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    def keep(ctx, op, *args, **kwargs):
        kept = op == torch.ops.aten.convolution.default
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    model = insert_(plain).train()
    reference = copy.deepcopy(model)
    reference(images).square().sum().backward()
    checkpoint(model, images, use_reentrant=False,
               context_fn=lambda: create_selective_checkpoint_contexts(keep)).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
