"""Which small model predicts Python's standard library best, character by character? Perplexity on unseen modules.

The text comes with Python: pieces of its modules, split by module, so that no model is tested on the rest of a file
that it has trained on. Another version of Python has other text, and so other data: workers must have the same one.

    hpo experiment check examples/language.py
    hpo run --experiment examples/language.py --trials 30 --rounds 10 --epochs 5
"""

import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hpo

LENGTH = 256  # characters of a piece
PIECES = 12  # of a module, at most
ALPHABET = 97  # a beginning, a line end, and the 95 printable characters of ASCII; all others become '?'
SHORTEST = 2 * LENGTH  # of a module


def encoded(text):
    """Characters as 1 to 96; 0 stands before the beginning of a piece."""
    codes = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)
    return np.where(codes == 10, 1, np.where((codes >= 32) & (codes < 127), codes - 30, ord("?") - 30)).astype(np.uint8)


def load():
    """Pieces of the modules (n, LENGTH) with their modules' names; the metric needs no targets but the text itself."""
    pieces, modules = [], []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = encoded(path.read_text(encoding="utf-8"))
        if len(text) < SHORTEST:
            continue
        starts = np.linspace(0, len(text) - LENGTH, min(PIECES, len(text) // LENGTH)).astype(int)
        pieces += [text[start : start + LENGTH] for start in starts]
        modules += [path.stem] * len(starts)
    x = {"text": np.array(pieces), "module": np.array(modules)}
    return x, np.full(len(pieces), LENGTH)


def contexts(text, size):
    """(n, LENGTH, size) the characters before each one, zeros before the beginning."""
    padded = np.pad(text, ((0, 0), (size, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded[:, :-1], size, axis=1)


# --- Counting ---------------------------------------------------------------------------------------------------


class Ngrams:
    """Counts of what follows 0 to `order` - 1 characters; each order leans on the one below it."""

    def __init__(self, text, order, strength):
        self.order, self.strength = order, strength
        self.counts = [self._counted(text, size) for size in range(order)]

    @staticmethod
    def _keys(text, size):
        """One number for a context, and one for it with the character that follows."""
        context = np.zeros(text.shape, dtype=np.int64)
        for place in range(size):
            context = context * ALPHABET + contexts(text, size)[:, :, place]
        return context, context * ALPHABET + text

    def _counted(self, text, size):
        return [np.unique(keys, return_counts=True) for keys in self._keys(text, size)]

    def probabilities(self, text):
        """(n, LENGTH) of each character, given those before it."""
        p = np.full(text.shape, 1 / ALPHABET)
        for size in range(self.order):
            seen, followed = (
                self._count(table, keys) for table, keys in zip(self.counts[size], self._keys(text, size), strict=True)
            )
            p = (followed + self.strength * p) / (seen + self.strength)
        return p

    @staticmethod
    def _count(table, keys):
        known, counts = table
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[place] == keys, counts[place], 0)


def ngrams(run):
    return Ngrams(run.training.x["text"], run.params["order"], run.params["strength"])


def nats_of_ngrams(model, x):
    """(n, 2) nats and characters of each piece, as the perplexity wants them."""
    nats = -np.log(model.probabilities(x["text"])).sum(1)
    return np.stack([nats, np.full(len(nats), LENGTH)], 1)


# --- A network ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """The characters before, each as a vector, through one hidden layer (Bengio et al., 2003)."""

    def __init__(self, size, vector, hidden, dropout):
        super().__init__()
        self.size = size
        self.vectors = nn.Embedding(ALPHABET, vector)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(size * vector, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, ALPHABET)
        )

    def forward(self, characters):
        return self.layers(self.vectors(characters))


def network(run):
    p, text = run.params, run.training.x["text"]
    net = Net(p["size"], p["vector"], p["hidden"], p["dropout"]).to(run.device)
    optimizer = torch.optim.AdamW(net.parameters(), p["rate"])
    before = torch.as_tensor(contexts(text, p["size"]).reshape(-1, p["size"]).astype(np.int64))
    following = torch.as_tensor(text.reshape(-1).astype(np.int64))
    for _ in run.epochs():
        net.train()
        order = torch.as_tensor(run.rng("order").permutation(len(following)))
        for batch in order.split(p["batch"]):
            optimizer.zero_grad()
            out = net(before[batch].to(run.device))
            loss = nn.functional.cross_entropy(out, following[batch].to(run.device))
            loss.backward()
            optimizer.step()
        run.report(net, loss=loss.item())
    return net


def nats_of_network(net, x):
    text = torch.as_tensor(np.asarray(x["text"]).astype(np.int64))
    before = torch.as_tensor(contexts(np.asarray(x["text"]), net.size).astype(np.int64))
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    with torch.no_grad():
        nats = [
            nn.functional.cross_entropy(net(b.to(device)), t.to(device), reduction="sum").item()
            for b, t in zip(before, text, strict=True)
        ]
    net.train(training)
    return np.stack([nats, np.full(len(nats), LENGTH)], 1)


language = hpo.Experiment(
    "language",
    data=hpo.rows(load, test=0.3, group="module", stratify=False),
    metrics=[hpo.perplexity.but(unit="per character")],
    models={
        "ngrams": hpo.Model(
            ngrams,
            space={"order": hpo.Int(1, 8), "strength": hpo.Float(0.1, 100.0, log=True)},
            reference={"order": 3, "strength": 1.0},
            predict=nats_of_ngrams,
        ),
        "network": hpo.Model(
            network,
            space={
                "size": hpo.Int(2, 12),
                "vector": hpo.Choice(8, 16, 32),
                "hidden": hpo.Int(32, 256, log=True),
                "dropout": hpo.Float(0.0, 0.5),
                "batch": hpo.Choice(256, 512, 1024),
                "rate": hpo.Float(1e-4, 1e-1, log=True),
            },
            reference={"size": 6, "vector": 16, "hidden": 128, "dropout": 0.0, "batch": 512, "rate": 3e-3},
            predict=nats_of_network,
        ),
    },
    defaults={"budget": {"epochs": 5}},
)
