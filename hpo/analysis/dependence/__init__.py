"""Do the hyperparameters depend on each other? A surrogate of the random trials, and what it says."""
