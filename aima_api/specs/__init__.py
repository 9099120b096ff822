"""Documents: desired state as strict YAML, read by the command line and applied by API nodes."""
