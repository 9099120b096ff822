"""The runtimes behind `aima_worker.runtime.ContainerRuntime`, one module or family of modules each."""
