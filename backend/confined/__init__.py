"""Programs of ours that do a stranger's work in a process of its own: bounded, killable, without our secrets."""
