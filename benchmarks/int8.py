"""int8 by NNCF in OpenVINO, of a model and of its inference form: accuracy on scikit-learn's digits, and speed.

    pip install '.[demo,openvino]' nncf && python benchmarks/int8.py

A se_resnet50_replace is trained on the digits, 32 px, converted, and quantized with 300 training images to set the
ranges; accuracy is that of the held-out ones. Speed is at 224 px, the median over rounds of the ratio to the model in
float32 within the round. Writes results/int8.json; with `--work FOLDER` that has the models, it times them only.
"""
import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import nncf
import openvino
import timm
import torch
from common import RESULTS, update_json
from timing import interleave, median_ratio, openvino_settings
from torch import Tensor, nn
from torch.export import Dim

from timm_se50.cli.digits import accuracy, load_digits, train

RANGES = 300  # images


def make(folder: Path, epochs: int) -> dict[str, dict[str, float]]:
    """Write the models into a folder in OpenVINO's format; returns the held-out accuracy of each, by name."""
    digits = load_digits(0)
    torch.manual_seed(0)
    model = timm.create_model('se_resnet50_replace', num_classes=10)
    train(model, digits, epochs, 0.05, 0, 'se_resnet50')
    images = nncf.Dataset(list(digits['x_train'][:RANGES].split(1)), lambda x: x.numpy())
    rows = {}
    for name, form in (('se_resnet50', model.eval()), ('its inference form', timm.models.reparameterize_model(model))):
        plain = _convert(form, digits['x_test'][:2])
        for key, network in ((name, plain), (f'{name}, int8', nncf.quantize(plain, images, subset_size=RANGES))):
            openvino.save_model(network, folder / f'{key}.xml', compress_to_fp16=False)
            run = openvino.compile_model(network, 'CPU', openvino_settings())
            out = torch.cat([torch.from_numpy(run(x.numpy())[0].copy()) for x in digits['x_test'].split(90)])
            rows[key] = {'accuracy': accuracy(out, digits['y_test'])}
    return rows


@torch.no_grad()
def _convert(model: nn.Module, x: Tensor) -> openvino.Model:
    sizes = ({0: Dim.DYNAMIC, 2: Dim.AUTO, 3: Dim.AUTO},)
    return openvino.convert_model(torch.export.export(model, (x,), dynamic_shapes=sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--rounds', type=int, default=45, help='with one image; a third of it with eight')
    parser.add_argument('--work', type=Path, default=Path('build/int8'))
    parser.add_argument('--out', type=Path, default=RESULTS)
    args = parser.parse_args()

    known = args.work / 'accuracy.json'
    if not known.exists():
        args.work.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(make(args.work, args.epochs)))
    rows = json.loads(known.read_text())
    compiled = {
        name: openvino.compile_model(args.work / f'{name}.xml', 'CPU', openvino_settings()) for name in rows}
    for n, rounds in ((1, args.rounds), (8, args.rounds // 3)):
        x = torch.randn(n, 3, 224, 224).numpy()
        times = interleave({name: partial(network, x) for name, network in compiled.items()}, rounds)
        for name, seconds in times.items():
            rows[name][f'ms, batch {n}'] = 1e3 * statistics.median(seconds)
            rows[name][f'speed, batch {n}'] = median_ratio(times['se_resnet50'], seconds)
    print(json.dumps(update_json(args.out / 'int8.json', 'int8', {'epochs': args.epochs, 'rows': rows}), indent=1))


if __name__ == '__main__':
    main()
