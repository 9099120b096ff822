"""What both sides agree on: words, messages and shared state. No HTTP, no Docker."""
