"""Cross-modal hashing: methods, metrics, protocol, and a study harness on Ray Tune and Optuna."""

from cmh import machine

__version__ = "0.1.0"

machine.settle()  # here, as numba, torch and Ray read it when they are imported
