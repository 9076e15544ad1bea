"""What single operations of the training cost: one module a bench, each started by `scripts/bench.py NAME`."""
