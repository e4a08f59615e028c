"""The registry as a process, with a real Valkey that is killed, cut off and slow."""
