"""Log streams of API nodes: fan-out, history and merged streams."""
