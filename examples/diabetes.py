"""How well can the progression of diabetes be predicted from ten measurements? 442 patients.

Little is to be gained over a plain ridge regression, and a report must be able to say so.

    hpo experiment check examples/diabetes.py
    hpo run --experiment examples/diabetes.py --trials 40 --rounds 20
"""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Lasso, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import hpo


def load():
    """As measured: what scikit-learn gives by default was scaled with all rows, the test among them."""
    return load_diabetes(return_X_y=True, scaled=False)


def ridge(run):
    x, y = run.training
    return make_pipeline(StandardScaler(), Ridge(**run.params)).fit(x, y)


def lasso(run):
    """With products of the measurements among the inputs, where `interactions` says so."""
    x, y = run.training
    products = PolynomialFeatures(2 if run.params["interactions"] else 1, interaction_only=True, include_bias=False)
    return make_pipeline(products, StandardScaler(), Lasso(run.params["alpha"], max_iter=20_000)).fit(x, y)


def trees(run):
    x, y = run.training
    return GradientBoostingRegressor(random_state=run.seed, **run.params).fit(x, y)


def mean(run):
    """What everything must beat."""
    typical = run.training.y.mean()
    return lambda x: np.full(len(x), typical)


diabetes = hpo.Experiment(
    "diabetes",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.rmse.but(unit="points", margin=1.0), hpo.mae.but(unit="points")],
    models={
        "ridge": hpo.Model(
            ridge,
            space={"alpha": hpo.Float(1e-3, 1e4, log=True)},
            reference={"alpha": 10.0},
            label="default",
        ),
        "lasso": hpo.Model(
            lasso,
            space={"alpha": hpo.Float(1e-2, 30.0, log=True), "interactions": hpo.Choice(False, True)},
            reference={"alpha": 1.0, "interactions": False},
            label="default",
        ),
        "trees": hpo.Model(
            trees,
            space={
                "n_estimators": hpo.Int(20, 500, log=True),
                "learning_rate": hpo.Float(1e-3, 0.5, log=True),
                "max_depth": hpo.Int(1, 6),
                "subsample": hpo.Float(0.3, 1.0),
                "loss": hpo.Choice("squared_error", "huber"),
                "alpha": hpo.Float(0.5, 0.99, when={"loss": "huber"}),
            },
            reference={
                "n_estimators": 100,
                "learning_rate": 0.1,
                "max_depth": 3,
                "subsample": 1.0,
                "loss": "squared_error",
            },
            label="default",
        ),
        "mean": hpo.Model(mean),
    },
)
