"""This package makes a model of the manifest ready to run.

path --versions--> file or folder --formats--> Program --(snapshot, executor)--> LoadedModel
"""

from tasks.models.loaded import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
