"""What travels between producer and worker, and what runs in a worker.

`celery -A tasks worker` starts one; `tasks.celery` holds the app. TensorFlow is imported when a worker starts,
not when this package is.
"""
