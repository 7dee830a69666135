"""Take nodes, actors, training workers and the driver away from runs, and hold what comes out against undisturbed ones.

python -m benchmarks.kills
"""
