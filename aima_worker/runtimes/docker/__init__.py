"""Docker semantics shared by the SDK and the CLI runtime."""
