"""The gateway: one OpenAI-compatible endpoint that passes requests to the instances of all hosts."""
