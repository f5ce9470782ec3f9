"""A part of the training items held back, by which a training decides for itself when to stop."""

import numpy as np

from hpo.errors import ExperimentError
from hpo.experiment.items import DrawnRows, Items
from hpo.experiment.rows import latest, ranks, unit_strata


def split(items: Items, share: float, rng: np.random.Generator) -> tuple[Items, Items]:
    """The rest and about `share` of the items (n); ExperimentError where one of them would be empty.

    Rows in the order of a time: the latest of them, equal times together. Else whole units where items have one each,
    an equal share of each class where the items' draw keeps those.
    """
    if not 0 < share < 1:
        raise ExperimentError(f"early_stopping_split: share must be between 0 and 1, not {share!r}")
    time, stratum = (items.time, items.stratum) if isinstance(items, DrawnRows) else (None, None)
    if time is not None:
        held, _ = latest(time, share, 0)
    else:
        grouped = items.unit is not None and items.unit.ndim == 1
        place = np.unique(np.asarray(items.unit), return_inverse=True)[1] if grouped else None
        rank = ranks(unit_strata(stratum, place, len(items) if place is None else place.max() + 1), rng)
        held = rank < max(share, rank.min() + 1e-9)
        held = held if place is None else held[place]
    if held.all() or not held.any():
        raise ExperimentError(f"early_stopping_split: {len(items)} training items are too few to hold {share:g} back")
    return items.take(np.flatnonzero(~held)), items.take(np.flatnonzero(held))
