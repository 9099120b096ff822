"""The implementations of `aima_worker.runtime.ContainerRuntime`: Docker Engine, native processes, in-memory fake."""
