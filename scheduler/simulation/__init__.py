"""A simulated node: an OpenAI-like engine with slots, speed and faults, for trying out and for tests."""
