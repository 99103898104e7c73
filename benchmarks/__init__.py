"""How fast and how small is it? One file per question; `python -m benchmarks [--quick]` asks all of them."""
