"""Files of an output from the parts that workers have left: a job of its own, on the same workers."""
