"""The HTTP API over the store: definitions, tenants and runs, for programs and for flows."""
