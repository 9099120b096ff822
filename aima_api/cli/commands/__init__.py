"""The commands of `aima`, grouped by the resources they act on."""
