"""`llm-scheduler simulate-node`: the command of `scheduler.simulation`, as the command group mounts it."""

from scheduler.simulation.command import simulate_node

__all__ = ["simulate_node"]
