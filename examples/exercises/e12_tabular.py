"""Exercise 12: standardise without looking at the test.

Before a table goes into a net, each column is shifted and scaled to mean 0 and standard deviation 1
(the square root of the mean square). Three things go wrong again and again: statistics of the test
rows leak into training, a constant column is divided by zero, and rows and columns are confused.
Write mean and deviation; a column that is constant in training should become 0 there.
"""

import numpy as np

from .judge import compare


def standardise(train, test):
    """Both tables, (rows, columns), shifted and scaled alike."""
    mean, deviation = ...
    return (train - mean) / deviation, (test - mean) / deviation


def judge():
    random = np.random.default_rng(0)
    train, test = random.normal(3, 5, (8, 3)), random.normal(6, 2, (5, 3))
    train[:, 1], test[:, 1] = 7.0, 9.0

    def scaled(rows, ddof=0):
        mean, spread = rows.mean(axis=0), rows.std(axis=0, ddof=ddof)
        return [(table - mean) / np.maximum(spread, 1e-300) for table in (train, test)]

    whole = np.concatenate([train, test])
    yours = standardise(train, test)
    columns = [0, 2]
    hints = {
        "those statistics are of all rows; only training rows are known in training": whole,
        "those statistics are of the test rows": test,
    }
    for name, ours, right, k in zip(
        ("Training", "Test"), yours, scaled(train), (0, 1), strict=True
    ):
        wrong = {hint: scaled(rows)[k][:, columns] for hint, rows in hints.items()}
        wrong["the deviation divides by n - 1"] = scaled(train, ddof=1)[k][:, columns]
        ours = np.asarray(ours)
        ours = ours[:, columns] if ours.shape == right.shape else ours
        compare(f"{name} rows, columns 0 and 2", ours, right[:, columns], wrong)
    compare("The constant column in training", yours[0][:, 1], np.zeros(8))
    if not np.isfinite(yours[1]).all():
        compare("The constant column in the test", yours[1][:, 1], yours[1][:, 1] * 0)
    return "No leak, no division by zero."
