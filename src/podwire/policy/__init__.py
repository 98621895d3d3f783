"""What policies mean: objects in, contents of policy maps out. Pure: no I/O, no clock, no kernel."""
