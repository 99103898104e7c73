"""Which way a model is run on a machine, and for which of its rows; decided before children are forked.

candidates --names--> benchmark (reference: calibration, generated_rows, edge_cases) --Trials--> choice --> ServingSpec
                      accuracy_gate, class_agreement, input_limits say whether, and for which rows, outputs agree
"""
