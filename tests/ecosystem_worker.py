"""What each process of test_ecosystem.py runs: a library that builds on timm, which finds a model by its name alone.

The Hugging Face cache holds a plain ResNet-50 under timm's default tag. From it, `pretrained=True` has to give a model
that computes, bit for bit, what the library's own resnet50 computes.
"""
import sys

import torch
from torch import nn


def images(n=2, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def se_weights(model):
    return {name: p for name, p in model.named_parameters() if '.se_standard.fc2.weight' in name}


def check_equal(model, plain, forward):
    with torch.no_grad():
        ours, theirs = forward(model.eval()), forward(plain.eval())
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert len(se_weights(model)) == 16
    assert not se_weights(plain)


def check_trains(model, loss):
    loss(model.train()).backward()
    assert all(p.grad.any() for p in se_weights(model).values())


def smp(name):
    import segmentation_models_pytorch as smp

    def make(name, **kwargs):
        return smp.create_model(encoder_name=f'tu-{name}', encoder_weights=True, classes=3, **kwargs)
    for arch, stride in (('unet', 32), ('deeplabv3plus', 16), ('deeplabv3', 8)):
        kwargs = {'arch': arch} if stride == 32 else {'arch': arch, 'encoder_output_stride': stride}
        model = make(name, **kwargs)
        check_equal(model, make('resnet50', **kwargs), lambda m: m.encoder(images()))
        assert model.encoder(images())[-1].shape[-1] == 64 // stride
        check_trains(model, lambda m: m(images()).square().mean())
    ours, theirs = (smp.encoders.get_preprocessing_params(f'tu-{n}') for n in (name, 'resnet50'))
    assert ours == theirs


def transformers_backbone(name):
    from transformers import TimmBackbone

    def make(name):
        return TimmBackbone.from_pretrained(name, out_indices=(1, 2, 3, 4))
    model = make(name)
    check_equal(model, make('resnet50'), lambda m: m(images()).feature_maps)
    assert model.channels == [256, 512, 1024, 2048]
    check_trains(model, lambda m: m(images()).feature_maps[-1].square().mean())


def fastai(name):
    from fastai.vision.all import ImageDataLoaders, accuracy, vision_learner
    loaders = ImageDataLoaders.from_folder('data', train='train', valid='validation', bs=10, num_workers=0)

    def make(name):
        return vision_learner(loaders, name, metrics=accuracy)
    learner = make(name)
    check_equal(learner.model[0], make('resnet50').model[0], lambda m: [m(images())])
    learner.unfreeze()
    learner.fit(1, 1e-3)
    assert all(p.any() for p in se_weights(learner.model).values())  # they were zero
    assert len(learner.recorder.values) == 1


def lightning(name):
    import lightning
    import timm

    class Classifier(lightning.LightningModule):
        def __init__(self, name):
            super().__init__()
            self.save_hyperparameters()
            self.model = timm.create_model(name, pretrained=True, num_classes=5)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    data = torch.utils.data.TensorDataset(images(8), torch.arange(8) % 5)
    trainer = lightning.Trainer(
        accelerator='cpu', max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
    model = Classifier(name)
    check_equal(model.model, timm.create_model('resnet50', pretrained=True), lambda m: m.forward_features(images()))
    trainer.fit(model.train(), torch.utils.data.DataLoader(data, batch_size=4))
    assert trainer.global_step == 2
    assert all(p.any() for p in se_weights(model).values())

    trainer.save_checkpoint('lightning.ckpt')
    loaded = Classifier.load_from_checkpoint('lightning.ckpt', weights_only=True).state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in model.state_dict().items())


if __name__ == '__main__':
    library, name = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    globals()[library](name)
    assert 'timm_se50' in sys.modules  # timm has imported it
