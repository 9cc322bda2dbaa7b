"""`python -m scheduler.simulation` is `llm-scheduler simulate-node` without the rest of the commands."""

from scheduler.simulation.command import simulate_node

simulate_node(prog_name="simulate-node")
