"""The table by operation: what each executor makes of TensorFlow's operations and Keras's layers.

cases, layers --sweep: real snapshots, real executors, rows that hurt--> what was seen --table--> operations.json,
                                                                                                  docs/executors.md
"""
