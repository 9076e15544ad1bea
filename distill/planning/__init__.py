"""What a run would take, computed before it starts: memory by part, operations, hours, disk."""
