"""What both sides share: domain types, messages and state in Redis, without HTTP and Docker."""
