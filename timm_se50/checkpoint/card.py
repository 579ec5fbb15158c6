"""The model card, README.md, from the template and the model's own card in hub_cards/."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import PretrainedCfg, get_pretrained_cfg

from ..squeeze_excite import SEConfig

__all__ = ['CardConfig', 'cards_folder', 'is_tag_of', 'origin', 'render_card']

# What follows it in a model's own card is about the architecture; a pushed card is about one model's weights.
_NOT_PUSHED = '<!-- not pushed -->'
_RESULT_KEYS = {'dataset', 'split', 'metric', 'value', 'how'}


@dataclass(frozen=True)
class CardConfig:
    """What a model card says beyond what the model itself tells; plain JSON.

    Args:
        base_model: Hub id of the model that the weights started from; 'auto' takes it from the pretrained tag that
            the model was made with, None is for a model trained from scratch or from a `checkpoint_path` (which the
            model cannot tell).
        license: Of the weights; 'auto' is that of the pretrained tag.
        recipe: How the model was trained, for example {'epochs': 30, 'optimizer': 'lamb'}.
        results: What was measured, each a mapping with 'dataset', 'metric', 'value', 'how' (the command and
            conditions that gave it) and, if it has a name, 'split'.
        datasets: Hub ids of the datasets trained on.

    Raises:
        ValueError: An argument is of another kind, or a result lacks one of these or has another; the message names it.
    """
    base_model: str | None = 'auto'
    license: str | None = 'auto'
    recipe: Mapping[str, Any] = field(default_factory=dict)
    results: Sequence[Mapping[str, Any]] = ()
    datasets: Sequence[str] = ()

    def __post_init__(self):
        for name, kind, expected in (
                ('recipe', Mapping, 'a mapping'), ('results', Sequence, 'a list'), ('datasets', Sequence, 'a list')):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, str):
                raise ValueError(f'{name}={value!r}: expected {expected}.')
        for i, result in enumerate(self.results):
            if not isinstance(result, Mapping):
                raise ValueError(f'results[{i}]={result!r}: expected a mapping.')
            wrong = sorted((_RESULT_KEYS - {'split'} - result.keys()) | (result.keys() - _RESULT_KEYS))
            if wrong:
                raise ValueError(f"results[{i}]: {', '.join(map(repr, wrong))} is missing or unknown; expected "
                                 "'dataset', 'metric', 'value', 'how' (how it was measured) and maybe 'split'.")
            for key, value in result.items():
                kind, expected = (Real, 'a number') if key == 'value' else (str, 'text')
                if isinstance(value, bool) or not (isinstance(value, kind) or (key == 'split' and value is None)):
                    raise ValueError(f'results[{i}]: {key!r} is {value!r}; expected {expected}.')


def cards_folder() -> Path:
    """hub_cards/: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / 'hub_cards'
    return installed if installed.is_dir() else package.parent / 'hub_cards'


def origin(pretrained_cfg: Mapping[str, Any], card: CardConfig) -> tuple[str | None, str | None, bool]:
    """Hub id and license of the weights that a model started from, None where unknown, and whether its tag says so."""
    base_model, license, of_tag = card.base_model, None, False
    if base_model == 'auto':
        base_model, license, of_tag = _stated_origin(pretrained_cfg)
    return base_model, license if card.license == 'auto' else card.license, of_tag


def _stated_origin(cfg: Mapping[str, Any]) -> tuple[str | None, str | None, bool]:
    tagged = _tagged(cfg)
    base_model = cfg.get('hf_hub_id') or (tagged.hf_hub_id if tagged else None)
    base_model = base_model.partition('@')[0] if base_model else None  # without its revision
    if cfg.get('source') not in ('local-dir', 'hf-hub'):  # which state what they were saved with
        default = get_pretrained_cfg(cfg['architecture']) if cfg.get('file') else None
        if cfg.get('file') and (not cfg.get('tag') or (default and default.tag == cfg['tag'])):
            return None, None, False  # a file of any origin: nobody named a tag
        if tagged and (cfg.get('state_dict') or cfg.get('url') != tagged.url):
            return None, None, False
        if tagged and base_model != tagged.hf_hub_id:
            license = cfg.get('license')
            return base_model, license if license != tagged.license else None, False
    return base_model, cfg.get('license'), base_model is not None


def _tagged(cfg: Mapping[str, Any]) -> PretrainedCfg | None:
    """What timm's registry has of the weights that a pretrained_cfg names by architecture and tag."""
    try:
        return get_pretrained_cfg(f'{cfg["architecture"]}.{cfg["tag"]}') if cfg.get('tag') else None
    except RuntimeError:  # not in the registry
        return None


def is_tag_of(config: Mapping[str, Any], base_model: str | None) -> bool:
    """Whether a config's tag names, for its architecture, the weights that a model started from."""
    tagged = _tagged({'architecture': config['architecture'], 'tag': config['pretrained_cfg'].get('tag')})
    return tagged is not None and tagged.hf_hub_id == base_model


def render_card(
        config: Mapping[str, Any],
        architecture: str,
        network: str,
        se: SEConfig,
        card: CardConfig,
        base_model: str | None,
        source: str,
) -> str:
    """The card's text, metadata first.

    Args:
        config: The model's config.json.
        architecture: Its name in this package.
        network: What it is, in words.
        se: Its SE settings.
        card: The rest.
        base_model: As `origin` has it.
        source: The name that `timm.create_model()` is to load the model by.
    """
    folder = cards_folder()
    own = ModelCard.load(folder / f'{architecture}.md')
    scheme, _, place = source.partition(':')
    name = place.rpartition('/')[2]
    license = config['pretrained_cfg'].get('license')
    data = ModelCardData(
        **own.data.to_dict(),
        base_model=base_model,
        license=license,
        datasets=list(card.datasets) or None,
        model_name=name if card.results else None,
        metrics=sorted({r['metric'] for r in card.results}) or None,
        eval_results=[_eval_result(r) for r in card.results] or None,
    )
    description = own.text.partition(_NOT_PUSHED)[0].strip()
    return str(ModelCard.from_template(
        data, str(folder / 'template.md'),
        name=name, description=description, architecture=architecture, network=network, se=se, config=config,
        portable=config['architecture'] != architecture, cfg=config['pretrained_cfg'], base_model=base_model,
        license=license, source=source, recipe=card.recipe, results=card.results,
        repo_id=place if scheme == 'hf-hub' else None))


def _eval_result(result: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type='image-classification',
        dataset_type=re.sub(r'[^\w./-]+', '-', result['dataset'].lower()),
        dataset_name=result['dataset'],
        dataset_split=result.get('split'),
        metric_type=re.sub(r'[^\w./-]+', '-', result['metric'].lower()),
        metric_name=result['metric'],
        metric_value=result['value'] if isinstance(result['value'], int) else float(result['value']),
    )
