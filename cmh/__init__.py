"""Cross-modal hashing: methods, metrics, protocol, and a study harness on Ray Tune and Optuna."""

__version__ = "0.1.0"
