"""The first run at a terminal: files, secrets and the webhook, then the doctor."""
