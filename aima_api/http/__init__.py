"""HTTP middleware and formats: authentication, problem documents, schemas, idempotency, metrics and SSE."""
