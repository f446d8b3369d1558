"""What this worker relies on in other libraries; an upgrade that breaks one of these breaks the worker."""
