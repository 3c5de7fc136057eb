"""scikit-learn estimators that train small nets: `NetClassifier` and `NetRegressor`.

They need scikit-learn 1.6 or later, `pip install 'minigrad-cython[sklearn]'`, and are not imported
by `import minigrad`. They use its public interface alone, and work where its own estimators do:
pipelines, searches, cross-validation, calibration, inspection, joblib.

>>> from minigrad.estimators import NetClassifier
>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> NetClassifier(random_state=0).fit(X, y).score(X, y) > 0.95
True
"""

try:
    from .net import NetClassifier, NetRegressor
except ImportError as _error:
    if not (_error.name or "").startswith("sklearn"):
        raise
    raise ImportError(
        "minigrad.estimators needs scikit-learn 1.6 or later: "
        "pip install 'minigrad-cython[sklearn]'",
        name="sklearn",
    ) from _error

__all__ = ["NetClassifier", "NetRegressor"]
