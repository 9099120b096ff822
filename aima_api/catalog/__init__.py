"""The catalog: loading, overlays, selection and diagnostics."""
