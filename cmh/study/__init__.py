"""Studies: a search space, an Optuna storage that is the only truth, Ray workers, and the confirmed test."""
