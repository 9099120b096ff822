"""The reconcile loop: desired state in Redis against the containers on this host."""
