"""Training with memory_efficient=True comes out where training without does."""
import pytest
import timm
import torch
from sklearn.datasets import load_digits

import timm_se50  # noqa: F401

STEPS, BATCH = 100, 16


def final_loss(seed, **kwargs):
    """Mean loss of the last 50 steps on digits, 8x8 pixels each made 3x3."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None].div(16)
    images = torch.nn.functional.interpolate(images, scale_factor=3)
    targets = torch.tensor(digits.target)
    torch.manual_seed(seed)
    # thin, with the three kinds of memory-efficient functions
    model = timm.create_model(
        'se_resnet50_replace', layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), in_chans=1, num_classes=10,
        **kwargs).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(STEPS):
        index = torch.randint(len(images), (BATCH,))
        loss = torch.nn.functional.cross_entropy(model(images[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > 2  # it starts at chance
    return sum(losses[-50:]) / 50


@pytest.mark.thorough
def test_100_steps_on_digits_end_within_the_spread_of_seeds():
    plain = [final_loss(seed) for seed in range(4)]
    efficient = final_loss(0, memory_efficient=True)
    spread = max(plain) - min(plain)
    assert max(plain) < 1  # it learns
    assert min(plain) - spread <= efficient <= max(plain) + spread, (plain, efficient)
