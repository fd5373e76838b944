"""What a newcomer runs: a bundled program and real recorded sessions, through the whole stack."""
