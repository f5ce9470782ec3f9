"""The file that `hpo experiment new` writes."""

TEMPLATE = '''\
"""The experiment {name}: which of these models is better, each at its best?

    hpo experiment check {name}.py
    hpo run --experiment {name}.py --trials 40 --rounds 20
"""

import hpo
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def load():
    """x and y, all rows: hpo decides which of them train, validate and test.

    x may be an array, a dictionary of arrays, or a pandas data frame. Read and convert here; what is fitted to the data
    (a scaler, a selection of features) belongs into the trainings below, where it cannot see the test.
    For a CSV file leave this function out: data=hpo.rows("data.csv", target="COLUMN", test=0.3).
    """
    return load_wine(return_X_y=True)


# A training gets a run and returns what predicts. run.params has the hyperparameters, run.training the items to learn
# from, run.seed the seed. Whatever is random must come from it: rounds differ by their seeds.


def logistic(run):
    x, y = run.training
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **run.params)).fit(x, y)


def forest(run):
    x, y = run.training
    return RandomForestClassifier(random_state=run.seed, n_jobs=run.threads, **run.params).fit(x, y)


{variable} = hpo.Experiment(
    "{name}",
    data=hpo.rows(
        load,
        test=0.3,  # the share that nobody sees before the end; or a column that is true for the test rows
        # group="patient",       # rows that belong together are never parted
        # time="day", gap=30,    # the test is later than the training
    ),
    metrics=[hpo.accuracy, hpo.log_loss],  # the first one judges, the second one breaks ties
    models={{
        "logistic": hpo.Model(
            logistic,
            space={{"C": hpo.Float(1e-4, 1e4, log=True)}},  # what is tuned
            reference={{"C": 1.0}},  # what you would use without tuning: tested beside the winner
        ),
        "forest": hpo.Model(
            forest,
            space={{
                "n_estimators": hpo.Int(20, 300, log=True),
                "max_features": hpo.Choice("sqrt", "log2"),
                "min_samples_leaf": hpo.Int(1, 20),
            }},
            reference={{"n_estimators": 100, "max_features": "sqrt", "min_samples_leaf": 1}},
        ),
    }},
)
'''
