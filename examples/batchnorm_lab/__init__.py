"""The BatchNorm laboratory: each claim made for batch normalisation as an experiment of a minute.

    python -m examples.batchnorm_lab                     all experiments, and REPORT.md
    python -m examples.batchnorm_lab rates 4             some of them, by name or by number
    python -m examples.batchnorm_lab --quick             in seconds, for the test suite
    python -m examples.batchnorm_lab --dataset mnist5k   on other images
    python -m examples.batchnorm_lab --check rates       compare a new run with the published report
    python -m examples.batchnorm_lab --publish --redraw  judge and draw the published numbers anew

An experiment is one file: what is claimed and by whom, `run`, which measures, and `judge`, which
says what the numbers mean, by a rule that the report quotes. `lab.py` runs it, `train.py` trains
its nets, `report.py` draws and writes.
"""
