"""`/score/batch`: many transactions in one request, as JSON, NDJSON or Arrow."""
