"""What the owner keeps in memory: ready windows, leases, waiters, locks."""
