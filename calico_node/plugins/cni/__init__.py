"""The CNI plugin: a thin executable, and the server in the agent that does its work."""
