"""The federation's server: hands out releases and jobs, validates replies, keeps the result ledger."""
