"""The largest numbers that a study and those who run it may ask for; loads nothing, so that the help can tell them."""

TRIALS = 100_000  # search trials of a study
COUNT = 10_000_000  # whatever else is counted: epochs, pairs, samples
ROUNDS = 1000  # of a configuration, in confirm or final
REPEATS = 1000  # of a search
SEED = 2**63 - 1
LANES = 4096  # of a population
WORKERS = 1024  # that one command starts
THREADS = 1024  # of a worker
SECONDS = 86_400.0  # of a lease, or between two checkpoints: a day
TRAINING_SECONDS = 30 * 86_400.0  # of one training: a month
FOLDS = 100
