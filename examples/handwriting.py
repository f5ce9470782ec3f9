"""A convolutional network on the 1,797 digits of 8x8 pixels that come with scikit-learn.

What to look at: epochs and reports, batch normalisation, two optimizers of which one has a parameter more, a schedule,
and stopping early by items of the training set, for those that judge are never handed to it.

    hpo experiment check examples/handwriting.py
    hpo run --experiment examples/handwriting.py --trials 30 --rounds 10 --epochs 20
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

import hpo

PATIENCE = 5  # epochs without a better loss on the items that were held back


def load():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32").reshape(-1, 1, 8, 8), y  # the pixels are 0 to 16


class Net(nn.Module):
    """Two convolutions with batch normalisation, a pooling, a hidden layer."""

    def __init__(self, channels, hidden, dropout):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)
        )

    def forward(self, x):
        return self.head(self.convolutions(x))


def tensors(items, device):
    return torch.as_tensor(items.x, device=device), torch.as_tensor(items.y, device=device)


def network(run):
    p = run.params
    training, held = run.early_stopping_split(0.15)
    (x, y), (held_x, held_y) = tensors(training, run.device), tensors(held, run.device)
    net = Net(p["channels"], p["hidden"], p["dropout"]).to(run.device)
    optimizer = (
        torch.optim.SGD(net.parameters(), p["rate"], momentum=p["momentum"], nesterov=True)
        if p["optimizer"] == "sgd"
        else torch.optim.AdamW(net.parameters(), p["rate"])
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.max_epochs)
    best, best_loss, best_epoch = None, float("inf"), 0
    for epoch in run.epochs():
        net.train()
        order = torch.as_tensor(run.rng("order").permutation(len(x)), device=run.device)
        for batch in order.split(p["batch"]):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        schedule.step()
        net.eval()
        with torch.no_grad():
            held_loss = nn.functional.cross_entropy(net(held_x), held_y).item()
        if held_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(net), held_loss, epoch
        run.report(best, loss=loss.item(), held_loss=held_loss)
        if epoch - best_epoch >= PATIENCE:
            break
    if best is None:
        raise hpo.Diverged("the loss is not a number")
    return best


handwriting = hpo.Experiment(
    "handwriting",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.accuracy, hpo.cross_entropy],
    models={
        "network": hpo.Model(
            network,
            space={
                "channels": hpo.Int(4, 32, log=True),
                "hidden": hpo.Int(16, 128, log=True),
                "dropout": hpo.Float(0.0, 0.6),
                "batch": hpo.Choice(32, 64, 128),
                "rate": hpo.Float(1e-4, 0.3, log=True),
                "optimizer": hpo.Choice("sgd", "adamw"),
                "momentum": hpo.Float(0.0, 0.99, when={"optimizer": "sgd"}),
            },
            reference={
                "channels": 16,
                "hidden": 64,
                "dropout": 0.2,
                "batch": 64,
                "rate": 1e-3,
                "optimizer": "adamw",
            },
        ),
    },
    defaults={"budget": {"epochs": 20}},
)
