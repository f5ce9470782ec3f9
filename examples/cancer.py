"""Which classifier tells malignant from benign tumours best, each at its best? 569 patients, 30 numbers of each.

hpo experiment check examples/cancer.py
hpo run --experiment examples/cancer.py --trials 40 --rounds 20
"""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import hpo


def logistic(run):
    x, y = run.training
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **run.params)).fit(x, y)


def forest(run):
    x, y = run.training
    return RandomForestClassifier(random_state=run.seed, n_jobs=run.threads, **run.params).fit(x, y)


def boosting(run):
    x, y = run.training
    return HistGradientBoostingClassifier(random_state=run.seed, early_stopping=False, **run.params).fit(x, y)


def svm(run):
    x, y = run.training
    return make_pipeline(StandardScaler(), SVC(random_state=run.seed, **run.params)).fit(x, y)


cancer = hpo.Experiment(
    "cancer",
    data=hpo.rows(lambda: load_breast_cancer(return_X_y=True), test=0.3),
    metrics=[hpo.accuracy, hpo.log_loss, hpo.auc],  # log loss and AUC stay blank for the svm: it gives labels alone
    models={
        "logistic": hpo.Model(
            logistic,
            space={"C": hpo.Float(1e-4, 1e4, log=True)},
            reference={"C": 1.0},
        ),
        "forest": hpo.Model(
            forest,
            space={
                "n_estimators": hpo.Int(20, 500, log=True),
                "max_features": hpo.Float(0.05, 1.0),
                "min_samples_leaf": hpo.Int(1, 20),
                "criterion": hpo.Choice("gini", "entropy"),
            },
            reference={"n_estimators": 100, "max_features": 0.2, "min_samples_leaf": 1, "criterion": "gini"},
        ),
        "boosting": hpo.Model(
            boosting,
            space={
                "learning_rate": hpo.Float(1e-3, 1.0, log=True),
                "max_iter": hpo.Int(10, 200, log=True),
                "max_leaf_nodes": hpo.Int(3, 63),
                "l2_regularization": hpo.Float(1e-6, 10.0, log=True),
            },
            reference={"learning_rate": 0.1, "max_iter": 100, "max_leaf_nodes": 31, "l2_regularization": 1e-6},
        ),
        "svm": hpo.Model(
            svm,
            space={
                "C": hpo.Float(1e-3, 1e3, log=True),
                "kernel": hpo.Choice("linear", "rbf", "poly"),
                "gamma": hpo.Float(1e-4, 10.0, log=True, when={"kernel": ("rbf", "poly")}),
                "degree": hpo.Int(2, 5, when={"kernel": "poly"}),
            },
            reference={"C": 1.0, "kernel": "rbf", "gamma": 0.03},
        ),
    },
)
