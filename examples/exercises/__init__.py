"""An exercise for each lesson, which judges itself.

    python -m examples.exercises        the list
    python -m examples.exercises 3      the task of lesson 3, and what is wrong with your answer
    make exercise N=3                   the same, with the setup

Each file has one blank, `...`, for your answer, and hints for wrong ones.
"""
