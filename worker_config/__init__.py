"""What a worker is told: settings from the environment, Celery's settings, and the model-set manifest.

The lowest of the three packages: it imports neither `tasks` nor `producer`.
"""
