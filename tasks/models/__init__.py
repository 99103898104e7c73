"""Makes a model of the manifest ready to run.

path --versions--> file or folder --formats--> Program --(snapshot, executor)--> LoadedModel
"""
