"""The main process of a worker: start, remote control, drain, shutdown, resize, reload, and the death of children."""
