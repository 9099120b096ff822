"""Engine semantics independent of the transport: lifecycle, create body, parsing, errors, pulls and logs."""
