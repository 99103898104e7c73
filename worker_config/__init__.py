"""What either side is told, settings, Celery's settings and the model-set manifest, and what both need of the system.

The lowest of the three packages: it imports neither `tasks` nor `producer`.
"""
