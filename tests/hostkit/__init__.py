"""What the host tests stand on: the hosts, their processes, raw clients, and the table."""
