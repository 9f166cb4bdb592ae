#!/usr/bin/env bash
# Guess: several processes may open one new storage at the same moment (create_study(storage=…, load_if_exists=True), the
#   documented way to share a study): one makes the tables, the others find them.
# What happens: tables and the row with their version are made without a lock. Two or three of four that start together
#   fail: "table studies already exists", "UNIQUE constraint failed: alembic_version.version_num". A moment later the same
#   call works. (PostgreSQL does the same in other words.)
# Version: optuna 5.0.0, SQLite, Linux.
# Hurts: job arrays whose jobs share one storage: on an idle cluster they start in the same second, and most are
#   lost, at the first start only. Open the storage once before, or try again.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v"
"$dir/v/bin/pip" install -q optuna==5.0.0 sqlalchemy==2.1.9
cd "$dir"
"$dir/v/bin/python" - <<'P'
import multiprocessing

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def user(barrier, said, url):
    barrier.wait()
    try:
        optuna.create_study(storage=url, study_name="shared", load_if_exists=True)
    except Exception as error:
        said.put(str(error).splitlines()[0])
    else:
        said.put("")


fork, failed = multiprocessing.get_context("fork"), []
for number in range(6):
    barrier, said, url = fork.Barrier(4), fork.Queue(), f"sqlite:///{number}.db"
    users = [fork.Process(target=user, args=(barrier, said, url)) for _ in range(4)]
    for one in users:
        one.start()
    answers = [said.get(timeout=120) for _ in users]
    for one in users:
        one.join()
    failed += filter(None, answers)
    optuna.create_study(storage=url, study_name="shared", load_if_exists=True)  # a moment later: no error
print(f"optuna {optuna.__version__}: of 24 first users, four at once, {len(failed)} failed:")
for line in sorted(set(failed)):
    print("  ", line)
assert len(failed) >= 3
P
