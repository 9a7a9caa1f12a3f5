"""Few-shot text classification: `clozeline.fit(train, unlabeled).predict(texts)`."""

from pipelines.api import Classifier, ClusterError, InputError, RunFailedError, fit, init, load, run, select

__all__ = ["Classifier", "ClusterError", "InputError", "RunFailedError", "fit", "init", "load", "run", "select"]
