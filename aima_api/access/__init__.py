"""Access: API keys and their scopes, rate limits, and the audit log."""
