"""Networks that hold a ResNet, small and with the weights of none, for the tests of surgery on them.

Each is made by a function; what it computes of images alone, and what it loses on targets, is a flat list of tensors.
"""
import torch
from torch import nn
from torchvision import models
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.ops.misc import FrozenBatchNorm2d

SIZE = 64
# A random detector is sure of nothing: let it say what it thinks
DETECTOR = dict(weights=None, weights_backbone=None, num_classes=3, min_size=SIZE, max_size=SIZE)
RCNN = dict(DETECTOR, box_score_thresh=0.0, box_detections_per_img=5, rpn_post_nms_top_n_train=50,
            rpn_post_nms_top_n_test=50)


class Siamese(nn.Module):
    """A user's module: two ResNets, one of timm's and one of torchvision's, the latter known by two names."""

    def __init__(self):
        super().__init__()
        import timm
        self.left = timm.create_model('resnet18', num_classes=4)
        self.right = models.resnet18(weights=None, num_classes=4)
        self.last = self.right.layer4
        self.blocks = nn.ModuleList(self.right.layer1)

    def forward(self, x):
        return self.left(x) + self.right(x)


def frozen_mask_rcnn():
    """As torchvision's functions build it where weights are loaded: norms and the first stage are frozen."""
    backbone = resnet_fpn_backbone(backbone_name='resnet50', weights=None, norm_layer=FrozenBatchNorm2d,
                                   trainable_layers=3)
    return MaskRCNN(backbone, **{k: v for k, v in RCNN.items() if 'weights' not in k})


def segmenter(make):
    return lambda: make(weights=None, weights_backbone=None, num_classes=4, aux_loss=True)


NETWORKS = {
    'resnet18': lambda: models.resnet18(weights=None, num_classes=4),
    'resnet50': lambda: models.resnet50(weights=None, num_classes=4),
    'siamese': Siamese,
    'fasterrcnn_resnet50_fpn': lambda: detection.fasterrcnn_resnet50_fpn(**RCNN),
    'maskrcnn_resnet50_fpn, frozen': frozen_mask_rcnn,
    'retinanet_resnet50_fpn': lambda: detection.retinanet_resnet50_fpn(
        **DETECTOR, score_thresh=0.0, detections_per_img=5, topk_candidates=50),
    'deeplabv3_resnet50': segmenter(segmentation.deeplabv3_resnet50),
}
MORE_NETWORKS = {
    'fasterrcnn_resnet50_fpn_v2': lambda: detection.fasterrcnn_resnet50_fpn_v2(**RCNN),
    'maskrcnn_resnet50_fpn': lambda: detection.maskrcnn_resnet50_fpn(**RCNN),
    'maskrcnn_resnet50_fpn_v2': lambda: detection.maskrcnn_resnet50_fpn_v2(**RCNN),
    'keypointrcnn_resnet50_fpn': lambda: detection.keypointrcnn_resnet50_fpn(**RCNN, num_keypoints=2),
    'retinanet_resnet50_fpn_v2': lambda: detection.retinanet_resnet50_fpn_v2(
        **DETECTOR, score_thresh=0.0, detections_per_img=5, topk_candidates=50),
    'fcn_resnet50': segmenter(segmentation.fcn_resnet50),
}
# The same classes as those above, with other blocks or more of them; the deepest keeps all that it has
DEEP_NETWORKS = {
    name: lambda name=name: getattr(models, name)(weights=None, num_classes=4) for name in (
        'resnet34', 'resnet101', 'resnet152', 'resnext50_32x4d', 'resnext101_32x8d', 'resnext101_64x4d',
        'wide_resnet50_2', 'wide_resnet101_2')
} | {
    'deeplabv3_resnet101': segmenter(segmentation.deeplabv3_resnet101),
    'fcn_resnet101': segmenter(segmentation.fcn_resnet101),
}


def detr():
    import transformers
    config = transformers.DetrConfig(
        backbone='resnet50', use_timm_backbone=True, use_pretrained_backbone=False, encoder_layers=1,
        decoder_layers=1, num_queries=5, num_labels=3)
    return transformers.DetrForObjectDetection(config)


def smp_unet(encoder):
    def make():
        import segmentation_models_pytorch
        return segmentation_models_pytorch.Unet(encoder, encoder_weights=None)
    return make


ECOSYSTEM_NETWORKS = {
    'smp.Unet, resnet18': smp_unet('resnet18'),
    'smp.Unet, resnet50': smp_unet('resnet50'),
    'smp.Unet, tu-resnet50': smp_unet('tu-resnet50'),
    'DETR': detr,
}


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
    model = (NETWORKS | MORE_NETWORKS | DEEP_NETWORKS | ECOSYSTEM_NETWORKS)[name]()
    return settle_network_(model if name == 'resnet152' else cut_(model))


def images(n=2):
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def targets():
    """Two boxes for each image, and all else that a detector may want of them."""
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 16, 60, 60]])
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
        mask[y0:y1, x0:x1] = 1
    keypoints = torch.cat([boxes.reshape(2, 2, 2), torch.ones(2, 2, 1)], dim=2)
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
