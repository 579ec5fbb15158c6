"""What is random beside a file follows the seed, and uses none of its numbers up."""
import pytest
import timm
import torch
from helpers import NARROW, changed
from timm.models import load_checkpoint

import timm_se50
from timm_se50 import SEConfig


@pytest.mark.parametrize('way', ['created', 'load_checkpoint', 'load_state_dict'])
def test_at_the_same_seed(create, plain_file, plain_weights, insert_, way):
    """The same file and seed give the same model: made from the file, loaded with it, or a live one."""
    torch.manual_seed(3)
    model = create('replace') if way == 'created' else timm.create_model('se_resnet50_patch', **NARROW)
    if way == 'load_checkpoint':
        load_checkpoint(model, str(plain_file))
    elif way == 'load_state_dict':
        model.load_state_dict(plain_weights)
    plain = timm.create_model('resnet50', **NARROW)
    plain.load_state_dict(plain_weights)
    torch.manual_seed(3)
    assert changed(insert_(plain), model.state_dict()) == []


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64], ids=str)
def test_in_any_dtype_it_is_the_same_rounded(route, dtype):
    one, other = (timm.create_model(f'se_resnet50_{route}', dtype=d, **NARROW) for d in (torch.float32, dtype))
    for p, q in zip(timm_se50.se_parameters(one), timm_se50.se_parameters(other), strict=True):
        assert torch.equal(p.to(dtype), q)


def test_surgery_draws_no_global_number(insert_, plain):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    insert_(plain, SEConfig())
    assert torch.equal(torch.rand(1), expected)


def test_a_new_head_is_timms_own(create, plain_file, route):
    """What is drawn beside SE is what timm's resnet50 draws."""
    torch.manual_seed(0)
    head = create(route, num_classes=500).fc.weight
    torch.manual_seed(0)
    overlay = dict(file=str(plain_file))
    plain = timm.create_model('resnet50', pretrained=True, pretrained_cfg_overlay=overlay, num_classes=500, **NARROW)
    assert torch.equal(head, plain.fc.weight)


@pytest.mark.ecosystem
@pytest.mark.filterwarnings('ignore:.*torchao.*', 'ignore::DeprecationWarning')
def test_lora_adapters_of_fc1_and_fc2_reload_exactly(create, route, images, tmp_path):
    """The adapters alone are saved; the base is made anew from the file of the plain network."""
    peft = pytest.importorskip('peft')
    config = peft.LoraConfig(r=4, target_modules=['fc1', 'fc2'])
    torch.manual_seed(0)
    model = peft.get_peft_model(create(route), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    expected = model.eval()(images)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = peft.PeftModel.from_pretrained(create(route), tmp_path).eval()
    assert torch.equal(again(images), expected)
