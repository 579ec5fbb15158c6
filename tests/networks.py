"""Networks that hold a ResNet, small and with the weights of none, for the tests of surgery on them.

What one computes of images alone, and what it loses on targets, is a flat list of tensors.
"""
import torch
from torch import nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.ops.misc import FrozenBatchNorm2d

SIZE = 64
# A random detector is sure of nothing: let it say what it thinks
DETECTOR = dict(num_classes=3, min_size=SIZE, max_size=SIZE)
RCNN = dict(DETECTOR, box_score_thresh=0.0, box_detections_per_img=5, rpn_post_nms_top_n_train=50,
            rpn_post_nms_top_n_test=50)
RETINANET = dict(DETECTOR, score_thresh=0.0, detections_per_img=5, topk_candidates=50)


class Siamese(nn.Module):
    """A user's module: two ResNets, one of timm's and one of torchvision's, the latter known by several names."""

    def __init__(self):
        super().__init__()
        import timm
        self.left = timm.create_model('resnet18', num_classes=4)
        self.right = models.resnet18(weights=None, num_classes=4)
        self.features = IntermediateLayerGetter(self.right, {'layer2': 'out'})
        self.blocks = nn.ModuleList(self.right.layer4)

    def forward(self, x):
        return [self.left(x) + self.right(x), self.features(x)['out']]


def frozen_mask_rcnn():
    """As torchvision's functions build it where weights are loaded: norms and the first stage are frozen."""
    backbone = resnet_fpn_backbone(backbone_name='resnet50', weights=None, norm_layer=FrozenBatchNorm2d,
                                   trainable_layers=3)
    return MaskRCNN(backbone, **RCNN)


def detr():
    import transformers
    config = transformers.DetrConfig(
        backbone='resnet50', use_timm_backbone=True, use_pretrained_backbone=False, encoder_layers=1,
        decoder_layers=1, num_queries=5, num_labels=3)
    return transformers.DetrForObjectDetection(config)


def smp_unet(encoder):
    import segmentation_models_pytorch
    return segmentation_models_pytorch.Unet(encoder, encoder_weights=None)


# Those of torchvision, which goes by the name, are not here
OTHERS = {
    'siamese': Siamese,
    'maskrcnn, frozen': frozen_mask_rcnn,
    'smp.Unet, resnet18': lambda: smp_unet('resnet18'),
    'smp.Unet, tu-resnet50': lambda: smp_unet('tu-resnet50'),
    'DETR': detr,
}


def of_torchvision(name):
    if 'rcnn' in name or 'retinanet' in name:
        settings = dict(RCNN if 'rcnn' in name else RETINANET, weights_backbone=None)
    elif 'deeplab' in name or 'fcn' in name:
        settings = dict(num_classes=4, weights_backbone=None, aux_loss=True)
    else:
        settings = dict(num_classes=4)
    return models.get_model(name, weights=None, **settings)


def settle_network_(model):
    """As `helpers.settle_`, for any network and its frozen norms, and without a batch."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if 'BatchNorm2d' in type(module).__name__:
            for name, low, high in (('weight', 0.3, 1.0), ('bias', -0.3, 0.3), ('running_mean', -0.3, 0.3),
                                    ('running_var', 0.8, 1.6)):
                getattr(module, name).data.uniform_(low, high, generator=generator)
    return model.eval()


def cut_(model):
    """Leave each ResNet of bottlenecks two blocks in the first stage and one in each other: all kinds that it has."""
    for name, stage in model.named_modules():
        if isinstance(stage, nn.Sequential) and 'Bottleneck' in type(stage[0]).__name__:
            del stage[2 if name.endswith('layer1') else 1:]
    return model


def make(name):
    torch.manual_seed(0)
    return settle_network_(cut_(OTHERS[name]() if name in OTHERS else of_torchvision(name)))


def images(n=2):
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def targets():
    """Two boxes for each image, and all else that a detector may want of them."""
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 16, 60, 60]])
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    masks[0, 4:40, 4:30] = masks[1, 16:60, 20:60] = 1
    keypoints = torch.ones(2, 17, 3) * 25
    return [dict(boxes=boxes, labels=torch.tensor([1, 2]), masks=masks, keypoints=keypoints) for _ in range(2)]


def tensors(output):
    """All tensors in what a network gives, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = [v for v in output.values() if v is not None] if isinstance(output, dict) else output
    return [t for value in values for t in tensors(value)]


def is_detector(model):
    return hasattr(model, 'transform')


def predict(model):
    """Features, boxes, scores, masks, maps, in eval mode."""
    with torch.no_grad():
        return tensors(model.eval()(list(images()) if is_detector(model) else images()))


def losses(model):
    """In training mode; what is drawn at random is the same each time."""
    torch.manual_seed(3)
    if is_detector(model):
        return tensors(model.train()(list(images()), targets()))
    if 'Detr' in type(model).__name__:
        labels = [dict(class_labels=t['labels'], boxes=t['boxes'] / SIZE) for t in targets()]
        return [model.train()(images(), labels=labels).loss]
    return [t.square().mean() for t in tensors(model.train()(images()))]


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    assert all(a.numel() and a.isfinite().all() for a in found)
    assert all(map(torch.equal, found, expected))
