"""What is looked at in every confirmation beside the number: whether codes leak, and which parts are dead.

`leak` encodes queries in other company: a code must be the item's own. `dead` trains a little and names loss terms
that cannot move a code and parameters that never change. `idle_hyperparameters` names those without effect. All give
findings, one plain line each; an empty list is a passed audit.
"""

from cmh.audits.leaks import leak
from cmh.audits.parts import dead
from cmh.audits.tries import idle_hyperparameters

__all__ = ["dead", "idle_hyperparameters", "leak"]
