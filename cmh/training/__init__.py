"""The one training loop: seed, build, train, validate, checkpoint, report. It knows no method.

The same seed gives the same curve: weights are drawn after seeding, the order of items depends on (seed, epoch,
pass) alone, and the global generator (dropout) is seeded anew at each epoch. So a run that goes on from a
checkpoint, or in a worker that has run other trials, repeats what an uninterrupted one does.
"""

from cmh.interfaces import Batch, Setup
from cmh.training.device import describe, prepare, release, threads
from cmh.training.evaluation import Tested, chance, score
from cmh.training.fitting import Epoch, Fitted, Report, build, fit, test, trained_on
from cmh.training.identify import identify
from cmh.training.run import NOT_SETTINGS, ONLY_FINETUNE, Run, load, n_epochs, parse, read, settings_of
from cmh.training.trainable import failure, train

__all__ = [
    "NOT_SETTINGS",
    "ONLY_FINETUNE",
    "Batch",
    "Epoch",
    "Fitted",
    "Report",
    "Run",
    "Setup",
    "Tested",
    "build",
    "chance",
    "describe",
    "failure",
    "fit",
    "identify",
    "load",
    "n_epochs",
    "parse",
    "prepare",
    "read",
    "release",
    "score",
    "settings_of",
    "test",
    "threads",
    "train",
    "trained_on",
]
