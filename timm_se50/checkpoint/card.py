"""The model card, README.md, from the template and the model's own card in hub_cards/."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from ..squeeze_excite import SEConfig
from .outline import OURS, PORTABLE

__all__ = ['CardConfig', 'cards_folder', 'origin', 'render_card']

# What follows it in a model's own card is about the architecture; a pushed card is about one model's weights.
_NOT_PUSHED = '<!-- not pushed -->'


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
        for name, kind in (('recipe', Mapping), ('results', (list, tuple)), ('datasets', (list, tuple))):
            if not isinstance(getattr(self, name), kind):
                expected = 'a mapping' if kind is Mapping else 'a list'
                raise ValueError(f'{name}={getattr(self, name)!r}: expected {expected}.')
        for i, result in enumerate(self.results):
            try:
                _eval_result(**result)
            except (AttributeError, TypeError, ValueError) as e:
                raise ValueError(f"results[{i}]={result!r}: expected 'dataset', 'metric', 'value' (a number), 'how' "
                                 f"(the command and conditions) and maybe 'split': {e}") from e


def cards_folder() -> Path:
    """hub_cards/: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / 'hub_cards'
    return installed if installed.is_dir() else package.parent / 'hub_cards'


def origin(pretrained_cfg: Mapping[str, Any], card: CardConfig) -> tuple[str | None, str | None]:
    """Hub id and license of the weights that a model started from, None where unknown."""
    base_model, license = card.base_model, None
    if base_model == 'auto':
        base_model, license = _stated_origin(pretrained_cfg)
    return base_model, license if card.license == 'auto' else card.license


def _stated_origin(cfg: Mapping[str, Any]) -> tuple[str | None, str | None]:
    architecture = cfg['architecture']
    tagged = get_arch_pretrained_cfgs(architecture).get(f'{architecture}.{cfg.get("tag")}', PretrainedCfg())
    base_model = (cfg.get('hf_hub_id') or '').partition('@')[0] or None  # without its revision
    if cfg.get('source') in ('local-dir', 'hf-hub'):  # which state what they were saved with
        return base_model or tagged.hf_hub_id, cfg.get('license')
    if cfg.get('file') or cfg.get('state_dict'):  # of any origin: nobody said that they are the tag's
        return None, None
    of_another = base_model != tagged.hf_hub_id and cfg.get('license') == tagged.license
    return base_model, None if of_another else cfg.get('license')


def render_card(config: Mapping[str, Any], network: str, se: SEConfig, card: CardConfig, source: str) -> str:
    """The card's text, metadata first.

    Args:
        config: The model's config.json.
        network: What it is, in words.
        source: The name that `timm.create_model()` is to load the model by.
    """
    folder, cfg = cards_folder(), config['pretrained_cfg']
    portable = config['architecture'] == PORTABLE
    own = ModelCard.load(folder / f'{OURS[0] if portable else config["architecture"]}.md')
    scheme, _, place = source.partition(':')
    name = place.rpartition('/')[2]
    data = ModelCardData(
        **own.data.to_dict(),
        base_model=cfg['hf_hub_id'],
        license=cfg['license'],
        datasets=list(card.datasets) or None,
        model_name=name if card.results else None,
        eval_results=[_eval_result(**result) for result in card.results] or None,
    )
    return str(ModelCard.from_template(
        data, str(folder / 'template.md'), name=name, description=own.text.partition(_NOT_PUSHED)[0].strip(),
        network=network, se=se, config=config, cfg=cfg, portable=portable, source=source, recipe=card.recipe,
        results=card.results, repo_id=place if scheme == 'hf-hub' else None))


def _eval_result(*, dataset: str, metric: str, value: float, how: str, split: str | None = None) -> EvalResult:
    """A result as the Hub has it, which has no place for `how`: that stands in the text."""
    if isinstance(value, bool) or not isinstance(value, Real) or not isinstance(how, str):
        raise TypeError(f'{value!r} is no number, or {how!r} no text')
    return EvalResult(
        task_type='image-classification',
        dataset_type=re.sub(r'[^\w./-]+', '-', dataset.lower()),
        dataset_name=dataset,
        dataset_split=split,
        metric_type=re.sub(r'[^\w./-]+', '-', metric.lower()),
        metric_name=metric,
        metric_value=float(value),
    )
